"""From which module of the PyTorch model each node of a graph came, and writing it into the file.

The rooms in order: `tree` (the modules), `scopes` (names to modules), `assign` (nodes to modules), `rewritten` (across
passes that rewrite the graph), `tags` (into the file and out of it), `summary` (what a module costs).
"""
