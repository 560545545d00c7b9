"""Attention hashing: a network whose spatial attention is guided by a classification task.

The training side, which is never installed. The scripts next to this package are its commands.
"""

import os
import sys
from pathlib import Path
from types import TracebackType

# onnxruntime reads this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def _say_what_is_missing(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Report a package that is not installed in one line, whichever module requires it."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    name = (missing or "").partition(".")[0]
    if name and name != __name__:
        print(
            f"{Path(sys.argv[0]).name}: the package {name} is not installed: pip install -e . -r "
            "export/requirements.txt",
            file=sys.stderr,
        )
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _say_what_is_missing
