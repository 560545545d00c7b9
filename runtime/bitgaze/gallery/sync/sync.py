"""Folders to gallery, incremental: only what is new, changed, renamed or gone is touched.

Knows what to do in which order. Does not look into folders (folders.py), find out what has moved
(following.py), nor read and encode files (intake.py).
"""

import os
from collections.abc import Callable, Iterable, Mapping

from bitgaze.encoding.encoder import Encoder
from bitgaze.encoding.images import printable
from bitgaze.errors import GalleryError
from bitgaze.gallery.items import FileState
from bitgaze.gallery.store import Store
from bitgaze.gallery.sync.folders import State, find_roots, scan
from bitgaze.gallery.sync.ingest import GiveMetadata, Progress, compare, ingest
from bitgaze.gallery.sync.moves import Known, Plan, plan_moves
from bitgaze.gallery.sync.patterns import Choice
from bitgaze.gallery.sync.report import KEY_TAKEN, SyncReport


def sync(
    store: Store,
    encoder: Callable[[], Encoder],
    *folders: str | os.PathLike[str],
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    metadata: GiveMetadata | None = None,
    dry_run: bool = False,
    allow_empty: bool = False,
    on_progress: Progress | None = None,
) -> SyncReport:
    """Make a gallery match the images below folders.

    An image is a file whose name ends in one of `bitgaze.encoding.images.SUFFIXES`; names that
    begin with a dot are left out. Its key is its absolute path as text. Links are followed; each
    folder and each image is taken once. Items added by hand, and those of other folders, stay as
    they are.

    Files whose size and times (modification and change) are as before are not opened; those whose
    content is as before are not encoded. An item follows its image to another name, also from one
    of the folders to another, and when images change places; where a file became another image,
    its item keeps the metadata.

    Work is committed every few seconds; run again after an interruption, it goes on where it
    stopped. Others may write to the gallery meanwhile.

    A pattern matches an image if it matches the image or a folder on the way to it: by its name
    or, if there is a "/" in the pattern, by its path relative to the folder given. "*.png" is every
    PNG, "thumbs" all below any folder of that name, "2024/*.jpg" every JPEG below 2024, "*/raw/*"
    all below any folder raw. `*` stands for any characters, also "/"; `?` for one; `[abc]` for one
    of these. Case is ignored. What patterns leave out is not looked at: an item that was made from
    it stays as it is, even if its file has changed or gone.

    Args:
        store: the gallery's file, to bring up to date.
        encoder: gives its model, once there is an image to encode.
        folders: to look below; they may lie in one another.
        include: patterns; images that match none are left out. No pattern leaves nothing out.
        exclude: patterns; images that match one are left out.
        metadata: gives a new image's metadata by its path, a JSON object, or None for nothing.
            Not called for images that the gallery has. What it raises ends the sync.
        dry_run: write nothing, encode nothing, and report what would be done. Files are read only
            where that tells whether they were moved; what cannot be read or decoded is therefore
            not told.
        allow_empty: a folder may hold no image at all; then every item from it is removed.
        on_progress: called with (done, total) images as files are compared with what the gallery
            has, if there are any to compare, and again from the beginning as images are encoded.

    Raises:
        GalleryError: one of `folders` is not a folder, or holds no image at all although items
            from it would be removed (an unplugged disk looks like that; nothing is changed without
            `allow_empty`).
        FingerprintMismatch: an image is to be encoded, and the gallery's codes are of another
            model.
        KeyboardInterrupt: Ctrl-C; once images are being encoded, its text says how many are done
            and how many are left.
        TypeError: a pattern that is no text, or metadata that is no JSON object.
        ValueError: no folder, or an empty pattern.
    """
    choice = Choice(include, exclude)
    try:
        roots = find_roots(folders)
    except NotADirectoryError as error:
        raise GalleryError(f"{error.filename}: {error.strerror}") from error
    found = scan(roots, choice)
    report = SyncReport(failed=found.failed, skipped=found.skipped)
    known, report.excluded = _known(store, roots, choice, found.states)
    todo = [
        path
        for path, state in found.states.items()
        if path not in known or _state(known[path].file) != state
    ]
    report.unchanged = len(found.states) - len(todo)
    gone = [
        path
        for path in known
        if path not in found.states
        and printable(path) not in report.failed
        and not path.startswith(tuple(found.unlisted))
    ]
    # What is gone comes first: of two equal images, it is the one that was renamed.
    unmatched = {path: known[path] for path in [*gone, *(path for path in todo if path in known)]}
    digests: dict[str, bytes] = {}
    plan = Plan()
    if unmatched:
        sizes = {old.file.size for old in unmatched.values()}
        candidates = [path for path in todo if found.states[path][0] in sizes]
        touched, digests = compare(
            store, candidates, known, found.states, report, on_progress, dry_run=dry_run
        )
        unreadable = set(candidates).difference(touched, digests)
        unmatched = {
            p: old for p, old in unmatched.items() if p not in touched and p not in unreadable
        }
        with store.reading() if dry_run else store.writing():
            plan = plan_moves(store, unmatched, found.states, digests)
            if not allow_empty:
                _check_emptied(roots, found.states, plan)
            if not dry_run:
                for key in plan.removed.values():
                    store.delete(key)
                store.move(plan.moves)
        _tell(plan, report)
        settled = plan.refused.union(plan.came_from, touched, unreadable)
        todo = [path for path in todo if path not in settled]
    if dry_run:
        _foretell(store, todo, known, plan, report)
    else:
        ingest(store, encoder, todo, found.states, digests, metadata, report, on_progress)
    return report


