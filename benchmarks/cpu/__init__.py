"""Bundles on a CPU: int8 in integers on OpenVINO against ONNX Runtime, with and without early exits."""
