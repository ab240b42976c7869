"""An emulated link between two real nodes: rate, delay, jitter, loss, and recorded traces.

Standard library and numpy; may import branchynet.errors and the file readers of branchynet.data only."""
