"""A whole model that lies in an ONNX file, as a torch module with a submodule for each node, named by its tensor."""
