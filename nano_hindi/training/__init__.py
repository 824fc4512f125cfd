"""A training run: its setup, the loop over its updates, its memory, and its record."""
