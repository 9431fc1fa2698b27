"""Training: recipes, optimiser, loop, checkpoints, evaluation."""
