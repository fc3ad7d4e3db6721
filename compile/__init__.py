"""Compilation: checkpoint to bundle."""
