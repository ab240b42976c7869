"""The layers of our own networks, in torch, and their names: `branchynet.models.architectures` builds one.

May import network and errors; knows no artifact and no data."""
