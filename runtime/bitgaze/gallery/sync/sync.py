"""Sync: folders -> gallery, incrementally; only new, changed, renamed and missing images cost work.

Decides what to do, and in which order. folders.py finds the images, moves.py matches renamed ones,
ingest.py reads and encodes.
"""

import os
import time
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from bitgaze.encoding.encoder import Encoder
from bitgaze.encoding.images import printable
from bitgaze.errors import GalleryError
from bitgaze.gallery.items import FileState
from bitgaze.gallery.remembered import Sources
from bitgaze.gallery.store import Store
from bitgaze.gallery.sync.folders import Scan, State, find_roots, scan
from bitgaze.gallery.sync.guard import keep_unsure
from bitgaze.gallery.sync.ingest import MetadataOf, Progress, compare, ingest
from bitgaze.gallery.sync.moves import Plan, SyncedItem, plan_moves
from bitgaze.gallery.sync.names import known_names
from bitgaze.gallery.sync.patterns import PathFilter
from bitgaze.gallery.sync.report import KEY_IN_USE, SyncReport

# A sync that repeats the last one stores its time only after this many seconds: it takes a
# transaction.
_REMEMBERED_S = 60
_CHANGED = "changed while it was being listed; items of images that are gone wait for the next sync"


def sync(
    store: Store,
    encoder: Callable[[], Encoder],
    *folders: str | os.PathLike[str],
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    metadata: MetadataOf | None = None,
    dry_run: bool = False,
    allow_empty: bool = False,
    all_folders: bool = False,
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
        allow_empty: remove the items that `keep_unsure` would keep.
        all_folders: include system folders.
        on_progress: called with (done, total) images.
        model: path of the model to remember; None to keep what is remembered.
    """
    include, exclude = _patterns(include), _patterns(exclude)
    path_filter = PathFilter(include, exclude, all_folders=all_folders)
    try:
        roots = find_roots(folders)
    except NotADirectoryError as error:
        raise GalleryError(f"{error.filename}: {error.strerror}") from error
    with store.reading():
        files = store.files((b"",))
    items = {os.fsdecode(file.path): SyncedItem(key, file) for key, file in files.items()}
    roots, known = known_names(store.file, roots, items)
    found = scan(roots, path_filter, known)
    report = SyncReport(
        failed=found.failed, skipped=found.skipped, system_folders=found.system_folders
    )
    synced, report.excluded = _synced_items(items, roots, path_filter, found)
    todo = [
        path
        for path, state in found.states.items()
        if path not in synced or _state(synced[path].file) != state
    ]
    report.unchanged = len(found.states) - len(todo)
    missing = [
        path
        for path in synced
        if path not in found.states
        and printable(path) not in report.failed
        and not path.startswith(tuple(found.unlisted))
    ]
    # An image that was renamed during the scan may be where the scan had already been.
    arrivals = found.arrivals(path_filter) if missing else {}
    arrived_sizes = {size for sizes in arrivals.values() for size in sizes or ()}
    # Missing files first: of two equal images, the missing one is the one that was renamed.
    unmatched = {
        path: synced[path] for path in [*missing, *(path for path in todo if path in synced)]
    }
    plan = Plan()
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
                allow_empty=allow_empty,
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
    if dry_run:
        _predict_ingest(store, todo, synced, plan, report)
    else:
        ingest(store, encoder, todo, metadata, report, on_progress)
        _remember(store, folders, include, exclude, all_folders, model)
    return report


def _patterns(patterns: Iterable[str]) -> Iterable[str]:
    """As a tuple, to be read twice; a single string is left for `PathFilter` to refuse."""
    return patterns if isinstance(patterns, str) else tuple(patterns)


def _remember(
    store: Store,
    folders: Iterable[str | os.PathLike[str]],
    include: Iterable[str],
    exclude: Iterable[str],
    all_folders: bool,
    model: str | None,
) -> None:
    absolute = (os.path.abspath(os.path.expanduser(folder)) for folder in folders)  # noqa: PTH100, PTH111
    names = tuple(dict.fromkeys(absolute))
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
    allow_empty: bool,
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
        if allow_empty:
            return plan, {}
        kept = keep_unsure(roots, states, synced, plan)
        # Nothing new enters these folders, or the next sync would see no sign of the loss.
        unsure = _below(kept)
        if not any(path.startswith(unsure) for path in plan.old_paths):
            return plan, kept
        refused = {path for path in read if path.startswith(unsure)}
        contents = {read[path].content for path in refused}
        waiting += [path for path, item in missing.items() if item.file.content in contents]
        read = {path: file for path, file in read.items() if path not in refused}


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
