"""The Open Inference Protocol (KServe v2) for both nodes: `protos/open_inference.proto`.

service     the methods, and the two names they are served under
tensors     messages to arrays and back
counters    what was served, for ModelStatistics
values      what a node must offer (`Model`) and what passes between it and the service; knows no protobuf
"""
