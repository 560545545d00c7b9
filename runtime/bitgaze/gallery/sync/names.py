"""Names: one folder can be reached by several paths; the gallery keeps the one it knows.

Resolves links; opens no image.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from bitgaze.gallery.sync.folders import Known, absolute


def known_names(
    gallery: Path, roots: Sequence[str], paths: Collection[str]
) -> tuple[list[str], Known]:
    """The names under which a gallery knows folders and images.

    Args:
        gallery: the gallery's file.
        roots: the folders to scan, from `find_roots`.
        paths: of the images of all items.

    Returns:
        The roots, each under the name that the gallery already has items from, if it has none from
        the name given; and what else the scan is to know.
    """
    prefixes = tuple(os.path.join(root, "") for root in roots)  # noqa: PTH118
    files = (f"{gallery}{suffix}" for suffix in ("", "-wal", "-shm", "-journal"))
    own = {os.path.realpath(file) for file in files if os.path.exists(file)}  # noqa: PTH110
    known = Known(own=own, items=paths)
    counts = Counter[str]()
    for path in paths:
        folder = path.rpartition(os.sep)[0]
        if path.startswith(prefixes):
            known.folders.add(folder)
        else:
            known.paths.add(path)
            counts[folder] += 1
    cache: dict[str, str] = {}
    reals = {folder: real_path(folder, cache) for folder in counts}
    # Among several names of a folder, the one with the most items.
    known.names = {reals[folder]: folder for folder, _ in reversed(counts.most_common())}
    renamed: list[str] = []
    for root, prefix in zip(roots, prefixes, strict=True):
        name = root
        if known.names and not any(os.path.join(f, "").startswith(prefix) for f in known.folders):  # noqa: PTH118
            name = _other_name(root, known.names)
        if name not in renamed:
            renamed.append(name)
    new_prefixes = tuple(os.path.join(root, "") for root in renamed)  # noqa: PTH118
    if renamed != list(roots):  # what is below the new names is not elsewhere any more
        for real, folder in list(known.names.items()):
            if os.path.join(folder, "").startswith(new_prefixes):  # noqa: PTH118
                known.folders.add(folder)
                del known.names[real]
        known.paths = {path for path in known.paths if not path.startswith(new_prefixes)}
    return renamed, known


def _other_name(root: str, names: dict[str, str]) -> str:
    """The name of a folder that the gallery has items from; the given name if there is none."""
    real = os.path.realpath(root)
    prefix = os.path.join(real, "")  # noqa: PTH118
    for real_folder, folder in names.items():
        below = real_folder[len(real) :]
        is_below = real_folder == real or real_folder.startswith(prefix)
        if is_below and folder.endswith(below):
            name = folder.removesuffix(below)
            if name and os.path.realpath(name) == real:
                return name
    return root


def real_path(folder: str, cache: dict[str, str]) -> str:
    """As `os.path.realpath`, with one look at each folder."""
    if folder not in cache:
        parent, name = os.path.split(folder)
        if not name or os.path.islink(folder):  # noqa: PTH114
            cache[folder] = os.path.realpath(folder)
        else:
            cache[folder] = os.path.join(real_path(parent, cache), name)  # noqa: PTH118
    return cache[folder]


def below(name: str, paths: Iterable[str]) -> list[str]:
    """The images in a folder, or the image, of this name; by any of its names."""
    target = absolute(name)
    prefixes = tuple({os.path.join(target, ""), os.path.join(os.path.realpath(target), "")})  # noqa: PTH118
    cache: dict[str, str] = {}
    found: list[str] = []
    for path in paths:
        folder, _, file = path.rpartition(os.sep)
        real = os.path.join(real_path(folder or os.sep, cache), file)  # noqa: PTH118
        if any(os.path.join(p, "").startswith(prefixes) for p in (path, real)):  # noqa: PTH118
            found.append(path)
    return found
