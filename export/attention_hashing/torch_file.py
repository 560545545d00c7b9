"""Files of torch.save: written whole or not at all, and read as data alone."""

from pathlib import Path
from typing import Any

import torch


def save(state: dict[str, Any], path: Path) -> None:
    """Put a state in a file; a kill leaves the old one or the new one, whole."""
    draft = path.with_name(path.name + ".part")
    torch.save(state, draft)
    draft.replace(path)


def load(path: Path, what: str) -> dict[str, Any]:
    """Read what `save` wrote.

    Args:
        path: of the file.
        what: it should be, for the error.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not what it should be.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises zip, pickle and runtime errors of many classes
        raise ValueError(f"{path}: not a {what} of train.py ({error})") from error
    return state if isinstance(state, dict) else {}


def check_entries(state: dict[str, Any], entries: dict[str, type], path: Path, what: str) -> None:
    """Refuse a state without one of the entries, or with one of another type.

    Raises:
        ValueError: names the entry.
    """
    for name, kind in entries.items():
        if not isinstance(state.get(name), kind):
            raise ValueError(f"{path}: not a {what} of train.py (it has no {name})")


def load_weights(module: torch.nn.Module, weights: dict[str, Any], path: Path, of: str) -> None:
    """Put weights into a module; `of` names what in the file describes the module.

    Raises:
        ValueError: weights of another module.
    """
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: its weights do not fit its {of}: {error}") from error
