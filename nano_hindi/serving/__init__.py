"""Serve a model: a scheduler that owns it, OpenAI's API in front of that, and a page that uses the
API."""
