"""Export a trained model as a folder for Hugging Face transformers, with an unchanged copy of
`modeling_nano_hindi.py`, or for ONNX Runtime."""
