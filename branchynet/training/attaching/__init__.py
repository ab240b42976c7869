"""Exits learn on a model that came trained: its features computed once, or trunk and exits together."""
