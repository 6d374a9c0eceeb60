"""Two models side by side, module by module: structure, weights, and the values that leave each on the same inputs."""
