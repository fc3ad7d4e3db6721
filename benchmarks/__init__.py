"""Benchmarks and reports that run the commands from training to inference."""
