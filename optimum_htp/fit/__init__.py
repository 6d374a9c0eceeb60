"""Whether a graph can be an export of a model, checked without its weights."""
