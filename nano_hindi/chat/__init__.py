"""Conversations: from files and the hub, as text and ids in the chat template, and as batches."""
