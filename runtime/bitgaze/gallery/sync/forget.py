"""Forget: remove the items of folders, or of images that patterns match."""

import os
from collections.abc import Sequence
from dataclasses import replace

from bitgaze.gallery.store import Store
from bitgaze.gallery.sync.folders import absolute
from bitgaze.gallery.sync.names import below
from bitgaze.gallery.sync.patterns import PathPattern


def forget(store: Store, targets: Sequence[str | os.PathLike[str]], *, dry_run: bool) -> list[str]:
    """Remove items; see `Gallery.forget`.

    Args:
        store: the gallery's file.
        targets: folders, images or patterns.
        dry_run: only return the keys.
    """
    if not targets:
        raise ValueError("nothing to forget; pass at least one folder or pattern")
    with store.reading() if dry_run else store.writing():
        files = store.files((b"",))
        paths = {os.fsdecode(file.path): key for key, file in files.items()}
        forgotten: dict[str, None] = {}
        for target in targets:
            name = os.fspath(target)
            if not name.strip("/"):
                raise ValueError(f"{name!r}: nothing to forget; name a folder or a pattern")
            found = below(name, paths)
            if not found and any(character in name for character in "*?["):
                pattern = PathPattern(name)
                found = [path for path in paths if pattern.matches(path.replace(os.sep, "/"))]
            forgotten.update(dict.fromkeys(paths[path] for path in found))
        if not dry_run:
            for key in forgotten:
                store.delete(key)
            _forget_sources(store, targets)
    return list(forgotten)


def _forget_sources(store: Store, targets: Sequence[str | os.PathLike[str]]) -> None:
    """Drop folders from those that the next `bitgaze index` would repeat."""
    sources = store.sources
    if sources is None:
        return
    names = {absolute(target) for target in targets}
    folders = tuple(folder for folder in sources.folders if folder not in names)
    if folders != sources.folders:
        store.remember(replace(sources, folders=folders))
