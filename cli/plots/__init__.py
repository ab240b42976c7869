"""Figures drawn with matplotlib: values in, a file out."""
