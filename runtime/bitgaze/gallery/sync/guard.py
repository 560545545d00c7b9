"""Guard: keep items whose images seem to be on a disk that is away, rather than deleted.

Looks at folders that have lost images; changes nothing on the disk.
"""

import os
from collections import Counter
from collections.abc import Container, Iterable

from bitgaze.gallery.sync.moves import Plan

# Deleting up to this many images at once is believed.
MAX_DELETED = 20


def keep_unsure(
    roots: Iterable[str], states: Container[str], synced: Iterable[str], plan: Plan
) -> dict[str, int]:
    """Take out of a plan the removals that are better confirmed; `Gallery.sync` has the rules.

    Args:
        roots: the folders that are synced.
        states: the paths of all images that exist.
        synced: the paths of the items' images.
        plan: its `removed` changes.

    Returns:
        Folder to number of items kept.
    """
    lost = [path for path in plan.removed if path not in states and path not in plan.old_paths]
    if not lost:
        return {}
    prefixes = sorted((os.path.join(root, "") for root in roots), key=len, reverse=True)  # noqa: PTH118
    held_below, lost_below = Counter[str](), Counter[str]()
    for path in synced:
        if path in states:
            held_below.update(_folders(path, prefixes))
    for path, old_path in plan.old_paths.items():  # renamed inside a folder
        held_below.update({*_folders(path, prefixes)}.intersection(_folders(old_path, prefixes)))
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
                is_unsure[folder] = not held_below[folder] and (
                    _is_on_other_device(folder)
                    or (folder != root and (lost_below[folder] > MAX_DELETED or _is_empty(folder)))
                )
            if is_unsure[folder]:
                kept[folder] += 1
                plan.keep([path])
                break
        else:
            still_lost.setdefault(root, []).append(path)
    for root, paths in still_lost.items():
        if len(paths) > max(MAX_DELETED, (held_below[root] + lost_below[root]) / 2):
            kept[root] += len(paths)
            plan.keep(paths)
    return dict(kept)


def _folders(path: str, prefixes: Iterable[str]) -> list[str]:
    """The folders that contain an image, from the innermost synced one to its own."""
    prefix = next(prefix for prefix in prefixes if path.startswith(prefix))
    folders = [prefix.rstrip(os.sep) or os.sep]
    end = path.find(os.sep, len(prefix))
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
