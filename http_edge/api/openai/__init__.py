"""OpenAI's Videos, Images, Models and Files APIs."""
