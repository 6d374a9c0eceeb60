"""Finds the PyTorch module of each node in a graph, and writes it into the file as tags.

The modules in order: `tree` (the modules of a model), `scopes` (names to modules), `assign` (nodes to modules),
`rewritten` (nodes after passes that rewrite the graph), `tags` (reading and writing), `summary` (the cost of a
module).
"""
