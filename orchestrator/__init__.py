"""Fleets: nodes and links as real processes, load on them, and what came of it."""
