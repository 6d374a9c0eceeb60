"""The origin of a model: its name, source, commit, and the files of a checkpoint."""
