"""What a model is: a name, a source, a commit, and the files of a checkpoint."""
