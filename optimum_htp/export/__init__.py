"""Exports models to ONNX files with a record: the model to export, the engines, and the output files."""
