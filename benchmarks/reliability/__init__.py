"""What happens to files, caches and loads under faults: `python -m benchmarks.reliability`."""
