"""nano_hindi: train a small Hindi GPT from scratch on hardware you own."""
