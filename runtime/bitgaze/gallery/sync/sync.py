"""Sync: folders -> gallery, incrementally; only new, changed, renamed and missing images cost work.

Decides what to do, and in which order. folders.py finds the images, moves.py matches renamed ones,
ingest.py reads and encodes.
"""

import os
from collections.abc import Callable, Iterable, Mapping

from bitgaze.encoding.encoder import Encoder
from bitgaze.encoding.images import printable
from bitgaze.errors import GalleryError
from bitgaze.gallery.items import FileState
from bitgaze.gallery.store import Store
from bitgaze.gallery.sync.folders import State, find_roots, scan
from bitgaze.gallery.sync.guard import keep_unsure
from bitgaze.gallery.sync.ingest import MetadataOf, Progress, compare, ingest
from bitgaze.gallery.sync.moves import Plan, SyncedItem, plan_moves
from bitgaze.gallery.sync.patterns import PathFilter
from bitgaze.gallery.sync.report import KEY_IN_USE, SyncReport


def sync(
    store: Store,
    encoder: Callable[[], Encoder],
    *folders: str | os.PathLike[str],
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    metadata: MetadataOf | None = None,
    dry_run: bool = False,
    allow_empty: bool = False,
    on_progress: Progress | None = None,
) -> SyncReport:
    """Makes a gallery match the images below folders; see `Gallery.sync`.

    Args:
        store: the gallery's file.
        encoder: returns the gallery's model; called once there is an image to encode.
        folders: as for `Gallery.sync`, like all other arguments.
        include: patterns.
        exclude: patterns.
        metadata: returns a new image's metadata.
        dry_run: write nothing.
        allow_empty: remove the items that `keep_unsure` would keep.
        on_progress: called with (done, total) images.
    """
    path_filter = PathFilter(include, exclude)
    try:
        roots = find_roots(folders)
    except NotADirectoryError as error:
        raise GalleryError(f"{error.filename}: {error.strerror}") from error
    found = scan(roots, path_filter)
    report = SyncReport(failed=found.failed, skipped=found.skipped)
    synced, report.excluded = _synced_items(store, roots, path_filter, found.states)
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
    # Missing files first: of two equal images, the missing one is the one that was renamed.
    unmatched = {
        path: synced[path] for path in [*missing, *(path for path in todo if path in synced)]
    }
    plan = Plan()
    unsure: tuple[str, ...] = ()
    if unmatched:
        sizes = {old.file.size for old in unmatched.values()}
        candidates = [path for path in todo if found.states[path][0] in sizes]
        touched, files = compare(store, candidates, synced, report, on_progress, dry_run=dry_run)
        unreadable = set(candidates).difference(touched, files)
        unmatched = {
            path: old
            for path, old in unmatched.items()
            if path not in touched and path not in unreadable
        }
        with store.reading() if dry_run else store.writing():
            # An image of an equal size that could not be read may be the one that is missing.
            unread_sizes = {found.states[path][0] for path in unreadable}
            waiting = [path for path in missing if synced[path].file.size in unread_sizes]
            while True:
                plan = plan_moves(store, unmatched, found.states, files)
                plan.keep(waiting)
                if allow_empty:
                    break
                _check_not_emptied(roots, found.states, plan)
                kept = keep_unsure(roots, found.states, synced, plan)
                # Nothing new enters these folders, or the next sync would see no sign of the loss.
                unsure = tuple(os.path.join(folder, "") for folder in kept)  # noqa: PTH118
                report.missing = {printable(folder): count for folder, count in kept.items()}
                if not any(path.startswith(unsure) for path in plan.old_paths):
                    break
                refused = {path for path in files if path.startswith(unsure)}
                contents = {files[path].content for path in refused}
                waiting += [path for path in missing if synced[path].file.content in contents]
                files = {path: file for path, file in files.items() if path not in refused}
            if not dry_run:
                for key in plan.removed.values():
                    store.delete(key)
                store.move(plan.moves)
        _report_plan(plan, report)
        finished = plan.refused.union(plan.old_paths, touched, unreadable)
        todo = [
            path
            for path in todo
            if path not in finished and (path in synced or not path.startswith(unsure))
        ]
    if dry_run:
        _predict_ingest(store, todo, synced, plan, report)
    else:
        ingest(store, encoder, todo, metadata, report, on_progress)
    return report


def _synced_items(
    store: Store, roots: Iterable[str], path_filter: PathFilter, states: Mapping[str, State]
) -> tuple[dict[str, SyncedItem], int]:
    """The items of the folders' images, by path, and the number of items that are excluded."""
    synced: dict[str, SyncedItem] = {}
    excluded = 0
    # Paths are relative to the innermost folder.
    prefixes = sorted((os.path.join(root, "") for root in roots), key=len, reverse=True)  # noqa: PTH118
    with store.reading():
        files = store.files(tuple(map(os.fsencode, prefixes)))
    for key, file in files.items():
        path = os.fsdecode(file.path)
        if path not in states:
            prefix = next(prefix for prefix in prefixes if path.startswith(prefix))
            if not path_filter.accepts(path[len(prefix) :].replace(os.sep, "/")):
                excluded += 1
                continue
        synced[path] = SyncedItem(key, file)
    return synced, excluded


def _check_not_emptied(roots: Iterable[str], states: Mapping[str, State], plan: Plan) -> None:
    for root in roots:
        prefix = os.path.join(root, "")  # noqa: PTH118
        lost = sum(path.startswith(prefix) for path in plan.removed)
        if lost and not any(path.startswith(prefix) for path in states):
            raise GalleryError(
                f"{printable(root)}: no images found, but the gallery holds {lost} from this "
                "folder; nothing was removed (is the disk mounted?); to remove them, use "
                "allow_empty=True or --allow-empty"
            )


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
    """Reports what `ingest` would do after the plan."""
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
