"""Text from a trained model: loading it, the settings, whole characters as they come, and a chat."""
