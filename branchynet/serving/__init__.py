"""What both nodes share besides the protocol: predictions, checks of inputs, the worker thread, settings and logs.

May import artifact and network; knows no gRPC."""
