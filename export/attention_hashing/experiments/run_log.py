"""Finished measurements in a file, so that an interrupted run can be resumed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attention_hashing.methods import present_name

Row = dict[str, Any]
_ARGUMENTS = "arguments.json"


def check_arguments(folder: Path, arguments: Row) -> None:
    """Store what the rows of a folder depend on, or check that it is unchanged.

    Args:
        folder: an existing one.
        arguments: JSON values by name. Names that the folder does not have yet are added.

    Raises:
        ValueError: the folder has another value for a name.
    """
    path = folder / _ARGUMENTS
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    # The former name.
    known = {name.replace("pictures of", "images of"): value for name, value in known.items()}
    other = [name for name, value in arguments.items() if known.get(name, value) != value]
    if other:
        what = ", ".join(f"{name} {known[name]} (now {arguments[name]})" for name in other)
        raise ValueError(
            f"{folder} contains a run with {what}; use the same to resume it, or another --out"
        )
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(known | arguments, indent=1) + "\n", "utf-8")
    draft.replace(path)


class Rows:
    """A file of JSON lines, which is only appended to. A truncated last line is dropped."""

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
        """The rows of one kind, oldest first."""
        return (row for row in self._rows if row["kind"] == kind)

    def add(self, rows: list[Row]) -> None:
        """Append rows."""
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        self._rows += rows


def _present(row: Row) -> Row:
    """A row with the present name of its method."""
    return row | {"method": present_name(row["method"])} if "method" in row else row
