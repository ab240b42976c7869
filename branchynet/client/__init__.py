"""Call a node from Python: `client` asks an edge, blocking or for asyncio; `cloud` and `open_inference` ask any node in
the same way; `retrying` brings a request to its answer; `find_node` finds out what listens at an address.

May import rpc and serving; never torch."""
