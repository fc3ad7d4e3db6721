"""Sources of frames, and preprocessing."""
