"""Which samples ranges are measured on, and what is fitted to recorded scores. NumPy and files only."""
