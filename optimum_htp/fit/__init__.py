"""Whether a graph can be an export of a model, told without its weights."""
