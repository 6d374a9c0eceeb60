"""What happens to files, caches and loads when everything around them fails: `python -m benchmarks.reliability`."""
