"""Evaluate how well a model predicts texts: the command, the losses per token, and the report."""
