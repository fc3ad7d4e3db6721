"""What the CUDA runtime itself costs and saves: chains whose segments take a time that is set, on a real GPU."""
