"""Images to checkpoint: the only place under `edge` that imports torch."""
