"""A trained network on disk: weights or graphs, the manifest, and what was measured and chosen for it.

May import models, network, codecs, exits, placement and data; knows no gRPC and no training."""
