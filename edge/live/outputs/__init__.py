"""Outputs of live classification: each is one small class behind a queue of its own."""
