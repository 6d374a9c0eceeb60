"""Where the configs and preprocessors of an ONNX file are: beside it, in it, in the cache, in a mirror, on the Hub."""
