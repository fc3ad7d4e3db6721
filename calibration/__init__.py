"""Fitting to recorded scores: thresholds and temperatures; and the choice of INT8 calibration samples."""
