"""The pipelines of transformers, with the same options and results."""
