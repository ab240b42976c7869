"""From ONNX back to torch: a graph as a module that gradients pass through. May import errors only."""
