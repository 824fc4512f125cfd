"""Evaluate a model: the command, the losses per token and their report, files of minimal pairs, and
questions to a chat model."""
