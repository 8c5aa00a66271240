"""The demo model: its weights, the world it draws, and what makes and judges it."""
