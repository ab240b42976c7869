"""How long stages, codecs and messages take: asked of running nodes, or of nodes started for it.

May import nodes and load."""
