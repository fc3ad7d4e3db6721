"""Growth of cost: exits, pixels, threads, cameras, and nodes of a Ray cluster."""
