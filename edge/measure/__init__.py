"""Latency of classifiers on this machine."""
