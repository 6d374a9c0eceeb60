"""Compares the weights of a file with the tensors of a commit; used by `modules.prove`."""
