"""Which items go where their images are now, and which have lost theirs.

Knows items, paths and digests of files. Neither reads files nor writes (sync.py does).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from bitgaze.encoding.images import printable
from bitgaze.gallery.items import FileState
from bitgaze.gallery.store import Store
from bitgaze.gallery.sync.folders import State


class Known(NamedTuple):
    """An item that sync made, as the gallery held it when the folders were scanned."""

    key: str
    file: FileState


@dataclass
class Plan:
    """What is to be done without encoding.

    Attributes:
        came_from: path to the path where its image was before.
        moves: as `Gallery.move` takes them, of all in `came_from`.
        removed: path to key, of items whose image is nowhere any more.
        refused: paths whose images have come from elsewhere, but whose keys other items have.
    """

    came_from: dict[str, str] = field(default_factory=dict)
    moves: list[tuple[str, str, FileState | None]] = field(default_factory=list)
    removed: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)


def plan_moves(
    store: Store,
    unmatched: dict[str, Known],
    states: Mapping[str, State],
    digests: Mapping[str, bytes],
) -> Plan:
    """Find for each unmatched item the file that holds its image now.

    Args:
        store: the gallery's file; inside `reading` or `writing`.
        unmatched: old path to item, of the files that are gone, or hold something else. Of equal
            images, the first ones find their file first.
        states: of all files, by path.
        digests: path to digest, of every file that may hold one of their images.
    """
    # An item that another process has changed since is in line with its file already.
    unmatched = {path: old for path, old in unmatched.items() if is_held(store, path, old)}
    by_content: dict[bytes, list[str]] = {}
    for path, old in reversed(unmatched.items()):
        by_content.setdefault(old.file.content, []).append(path)
    plan = Plan()
    new_keys: set[str] = set()
    for path, digest in digests.items():
        is_done = path not in unmatched and store.item_of_file(os.fsencode(path)) is not None
        if is_done or not by_content.get(digest):
            continue
        old_path = by_content[digest][-1]
        old_key = unmatched[old_path].key
        # A key of one's own stays.
        key = printable(path) if old_key == printable(old_path) else old_key
        slot = store.find(key)
        is_taken = slot is not None and store.item(slot).path not in (path, old_path)
        if is_taken or key in new_keys:
            plan.refused.add(path)
            continue
        plan.came_from[path] = by_content[digest].pop()
        new_keys.add(key)
        file = FileState(os.fsencode(path), *states[path], digest)
        plan.moves.append((old_key, key, file))
    stay = {digests[path] for path in plan.refused}  # until the new keys are free
    moved = set(plan.came_from.values())
    for path, old in unmatched.items():
        is_gone = path not in states and old.file.content not in stay
        if path not in moved and (is_gone or path in plan.came_from):
            plan.removed[path] = old.key
    return plan


def is_held(store: Store, path: str, known: Known) -> bool:
    """Whether the item of this file is still what it was."""
    item = store.item_of_file(os.fsencode(path))
    return item is not None and (item.key, item.file) == known
