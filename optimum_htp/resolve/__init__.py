"""Finds the configs and preprocessors of an ONNX file: next to it, in it, in the cache, on a mirror, on the Hub."""
