"""Nodes and links that run: as processes here, as Ray actors, as containers, or started by somebody else.

May import the nodes' settings and simulations.link; sends no requests."""
