"""Training: images to checkpoint. The only package under `edge` that imports torch."""
