"""One module per pipeline of transformers, with the same options and results."""
