"""The network once more, for transformers: `modeling_nano_hindi.py` is copied as it is into every folder that `nano_hindi.export` writes."""
