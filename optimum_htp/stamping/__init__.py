"""Writes records into ONNX files, checks them, and removes them."""
