"""Moves: match items with renamed images by content, and find items whose images are gone.

Plans only; sync.py reads the files and writes the gallery.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from bitgaze.encoding.images import printable
from bitgaze.gallery.items import FileState
from bitgaze.gallery.store import Store
from bitgaze.gallery.sync.folders import State


class SyncedItem(NamedTuple):
    """An item that sync made, as it was in the gallery when the sync started."""

    key: str
    file: FileState


@dataclass
class Plan:
    """The changes that require no encoding.

    Attributes:
        old_paths: path of each moved image to its old path.
        moves: (key, new key, new file) of each moved item, for `Store.move`.
        removed: old path to key, for items whose image no longer exists.
        refused: paths of moved images whose new keys other items have.
    """

    old_paths: dict[str, str] = field(default_factory=dict)
    moves: list[tuple[str, str, FileState | None]] = field(default_factory=list)
    removed: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)

    def keep(self, paths: Iterable[str]) -> None:
        """Do not remove the items of these missing images."""
        for path in paths:
            if path not in self.old_paths:  # or the image that moved there could not have an item
                self.removed.pop(path, None)


def plan_moves(
    store: Store,
    unmatched: dict[str, SyncedItem],
    states: Mapping[str, State],
    files: Mapping[str, FileState],
) -> Plan:
    """Find the file that now holds the image of each unmatched item.

    Args:
        store: the gallery's file; inside `reading` or `writing`.
        unmatched: old path to item, for files that are missing or hold another image. Among items
            with equal images, the first is matched first.
        states: state of every image file, by path.
        files: every file that may hold one of their images, by path.
    """
    # Items that another process has changed since are already up to date.
    unmatched = {path: old for path, old in unmatched.items() if is_current(store, path, old)}
    by_content: dict[bytes, list[str]] = {}
    for path, old in reversed(unmatched.items()):
        by_content.setdefault(old.file.content, []).append(path)
    plan = Plan()
    new_keys: set[str] = set()
    for path, file in files.items():
        digest = file.content
        is_done = path not in unmatched and store.item_of_file(file.path) is not None
        if is_done or not by_content.get(digest):
            continue
        old_path = by_content[digest][-1]
        old_key = unmatched[old_path].key
        # A key that the user has chosen stays.
        key = printable(path) if old_key == printable(old_path) else old_key
        slot = store.find(key)
        is_taken = slot is not None and store.item(slot).path not in (path, old_path)
        if is_taken or key in new_keys:
            plan.refused.add(path)
            continue
        plan.old_paths[path] = by_content[digest].pop()
        new_keys.add(key)
        plan.moves.append((old_key, key, file))
    # Their items wait until the key is free.
    refused = {files[path].content for path in plan.refused}
    moved = set(plan.old_paths.values())
    for path, old in unmatched.items():
        is_gone = path not in states and old.file.content not in refused
        if path not in moved and (is_gone or path in plan.old_paths):
            plan.removed[path] = old.key
    return plan


def is_current(store: Store, path: str, synced: SyncedItem) -> bool:
    """Whether the gallery still holds this item of a file unchanged."""
    item = store.item_of_file(os.fsencode(path))
    return item is not None and (item.key, item.file) == synced
