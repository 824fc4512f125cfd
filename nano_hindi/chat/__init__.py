"""Conversations: their text and ids."""
