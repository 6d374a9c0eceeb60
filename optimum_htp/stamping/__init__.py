"""Writing records into ONNX files, reading back whether they hold, and taking them out again."""
