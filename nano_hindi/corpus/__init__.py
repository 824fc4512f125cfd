"""Hindi text on its way to token files: documents, the hub, cleaning, tokenizing, the prepared data
and a look at it."""
