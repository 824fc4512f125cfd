"""Export a trained model as a folder for Hugging Face transformers. `modeling_nano_hindi.py` is
copied there unchanged."""
