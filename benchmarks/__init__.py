"""Comparisons and reports, composed of the pipeline's stages."""
