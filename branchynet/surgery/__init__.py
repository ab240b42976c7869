"""Exits on any `torch.nn.Module`: where it can be cut, and the same layers as a list of stages.

May import models and network; the model's own code stays as it is."""
