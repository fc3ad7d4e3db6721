"""Frames to predictions: classifier, slots, pipeline, recording."""