def _known(
    store: Store, roots: Iterable[str], choice: Choice, states: Mapping[str, State]
) -> tuple[dict[str, Known], int]:
    """The items of images that are looked at, by path, and the number of others."""
    known: dict[str, Known] = {}
    excluded = 0
    # The innermost of them says what a path is relative to.
    prefixes = sorted((os.path.join(root, "") for root in roots), key=len, reverse=True)  # noqa: PTH118
    with store.reading():
        files = store.files(tuple(map(os.fsencode, prefixes)))
    for key, file in files.items():
        path = os.fsdecode(file.path)
        if path not in states:
            prefix = next(prefix for prefix in prefixes if path.startswith(prefix))
            if not choice.takes(path[len(prefix) :].replace(os.sep, "/")):
                excluded += 1
                continue
        known[path] = Known(key, file)
    return known, excluded


def _check_emptied(roots: Iterable[str], states: Mapping[str, State], plan: Plan) -> None:
    for root in roots:
        prefix = os.path.join(root, "")  # noqa: PTH118
        lost = sum(path.startswith(prefix) for path in plan.removed)
        if lost and not any(path.startswith(prefix) for path in states):
            raise GalleryError(
                f"{printable(root)}: no image found, but the gallery holds {lost} from there; "
                "nothing was removed (is the disk mounted?); to remove them, allow an empty folder "
                "(allow_empty=True, or --allow-empty)"
            )


def _tell(plan: Plan, report: SyncReport) -> None:
    for path, old_path in plan.came_from.items():
        report.moved.append((printable(old_path), printable(path)))
    report.removed += plan.removed.values()
    report.failed.update({printable(path): KEY_TAKEN for path in plan.refused})


def _foretell(
    store: Store,
    todo: Iterable[str],
    known: Mapping[str, Known],
    plan: Plan,
    report: SyncReport,
) -> None:
    """Report what encoding these would do, once the plan was carried out."""
    left = {*plan.removed, *plan.came_from.values()}
    with store.reading():
        keys = set(store.keys())
    keys.difference_update(plan.removed.values(), (key for key, _, _ in plan.moves))
    keys.update(key for _, key, _ in plan.moves)
    for path in todo:
        name = printable(path)
        if path in known and path not in left:
            report.updated.append(known[path].key)
        elif name in keys:
            report.failed[name] = KEY_TAKEN
        else:
            report.added.append(name)
            keys.add(name)


def _state(file: FileState) -> State:
    return file.size, file.mtime_ns, file.ctime_ns
