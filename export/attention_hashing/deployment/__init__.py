"""Model files for devices: ONNX, reduced precision, and onnxruntime's own format."""
