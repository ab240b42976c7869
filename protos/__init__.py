"""The wire: `split_inference.proto`, `open_inference.proto` and the code generated from it by `make protos`.

Read the `.proto` files; they are the documentation of the protocol for clients of any language.
"""
