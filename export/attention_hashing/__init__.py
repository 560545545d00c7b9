"""Attention hashing: a network whose spatial attention is guided by a classification task.

The training side, which is never installed. The scripts next to this package are its commands.
"""

import os

# onnxruntime reads this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
