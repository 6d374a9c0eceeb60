"""Batches: exports many models in parallel, on this machine or on a Dask cluster."""
