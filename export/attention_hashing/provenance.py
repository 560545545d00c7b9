"""The commit of this project that a figure or a file was made with."""

import subprocess
from pathlib import Path


def commit() -> str | None:
    """Hash of the commit, plus -dirty if files differ from it; None outside a git checkout."""
    try:
        describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(
            describe, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:  # git is not installed
        return None
    return done.stdout.strip() or None
