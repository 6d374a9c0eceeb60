"""Generates inputs for a file, and runs it."""
