"""The answers of the tasks: a module for each pipeline of transformers, with its options and its results."""
