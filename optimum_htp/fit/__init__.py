"""Checks whether a graph can be an export of a model, without the model's weights."""
