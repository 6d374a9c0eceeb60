"""From a model to ONNX files that know where they came from: what is exported, by whom, and how it is published."""
