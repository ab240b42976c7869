"""A network as a list of stages, on an engine: torch for training, ONNX Runtime for serving.

May import errors and data (the cache folder); knows no architecture and no file format of ours."""
