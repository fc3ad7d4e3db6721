"""Early-exit image classification on embedded NVIDIA GPUs: what runs on the device."""
