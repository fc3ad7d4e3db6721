"""Every CUDA call of the project."""
