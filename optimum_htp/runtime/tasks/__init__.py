"""The pipelines of transformers, with the same options and results. `Model.__call__` lists their errors."""
