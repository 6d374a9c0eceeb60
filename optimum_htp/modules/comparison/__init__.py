"""Compares two models module by module: structure, weights, and output values on the same inputs."""
