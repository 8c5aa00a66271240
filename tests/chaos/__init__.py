"""The chaos soak: a whole service of real processes under load, while everything that can die, hang, be cut off or fill up does."""
