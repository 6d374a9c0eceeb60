"""Holding the weights of a file against the tensors of a commit; `modules.prove` puts it together."""
