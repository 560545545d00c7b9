"""Attention hashing: a network whose spatial attention is guided by a classification task.

Training side only; never installed. The scripts beside this package are its commands.
"""

import os

# Read when onnxruntime is imported; later is too late.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
