"""Scripts that download text and tokenize it.

Their output is written to this folder too; git ignores it.
"""
