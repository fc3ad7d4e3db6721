"""Comparisons and reports, composed of what the pipeline's stages measure."""
