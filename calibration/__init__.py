"""Thresholds and temperatures fitted to recorded scores, and the selection of INT8 calibration samples."""
