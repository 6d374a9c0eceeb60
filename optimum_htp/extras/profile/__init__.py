"""Times of the modules of a file."""
