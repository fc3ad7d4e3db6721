"""Bulk work on Ray: large sets of images classified on one machine or a cluster."""

from edge.distributed.predictor import BundlePredictor

__all__ = ["BundlePredictor"]
