"""Files into a gallery: their contents read, encoded, and committed every few seconds.

Knows files' contents, and when to commit. Does not know folders (folders.py), nor which files are
to be read (sync.py).
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bitgaze.cores import available_cores
from bitgaze.encoding.encoder import Encoder
from bitgaze.encoding.images import printable
from bitgaze.gallery.adaptation import adapted
from bitgaze.gallery.items import FileState, Item, content_digest
from bitgaze.gallery.store import Store
from bitgaze.gallery.sync.folders import State
from bitgaze.gallery.sync.moves import Known, is_held
from bitgaze.gallery.sync.report import KEY_TAKEN, SyncReport

# Between two commits: what is lost at most when the process is killed. A commit costs 4 ms: of
# 100,000 images without encoding, 64 a commit took .18 ms an image, 512 took .12.
_COMMIT_S = 3.0
_FIRST_COMMIT, _FEWEST, _MOST, _MOST_READ = 32, 8, 512, 4096

Progress = Callable[[int, int], None]
GiveMetadata = Callable[[str], Mapping[str, Any] | None]


def compare(
    store: Store,
    paths: Sequence[str],
    known: Mapping[str, Known],
    states: Mapping[str, State],
    report: SyncReport,
    on_progress: Progress | None,
    *,
    dry_run: bool,
) -> tuple[set[str], dict[str, bytes]]:
    """Read files; where one was touched but holds what it held, its item gets its state.

    Args:
        store: the gallery's file, to bring up to date.
        paths: of the files.
        known: path to item, where the gallery has one of the file.
        states: of all files, by path.
        report: to fill.
        on_progress: called with (done, total) files.
        dry_run: write nothing.

    Returns:
        The paths of those; and path to digest of the others that can be read.
    """
    touched: set[str] = set()
    digests: dict[str, bytes] = {}
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, len(paths))

    for batch in _batches(paths, _MOST_READ):
        read = read_digests(batch, report, advance)
        same = [p for p, digest in read.items() if p in known and known[p].file.content == digest]
        if same and not dry_run:
            with store.writing():
                # An item that another process has changed since is in line with its file already.
                same = [path for path in same if is_held(store, path, known[path])]
                keys = [known[path].key for path in same]
                files = [FileState(os.fsencode(p), *states[p], read[p]) for p in same]
                store.move(list(zip(keys, keys, files, strict=True)))
        touched.update(same)
        digests.update((path, digest) for path, digest in read.items() if path not in touched)
    report.unchanged += len(touched)
    return touched, digests


def read_digests(
    paths: Sequence[str], report: SyncReport, advance: Callable[[], None] | None = None
) -> dict[str, bytes]:
    """Path to digest; what cannot be read goes to the report instead."""
    digests: dict[str, bytes] = {}
    pool = ThreadPoolExecutor(available_cores())
    try:
        for path, digest in zip(paths, pool.map(_digest, paths), strict=True):
            if isinstance(digest, OSError):
                report.failed[printable(path)] = digest.strerror or str(digest)
            else:
                digests[path] = digest
            if advance is not None:
                advance()
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for those not begun
    return digests


def _digest(path: str) -> bytes | OSError:
    try:
        return content_digest(path)
    except OSError as error:
        return error


def ingest(
    store: Store,
    encoder: Callable[[], Encoder],
    todo: Sequence[str],
    states: Mapping[str, State],
    digests: Mapping[str, bytes],
    metadata: GiveMetadata | None,
    report: SyncReport,
    on_progress: Progress | None,
) -> None:
    """Encode images, and commit every few seconds.

    Args:
        store: the gallery's file, to put them into.
        encoder: gives its model.
        todo: paths.
        states: of all of them, by path.
        digests: path to digest, where it is known already.
        metadata: gives that of a new image, by its path.
        report: to fill.
        on_progress: called with (done, total) images.

    Raises:
        KeyboardInterrupt: Ctrl-C; its text says how many are done and how many are left.
        TypeError: metadata that is no JSON object.
    """
    done = shown = 0

    def advance(count: int) -> None:
        nonlocal shown
        shown += count
        if on_progress is not None:
            on_progress(shown, len(todo))

    try:
        for batch in _batches(todo, _MOST):
            with store.reading():
                wanted = [path for path in batch if not _is_key_taken(store, path, report)]
            new_digests = read_digests([path for path in wanted if path not in digests], report)
            found = {path: digests.get(path) or new_digests.get(path) for path in wanted}
            files = [
                FileState(os.fsencode(path), *states[path], digest)
                for path, digest in found.items()
                if digest
            ]
            _encode(store, encoder, files, metadata, report, advance)
            done += len(batch)
            if shown < done:  # some were not encoded
                advance(done - shown)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"{done:,} of {len(todo):,} images are done and kept, {len(todo) - done:,} are left; "
            "the next run goes on from there"
        ) from error


def _batches(paths: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """Parts that each keep the consumer busy for about `_COMMIT_S`."""
    start, size = 0, _FIRST_COMMIT
    while start < len(paths):
        began = time.monotonic()
        yield paths[start : start + size]
        took_s = max(time.monotonic() - began, 1e-3)
        start += size
        size = max(_FEWEST, min(most, int(size * _COMMIT_S / took_s)))


def _encode(
    store: Store,
    encoder: Callable[[], Encoder],
    files: Sequence[FileState],
    metadata: GiveMetadata | None,
    report: SyncReport,
    advance: Callable[[int], None],
) -> None:
    """Encode and commit some images, as new ones or in place of what their files were before."""
    if not files:
        return
    paths = [os.fsdecode(file.path) for file in files]
    model = encoder()
    encoded = model.encode(paths, on_progress=advance)
    # Before the transaction, so that other writers do not wait for it.
    with store.reading():
        new = [path for path in paths if store.item_of_file(os.fsencode(path)) is None]
    unread = {paths[row] for row in encoded.errors}
    given = {path: _given(metadata, path) for path in new if metadata and path not in unread}
    with store.writing():
        # As the gallery is now, not as it was.
        encoded = adapted(encoded, store.info["adaptation"], model.contract.tolerance)
        for row, (path, file) in enumerate(zip(paths, files, strict=True)):
            name = printable(path)
            if row in encoded.errors:
                report.failed[name] = str(encoded.errors[row]).removeprefix(f"{name}: ")
                continue
            if _is_key_taken(store, path, report):
                continue
            held = store.item_of_file(file.path)
            if held is None:
                # It is there, unless the item was removed meanwhile.
                own = given[path] if path in given else _given(metadata, path)
                store.put(Item(name, encoded.codes[row], own, file))
                report.added.append(name)
                continue
            store.put(Item(held.key, encoded.codes[row], held.metadata, file))
            if held.file is not None and held.file.content == file.content:
                report.unchanged += 1  # another process has encoded it meanwhile
            else:
                report.updated.append(held.key)


def _is_key_taken(store: Store, path: str, report: SyncReport) -> bool:
    """Whether a new image's key is another item's, which the report then says."""
    is_new = store.item_of_file(os.fsencode(path)) is None
    is_taken = is_new and store.find(printable(path)) is not None
    if is_taken:
        report.failed[printable(path)] = KEY_TAKEN
    return is_taken


def _given(metadata: GiveMetadata | None, path: str) -> dict[str, Any]:
    """A new image's metadata, checked here, where its path can be named."""
    found = None if metadata is None else metadata(path)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise TypeError(
            f"metadata of {printable(path)} is {type(found).__name__}, expected a dict or None"
        )
    try:
        json.dumps(dict(found), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata of {printable(path)} is no JSON object: {error}") from error
    return dict(found)
