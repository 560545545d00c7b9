"""Sync: folders -> gallery, incrementally; only new, changed, renamed and missing images cost work.

Decides what to do, and in which order. folders.py finds the images, moves.py matches renamed ones,
ingest.py reads and encodes.
"""

import os
import time
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from bitgaze.encoding.encoder import Encoder
from bitgaze.encoding.formats import unread_format
from bitgaze.encoding.images import printable
from bitgaze.errors import GalleryError
from bitgaze.gallery.items import FileState
from bitgaze.gallery.remembered import Sources
from bitgaze.gallery.store import Store
from bitgaze.gallery.sync.folders import Scan, State, absolute, find_roots, is_gone, scan
from bitgaze.gallery.sync.guard import keep_unsure
from bitgaze.gallery.sync.ingest import MetadataOf, Progress, compare, ingest
from bitgaze.gallery.sync.moves import Plan, SyncedItem, plan_moves
from bitgaze.gallery.sync.names import below, known_names
from bitgaze.gallery.sync.patterns import PathFilter
from bitgaze.gallery.sync.report import KEY_IN_USE, SyncReport

# A sync that repeats the last one stores its time only after this many seconds: it takes a
# transaction.
_REMEMBERED_S = 60
_GONE = "no such folder, and no item is from it; `bitgaze forget` it if it will not come back"
_CHANGED = "changed while it was being listed; items of images that are gone wait for the next sync"


def sync(
    store: Store,
    encoder: Callable[[], Encoder],
    *folders: str | os.PathLike[str],
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    metadata: MetadataOf | None = None,
    dry_run: bool = False,
    allow_empty: bool | Iterable[str | os.PathLike[str]] = False,
    all_folders: bool = False,
    is_tolerant: bool = False,
    on_progress: Progress | None = None,
    model: str | None = None,
) -> SyncReport:
    """Make a gallery match the images below folders; see `Gallery.sync`.

    Args:
        store: the gallery's file.
        encoder: returns the gallery's model; called once there is an image to encode.
        folders: as for `Gallery.sync`, like all other arguments.
        include: patterns.
        exclude: patterns.
        metadata: returns a new image's metadata.
        dry_run: write nothing.
        allow_empty: remove the items that `keep_unsure` would keep, or those in some folders.
        all_folders: include system folders.
        is_tolerant: take JPEGs whose end is missing.
        on_progress: called with (done, total) images.
        model: path of the model to remember; None to keep what is remembered.
    """
    include, exclude = _patterns(include), _patterns(exclude)
    path_filter = PathFilter(include, exclude, all_folders=all_folders)
    items, roots, gone, found = _scanned(store, folders, path_filter)
    report = SyncReport(
        failed=found.failed,
        skipped=found.skipped,
        unread=found.others,
        system_folders=found.system_folders,
    )
    synced, report.excluded = _synced_items(items, roots, path_filter, found)
    todo = [
        path
        for path, state in found.states.items()
        if path not in synced or _state(synced[path].file) != state
    ]
    report.unchanged = len(found.states) - len(todo)
    plan = Plan()
    missing = [
        path
        for path in synced
        if path not in found.states
        and printable(path) not in report.failed
        and not path.startswith(tuple(found.unlisted))
    ]
    confirmed = _confirmed(allow_empty, roots, missing)
    # An image that was renamed during the scan may be where the scan had already been.
    arrivals = found.arrivals(path_filter) if missing else {}
    arrived_sizes = {size for sizes in arrivals.values() for size in sizes or ()}
    # Missing files first: of two equal images, the missing one is the one that was renamed.
    unmatched = {
        path: synced[path] for path in [*missing, *(path for path in todo if path in synced)]
    }
    if unmatched:
        sizes = {old.file.size for old in unmatched.values()}
        candidates = [path for path in todo if found.states[path][0] in sizes]
        touched, read = compare(store, candidates, synced, report, on_progress, dry_run=dry_run)
        unreadable = set(candidates).difference(touched, read)
        unmatched = {
            path: old
            for path, old in unmatched.items()
            if path not in touched and path not in unreadable
        }
        with store.reading() if dry_run else store.writing():
            plan, report.missing = _plan(
                store,
                roots,
                found.states,
                {path: synced[path] for path in missing},
                synced,
                unmatched,
                read,
                # What could not be read may be a missing image of its size.
                arrived_sizes.union(found.states[path][0] for path in unreadable),
                has_unknown_arrivals=None in arrivals.values(),
                confirmed=confirmed,
            )
            if not dry_run:
                for key in plan.removed.values():
                    store.delete(key)
                store.move(plan.moves)
        _report_plan(plan, report)
        settled = {*plan.old_paths.values(), *plan.removed}
        waiting_sizes = {synced[path].file.size for path in missing if path not in settled}
        for folder, arrived in arrivals.items():
            if waiting_sizes and (arrived is None or not waiting_sizes.isdisjoint(arrived)):
                report.failed[printable(folder)] = _CHANGED
        finished = plan.refused.union(plan.old_paths, touched, unreadable)
        unsure = _below(report.missing)
        todo = [path for path in todo if path not in finished]
        waiting = {path for path in todo if path not in synced and path.startswith(unsure)}
        todo = [path for path in todo if path not in waiting]
        report.waiting = len(waiting)
        report.missing = {printable(folder): count for folder, count in report.missing.items()}
    todo = [path for path in todo if not _is_unread(path, report)]
    settled = plan.removed.keys() | set(plan.old_paths.values())
    left_for_good = _left_for_good(gone, synced, settled, report)
    if dry_run:
        _predict_ingest(store, todo, synced, plan, report)
    else:
        ingest(store, encoder, todo, metadata, report, on_progress, is_tolerant=is_tolerant)
        names = [name for name in map(absolute, folders) if name not in left_for_good]
        _remember(store, names, include, exclude, all_folders, model)
    return report


