"""Files of torch.save: written atomically, and read without executing any code in them."""

from pathlib import Path
from typing import Any

import torch


def save(state: dict[str, Any], path: Path) -> None:
    """Write a state to a file; if killed, the old file or the new one remains, complete."""
    draft = path.with_name(path.name + ".part")
    torch.save(state, draft)
    draft.replace(path)


def load(path: Path, what: str) -> dict[str, Any]:
    """Read what `save` wrote.

    Args:
        path: of the file.
        what: the kind of file, for the error.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not of this kind.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises zip, pickle and runtime errors of many types
        raise ValueError(f"{path}: not a {what} of train.py ({error})") from error
    return state if isinstance(state, dict) else {}


def check_entries(state: dict[str, Any], entries: dict[str, type], path: Path, what: str) -> None:
    """Check that a state has all entries, each of its type.

    Raises:
        ValueError: names the entry.
    """
    for name, kind in entries.items():
        if not isinstance(state.get(name), kind):
            raise ValueError(f"{path}: not a {what} of train.py (it has no {name})")


def load_weights(module: torch.nn.Module, weights: dict[str, Any], path: Path, of: str) -> None:
    """Load weights into a module; `of` names the part of the file that describes the module.

    Raises:
        ValueError: the weights do not fit the module.
    """
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: its weights do not fit its {of}: {error}") from error
