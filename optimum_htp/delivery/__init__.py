"""Many models, and where they are to run: batches of exports, pushes to a Hub, folders that endpoints serve."""
