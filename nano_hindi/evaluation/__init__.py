"""How well a model predicts texts: the command, the losses of single tokens, and the report."""
