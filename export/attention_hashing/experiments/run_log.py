"""What is measured already, in a file beside the maps, so that a run which was stopped goes on.

Knows the file. Does not know what was measured.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attention_hashing.methods import present_name

Row = dict[str, Any]
_ARGUMENTS = "arguments.json"


def check_arguments(folder: Path, arguments: Row) -> None:
    """Keep what rows depend on in their folder, or see that it is still the same.

    Args:
        folder: an existing one.
        arguments: whatever JSON can hold, by name. Names that the folder has not yet are added.

    Raises:
        ValueError: the folder has another value.
    """
    path = folder / _ARGUMENTS
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    # As the names were written before.
    known = {name.replace("pictures of", "images of"): value for name, value in known.items()}
    other = [name for name, value in arguments.items() if known.get(name, value) != value]
    if other:
        what = ", ".join(f"{name} {known[name]} (now {arguments[name]})" for name in other)
        raise ValueError(
            f"{folder} holds a run with {what}; give the same to go on with it, or another --out"
        )
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(known | arguments, indent=1) + "\n", "utf-8")
    draft.replace(path)


class Rows:
    """A file of JSON lines that only grows. A line that a kill cut short is left out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[Row] = []
        if path.exists():
            content = path.read_bytes()
            end = content.rfind(b"\n") + 1
            self._rows = [_present(json.loads(line)) for line in content[:end].splitlines()]
            if end < len(content):
                os.truncate(path, end)

    def of(self, kind: str) -> Iterator[Row]:
        """Rows of one kind, oldest first."""
        return (row for row in self._rows if row["kind"] == kind)

    def add(self, rows: list[Row]) -> None:
        """Keep them."""
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        self._rows += rows


def _present(row: Row) -> Row:
    """A row with the name that its method has now."""
    return row | {"method": present_name(row["method"])} if "method" in row else row
