"""nano_hindi: train a small Hindi GPT from scratch on hardware you own."""

__version__ = "0.2.0"
