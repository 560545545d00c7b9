"""What a gallery remembers of its last sync: the folders, the patterns, and where its model is."""

import json
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitgaze.encoding.contract import DEFAULT_MODEL, read_model
from bitgaze.errors import GalleryCorrupt, ModelError
from bitgaze.gallery.info import seal_info, write_entry


@dataclass(frozen=True)
class Sources:
    """What a gallery was last synced with.

    Attributes:
        folders: absolute paths, as given; as in `os.fsdecode`.
        include: patterns.
        exclude: patterns.
        all_folders: whether system folders were included.
        synced_at: when the last sync ended, in seconds since 1970; to the minute.
        model: absolute path of the model's file; "" for the one that comes with bitgaze, or if the
            sync ran no other.
    """

    folders: tuple[str, ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    all_folders: bool
    synced_at: float
    model: str = ""


def read_sources(info: dict[str, Any], path: Path) -> Sources | None:
    """What a gallery with this info remembers; None if it was never synced.

    Args:
        info: as `info.read_info` returns it.
        path: the gallery's file, for messages.

    Raises:
        GalleryCorrupt: the entry is damaged.
    """
    text = info.get("sources")
    if text is None:
        return None
    try:
        values = json.loads(text)
        for name in ("folders", "include", "exclude"):
            is_list = isinstance(values[name], list)
            if not is_list or not all(isinstance(value, str) for value in values[name]):
                raise ValueError(f"{name} is {values[name]!r}")
            values[name] = tuple(values[name])
        if not isinstance(values["model"], str):
            raise ValueError(f"model is {values['model']!r}")
        values["synced_at"] = float(values["synced_at"])
        return Sources(**values)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise GalleryCorrupt(f"{path}: the sources are damaged: {error!r}") from error


def write_sources(db: sqlite3.Connection, sources: Sources | None) -> None:
    """Store what a gallery remembers; None for nothing."""
    if sources is None:
        db.execute("DELETE FROM info WHERE name = 'sources'")
    else:
        write_entry(db, "sources", json.dumps(asdict(sources)))
    seal_info(db)


def find_model(info: dict[str, Any], path: Path) -> Path:
    """The file of a gallery's model: beside the gallery, where it was, or the one of bitgaze.

    Args:
        info: as `info.read_info` returns it.
        path: the gallery's file.

    Returns:
        The first file that is this model; else the default one, for `info.check_model` to refuse.
    """
    sources = read_sources(info, path)
    if sources is not None and sources.model:
        stored = Path(sources.model)
        for file in (path.parent / stored.name, stored):
            try:
                if read_model(file).fingerprint == info["fingerprint"]:
                    return file
            except ModelError:  # missing, or something else by now
                continue
    return DEFAULT_MODEL
