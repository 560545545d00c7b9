"""Guard: keep items whose images seem to be on a disk that is away, rather than deleted.

Looks at folders that have lost images; changes nothing on the disk.
"""

import os
from collections import Counter
from collections.abc import Collection, Container, Iterable

from bitgaze.encoding.images import printable
from bitgaze.errors import GalleryError
from bitgaze.gallery.sync.moves import Plan

# Deleting up to this many images at once is believed.
MAX_DELETED = 20


def keep_unsure(
    roots: Iterable[str], states: Collection[str], synced: Iterable[str], plan: Plan
) -> dict[str, int]:
    """Take out of a plan the removals that are better confirmed; `Gallery.sync` has the rules.

    Args:
        roots: the folders that are synced.
        states: the paths of all images that exist.
        synced: the paths of the items' images.
        plan: its `removed` changes.

    Returns:
        Folder to number of items kept.

    Raises:
        GalleryError: every root has lost items and holds no image.
    """
    lost = [path for path in plan.removed if path not in states and path not in plan.old_paths]
    if not lost:
        return {}
    prefixes = sorted((os.path.join(root, "") for root in roots), key=len, reverse=True)  # noqa: PTH118
    holds_images = _folders_above(states)
    _check_not_emptied(roots, holds_images, lost)
    held, lost_below = Counter[str](), Counter[str]()  # held: by root
    for path in synced:
        if path in states:
            held[_root(path, prefixes)] += 1
    for path, old_path in plan.old_paths.items():  # renamed inside a root
        root = _root(path, prefixes)
        held[root] += _root(old_path, prefixes) == root
    for path in lost:
        lost_below.update(_folders(path, prefixes))
    is_unsure: dict[str, bool] = {}
    kept = Counter[str]()
    still_lost: dict[str, list[str]] = {}
    for path in lost:
        folders = _folders(path, prefixes)
        root = folders[0]
        for folder in folders:
            if folder not in is_unsure:
                is_unsure[folder] = folder not in holds_images and (
                    folder == root
                    or lost_below[folder] > MAX_DELETED
                    or _is_on_other_device(folder)
                    or _is_empty(folder)
                )
            if is_unsure[folder]:
                kept[folder] += 1
                plan.keep([path])
                break
        else:
            still_lost.setdefault(root, []).append(path)
    for root, paths in still_lost.items():
        if len(paths) > max(MAX_DELETED, (held[root] + lost_below[root]) / 2):
            kept[root] += len(paths)
            plan.keep(paths)
    return dict(kept)


def _check_not_emptied(
    roots: Iterable[str], holds_images: Container[str], lost: Iterable[str]
) -> None:
    counts: dict[str, int] = {}
    for root in roots:
        prefix = os.path.join(root, "")  # noqa: PTH118
        counts[root] = sum(path.startswith(prefix) for path in lost)
        if root in holds_images or not counts[root]:
            return
    root, count = next(iter(counts.items()))
    raise GalleryError(
        f"{printable(root)}: no images found, but the gallery holds {count} from this folder; "
        "nothing was removed (is the disk mounted?); to remove them, use allow_empty=True or "
        "--allow-empty"
    )


def _folders_above(paths: Iterable[str]) -> set[str]:
    """All folders that contain one of these paths, at any depth."""
    folders: set[str] = set()
    for folder in {os.path.dirname(path) for path in paths}:  # noqa: PTH120
        while folder not in folders:
            folders.add(folder)
            folder = os.path.dirname(folder)  # noqa: PTH120, PLW2901
    return folders


def _root(path: str, prefixes: Iterable[str]) -> str:
    """The innermost synced folder that contains an image."""
    prefix = next(prefix for prefix in prefixes if path.startswith(prefix))
    return prefix.rstrip(os.sep) or os.sep


def _folders(path: str, prefixes: Iterable[str]) -> list[str]:
    """The folders that contain an image, from the innermost synced one to its own."""
    root = _root(path, prefixes)
    folders = [root]
    end = path.find(os.sep, len(os.path.join(root, "")))  # noqa: PTH118
    while end >= 0:
        folders.append(path[:end])
        end = path.find(os.sep, end + 1)
    return folders


def _is_on_other_device(folder: str) -> bool:
    """Whether a folder is on another device than the one that contains it."""
    try:
        return _device(folder) != _device(os.path.dirname(folder))  # noqa: PTH120
    except OSError:  # deleted, if the folder that contains it is not unsure too
        return False


def _device(folder: str) -> int:
    return os.stat(folder).st_dev  # noqa: PTH116


def _is_empty(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return False
    except OSError:  # whatever it holds is unknown
        return True