def _is_unread(path: str, report: SyncReport) -> bool:
    """Whether what reads an image's format is not installed; if so, reports that."""
    with suppress(OSError):  # reading it will fail too
        format_name = unread_format(path)
        if format_name is not None:
            report.unread[printable(path)] = format_name
            return True
    return False


def _patterns(patterns: Iterable[str]) -> Iterable[str]:
    """As a tuple, to be read twice; a single string is left for `PathFilter` to refuse."""
    return patterns if isinstance(patterns, str) else tuple(patterns)


def _left_for_good(
    gone: Iterable[str], synced: Collection[str], settled: Collection[str], report: SyncReport
) -> set[str]:
    """Of the roots that are gone, those whose items have all moved or been removed.

    Reports those that had none, as nothing else does.
    """
    left: set[str] = set()
    for root in gone:
        paths = [path for path in synced if path.startswith(_below([root]))]
        if not paths:
            report.failed[printable(root)] = _GONE
        elif all(path in settled for path in paths):
            left.add(root)
    return left


def _remember(
    store: Store,
    folders: Iterable[str],
    include: Iterable[str],
    exclude: Iterable[str],
    all_folders: bool,
    model: str | None,
) -> None:
    names = tuple(dict.fromkeys(folders))
    with store.reading():
        before = store.sources
    if model is None:
        model = "" if before is None else before.model
    sources = Sources(names, tuple(include), tuple(exclude), all_folders, time.time(), model)
    if before is None or replace(sources, synced_at=before.synced_at) != before:
        with store.writing():
            store.remember(sources)
    elif sources.synced_at - before.synced_at > _REMEMBERED_S:
        # A gallery that is read-only or locked has been synced all the same: nothing had changed.
        with suppress(GalleryError), store.writing():
            store.remember(sources)


def _synced_items(
    items: Mapping[str, SyncedItem], roots: Iterable[str], path_filter: PathFilter, found: Scan
) -> tuple[dict[str, SyncedItem], int]:
    """The items of the folders' images, by path, and the number of items that are excluded.

    An item whose image is excluded and gone is not excluded: no sync would ever remove it.
    """
    synced: dict[str, SyncedItem] = {}
    excluded = 0
    # Paths are relative to the innermost folder.
    ordered = sorted(roots, key=len, reverse=True)
    prefixes = {os.path.join(root, ""): root for root in ordered}  # noqa: PTH118
    starts = tuple(prefixes)
    for path, item in items.items():
        if path in found.states:
            synced[path] = item
        elif path.startswith(starts):
            prefix, root = next((p, root) for p, root in prefixes.items() if path.startswith(p))
            relative = path[len(prefix) :].replace(os.sep, "/")
            is_excluded = not path_filter.accepts(relative) or found.ignore.hides(path, root)
            if is_excluded and not _is_gone(path):
                excluded += 1
            else:
                synced[path] = item
    return synced, excluded


