"""The demo model: its weights and its card. What trains and judges it is in `scripts/demo_model/`."""
