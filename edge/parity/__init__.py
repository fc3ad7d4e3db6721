"""Comparison of a bundle's engines with a reference, exit by exit."""
