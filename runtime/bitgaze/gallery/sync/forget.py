"""Forget: remove the items of folders, or of images that patterns match."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from bitgaze.gallery.store import Store
from bitgaze.gallery.sync.names import real_path
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
            found = _below(name, paths)
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
    names = {os.path.abspath(os.path.expanduser(os.fspath(target))) for target in targets}  # noqa: PTH100, PTH111
    folders = tuple(folder for folder in sources.folders if folder not in names)
    if folders != sources.folders:
        store.remember(replace(sources, folders=folders))


def _below(name: str, paths: Iterable[str]) -> list[str]:
    """The images in a folder, or the image, of this name; by any of its names."""
    target = os.path.abspath(os.path.expanduser(name))  # noqa: PTH100, PTH111
    prefixes = tuple({os.path.join(target, ""), os.path.join(os.path.realpath(target), "")})  # noqa: PTH118
    cache: dict[str, str] = {}
    found: list[str] = []
    for path in paths:
        folder, _, file = path.rpartition(os.sep)
        real = os.path.join(real_path(folder or os.sep, cache), file)  # noqa: PTH118
        if any(os.path.join(p, "").startswith(prefixes) for p in (path, real)):  # noqa: PTH118
            found.append(path)
    return found
