"""Getting data: download.py writes a corpus, preprocess.py tokenizes it."""
