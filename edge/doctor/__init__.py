"""Capabilities of this machine, each problem with its remedy."""
