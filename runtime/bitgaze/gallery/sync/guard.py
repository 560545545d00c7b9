"""Guard: keep items whose images seem to be on a disk that is away, rather than deleted.

Looks at folders that have lost images; changes nothing on the disk.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from bitgaze.encoding.images import printable
from bitgaze.errors import GalleryError
from bitgaze.gallery.sync.moves import Plan

# Deleting up to this many images at once is believed.
MAX_DELETED = 20


def keep_unsure(
    roots: Iterable[str], states: Collection[str], synced: Collection[str], plan: Plan
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
    held_in = Counter(os.path.dirname(path) for path in states)  # noqa: PTH120
    former_in = Counter(os.path.dirname(path) for path in synced if path in states)  # noqa: PTH120
    held, former = _summed(held_in, prefixes), _summed(former_in, prefixes)
    for path, old_path in plan.old_paths.items():  # renamed inside a folder
        if path not in synced:
            former.update(f for f in _folders(path, prefixes) if _is_below(old_path, f))
    _check_not_emptied(roots, held, lost)
    lost_below = Counter[str]()
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
                # New images only may have been put there while no disk was mounted.
                is_unsure[folder] = (
                    not former[folder] and held[folder] < lost_below[folder]
                    if held[folder]
                    else folder == root
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
        if len(paths) > max(MAX_DELETED, (former[root] + lost_below[root]) / 2):
            kept[root] += len(paths)
            plan.keep(paths)
    return dict(kept)


def _check_not_emptied(roots: Iterable[str], held: Mapping[str, int], lost: Iterable[str]) -> None:
    counts: dict[str, int] = {}
    for root in roots:
        prefix = os.path.join(root, "")  # noqa: PTH118
        counts[root] = sum(path.startswith(prefix) for path in lost)
        if held[root] or not counts[root]:
            return
    root, count = next(iter(counts.items()))
    raise GalleryError(
        f"{printable(root)}: no images found, but the gallery holds {count} from this folder; "
        "nothing was removed (is the disk mounted?); to remove them, use allow_empty=True or "
        "--allow-empty"
    )


def _summed(counts: Mapping[str, int], prefixes: Iterable[str]) -> Counter[str]:
    """Number of images below each folder, given those directly in each."""
    below = Counter[str]()
    for folder, count in counts.items():
        for one in _folders(os.path.join(folder, ""), prefixes):  # noqa: PTH118
            below[one] += count
    return below


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(os.path.join(folder, ""))  # noqa: PTH118


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
