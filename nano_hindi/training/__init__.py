"""A training run: setup, the loop over its updates, memory, and metrics."""