def _is_gone(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # cannot be told
        return False
    return False


def _plan(
    store: Store,
    roots: Iterable[str],
    states: Mapping[str, State],
    missing: Mapping[str, SyncedItem],
    synced: Mapping[str, SyncedItem],
    unmatched: dict[str, SyncedItem],
    read: Mapping[str, FileState],
    unread_sizes: Container[int],
    *,
    has_unknown_arrivals: bool,
    confirmed: Container[str],
) -> tuple[Plan, dict[str, int]]:
    """The plan, and folder to number of items kept because their disk may be away."""
    waiting = [
        path
        for path, item in missing.items()
        if has_unknown_arrivals or item.file.size in unread_sizes
    ]
    while True:
        plan = plan_moves(store, unmatched, states, read)
        plan.keep(waiting)
        kept = keep_unsure(roots, states, synced, plan, confirmed)
        # Nothing new enters these folders, or the next sync would see no sign of the loss.
        unsure = _below(kept)
        if not any(path.startswith(unsure) for path in plan.old_paths):
            return plan, kept
        refused = {path for path in read if path.startswith(unsure)}
        contents = {read[path].content for path in refused}
        waiting += [path for path, item in missing.items() if item.file.content in contents]
        read = {path: file for path, file in read.items() if path not in refused}


def _scanned(
    store: Store, folders: Sequence[str | os.PathLike[str]], path_filter: PathFilter
) -> tuple[dict[str, SyncedItem], list[str], list[str], Scan]:
    """The gallery's items by path, the roots, those of them that are gone, and what is in others.

    Raises:
        GalleryError: a folder does not exist, and was never synced; or none exists.
    """
    with store.reading():
        files = store.files((b"",))
        sources = store.sources
    items = {os.fsdecode(file.path): SyncedItem(key, file) for key, file in files.items()}
    remembered = () if sources is None else sources.folders
    try:
        roots = find_roots(folders, lambda root: root in remembered or bool(below(root, items)))
    except NotADirectoryError as error:
        raise GalleryError(f"{error.filename}: {error.strerror}") from error
    roots, known = known_names(store.file, roots, items)
    gone = [root for root in roots if is_gone(root)]
    return items, roots, gone, scan([r for r in roots if r not in gone], path_filter, known)


def _confirmed(
    allow_empty: bool | Iterable[str | os.PathLike[str]],
    roots: Iterable[str],
    missing: Collection[str],
) -> Container[str]:
    """Of the paths of missing images, those whose items the caller allows to be removed.

    Raises:
        TypeError: a single folder that is not in a list.
        ValueError: a folder has nothing to do with the roots.
    """
    if isinstance(allow_empty, bool):
        return missing if allow_empty else ()
    if isinstance(allow_empty, str | bytes | os.PathLike):
        raise TypeError(f"allow_empty is {allow_empty!r}, expected True or a list of folders")
    confirmed: set[str] = set()
    for folder in allow_empty:
        name = absolute(folder)
        if not (below(name, roots) or any(below(root, [name]) for root in roots)):
            raise ValueError(
                f"allow_empty names {printable(name)}, which is in none of the folders to sync"
            )
        confirmed.update(below(name, missing))
    return confirmed


def _below(folders: Iterable[str]) -> tuple[str, ...]:
    """What the paths below these folders start with."""
    return tuple(os.path.join(folder, "") for folder in folders)  # noqa: PTH118


def _report_plan(plan: Plan, report: SyncReport) -> None:
    for path, old_path in plan.old_paths.items():
        report.moved.append((printable(old_path), printable(path)))
    report.removed += plan.removed.values()
    report.failed.update({printable(path): KEY_IN_USE for path in plan.refused})


def _predict_ingest(
    store: Store,
    todo: Iterable[str],
    synced: Mapping[str, SyncedItem],
    plan: Plan,
    report: SyncReport,
) -> None:
    """Report what `ingest` would do after the plan."""
    vacated = {*plan.removed, *plan.old_paths.values()}
    with store.reading():
        keys = set(store.keys())
    keys.difference_update(plan.removed.values(), (key for key, _, _ in plan.moves))
    keys.update(key for _, key, _ in plan.moves)
    for path in todo:
        name = printable(path)
        if path in synced and path not in vacated:
            report.updated.append(synced[path].key)
        elif name in keys:
            report.failed[name] = KEY_IN_USE
        else:
            report.added.append(name)
            keys.add(name)


def _state(file: FileState) -> State:
    return file.size, file.mtime_ns, file.ctime_ns
