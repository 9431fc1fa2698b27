"""Checkpoints and graphs in the layouts of others, read safely and written back."""
