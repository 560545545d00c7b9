"""Ingest: read files, encode them, and commit every few seconds.

folders.py finds the files, and sync.py decides which ones to read.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bitgaze.cores import available_cores
from bitgaze.encoding.encoder import Encoder
from bitgaze.encoding.images import ImageFile, printable
from bitgaze.gallery.adaptation import adapted
from bitgaze.gallery.items import FileState, Item
from bitgaze.gallery.metadata import to_text
from bitgaze.gallery.store import Store
from bitgaze.gallery.sync.folders import file_state, reason
from bitgaze.gallery.sync.moves import SyncedItem, is_current
from bitgaze.gallery.sync.report import KEY_IN_USE, SyncReport

# Time between two commits, and so the work lost if the process is killed.
_COMMIT_S = 3.0
# Images per commit, which costs 4 ms: for 100,000 images, without encoding, 64 per commit took
# .18 ms per image, and 512 took .12.
_FIRST_BATCH, _MIN_BATCH, _MAX_BATCH = 32, 8, 512
# Files per commit when only comparing digests.
_MAX_COMPARED = 4096

Progress = Callable[[int, int], None]
MetadataOf = Callable[[str], Mapping[str, Any] | None]


def compare(
    store: Store,
    paths: Sequence[str],
    synced: Mapping[str, SyncedItem],
    report: SyncReport,
    on_progress: Progress | None,
    *,
    dry_run: bool,
) -> tuple[set[str], dict[str, FileState]]:
    """Digest files; if only the times of a file have changed, update its item's file state.

    Args:
        store: the gallery's file.
        paths: files to compare.
        synced: path to item, for the files that the gallery has an item of.
        report: receives failures and the number of unchanged files.
        on_progress: called with (done, total) files.
        dry_run: write nothing.

    Returns:
        The paths of files whose content has not changed; and path to file of the other files that
        can be read. Their digests find renamed images; to encode one, `ingest` reads it again.
    """
    touched: set[str] = set()
    files: dict[str, FileState] = {}
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, len(paths))

    for batch in _batches(paths, _MAX_COMPARED):
        read = read_files(batch, report, advance)
        same = [
            p for p, file in read.items() if p in synced and synced[p].file.content == file.content
        ]
        if same and not dry_run:
            with store.writing():
                # Items that another process has changed since are already up to date.
                same = [path for path in same if is_current(store, path, synced[path])]
                keys = [synced[path].key for path in same]
                store.move(list(zip(keys, keys, map(read.__getitem__, same), strict=True)))
        touched.update(same)
        files.update((path, file) for path, file in read.items() if path not in touched)
    report.unchanged += len(touched)
    return touched, files


def read_files(
    paths: Sequence[str], report: SyncReport, advance: Callable[[], None] | None = None
) -> dict[str, FileState]:
    """Path to file; those that cannot be read, or change meanwhile, go to the report instead."""
    files: dict[str, FileState] = {}
    pool = ThreadPoolExecutor(available_cores())
    try:
        for path, file in zip(paths, pool.map(_read, paths), strict=True):
            if isinstance(file, FileState):
                files[path] = file
            else:
                report.failed[printable(path)] = reason(file)
            if advance is not None:
                advance()
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for pending files
    return files


def _read(path: str) -> FileState | Exception:
    source = ImageFile(path)
    try:
        with source.opened():
            return _file_state(source)
    except Exception as error:
        return error


def _file_state(source: ImageFile) -> FileState:
    """What the source's content was read from."""
    state = file_state(source.size, source.mtime_ns, source.ctime_ns)
    return FileState(os.fsencode(source.path), *state, source.content)


def ingest(
    store: Store,
    encoder: Callable[[], Encoder],
    todo: Sequence[str],
    metadata: MetadataOf | None,
    report: SyncReport,
    on_progress: Progress | None,
    *,
    is_tolerant: bool = False,
) -> None:
    """Encode images, and commit every few seconds.

    Each image is read once: its item's code, digest, size and times are of the same bytes, whatever
    happens to the file meanwhile. A file that changes while it is read is reported as failed.

    Args:
        store: the gallery's file.
        encoder: returns the gallery's model; called once there is an image to encode.
        todo: paths of the images.
        metadata: returns the metadata of a new image, by its path.
        report: receives what is done.
        on_progress: called with (done, total) images.
        is_tolerant: as for `ImageFile`.

    Raises:
        KeyboardInterrupt: Ctrl-C; its text says how many images are done and how many are left.
        TypeError: metadata that is not a JSON object.
    """
    done = shown = 0

    def advance(count: int) -> None:
        nonlocal shown
        shown += count
        if on_progress is not None:
            on_progress(shown, len(todo))

    try:
        for batch in _batches(todo, _MAX_BATCH):
            with store.reading():
                free = [path for path in batch if not _is_key_in_use(store, path, report)]
            sources = [ImageFile(path, is_tolerant=is_tolerant) for path in free]
            _encode(store, encoder, sources, metadata, report, advance)
            done += len(batch)
            if shown < done:  # images that were not encoded
                advance(done - shown)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"{done:,} of {len(todo):,} images are done and saved, {len(todo) - done:,} are left; "
            "run it again to continue"
        ) from error


def _batches(paths: Sequence[str], max_size: int) -> Iterator[Sequence[str]]:
    """Batches that each keep the consumer busy for about `_COMMIT_S`."""
    start, size = 0, _FIRST_BATCH
    while start < len(paths):
        began = time.monotonic()
        yield paths[start : start + size]
        took_s = max(time.monotonic() - began, 1e-3)
        start += size
        size = max(_MIN_BATCH, min(max_size, int(size * _COMMIT_S / took_s)))


def _encode(
    store: Store,
    encoder: Callable[[], Encoder],
    sources: Sequence[ImageFile],
    metadata: MetadataOf | None,
    report: SyncReport,
    advance: Callable[[int], None],
) -> None:
    """Encode and commit some images, as new items or in place of the items of their files."""
    if not sources:
        return
    model = encoder()
    paths = [os.fsdecode(source.path) for source in sources]
    with store.reading():
        looks = store.info["looks"]
    encoded = model.encode(sources, looks=looks, on_progress=advance)
    # Before the transaction, so that other writers do not wait for it.
    with store.reading():
        new = [path for path in paths if store.item_of_file(os.fsencode(path)) is None]
    unread = {paths[row] for row in encoded.errors}
    new_metadata = {path: _metadata_of(metadata, path) for path in new if path not in unread}
    with store.writing():
        # With the adaptation as of this transaction.
        encoded = adapted(encoded, store.info["adaptation"], model)
        for row, (path, source) in enumerate(zip(paths, sources, strict=True)):
            name = printable(path)
            if row in encoded.errors:
                report.failed[name] = str(encoded.errors[row]).removeprefix(f"{name}: ")
                continue
            if _is_key_in_use(store, path, report):
                continue
            file = _file_state(source)
            old = store.item_of_file(file.path)
            if old is None:
                # Missing from new_metadata only if the item has been removed in the meantime.
                values = (
                    new_metadata[path] if path in new_metadata else _metadata_of(metadata, path)
                )
                key = name
            else:
                key, values = old.key, old.metadata
            item = Item.of_image(key, encoded, row, values, file, source.properties)
            try:
                store.put(item)
            except (TypeError, ValueError, OverflowError) as error:  # of this item; others go on
                report.failed[name] = reason(error)
                continue
            if old is None:
                report.added.append(name)
            elif old.file is not None and old.file.content == file.content:
                report.unchanged += 1  # another process has encoded it in the meantime
            else:
                report.updated.append(old.key)


def _is_key_in_use(store: Store, path: str, report: SyncReport) -> bool:
    """Whether another item has the key of a new image; if so, reports that."""
    is_new = store.item_of_file(os.fsencode(path)) is None
    is_in_use = is_new and store.find(printable(path)) is not None
    if is_in_use:
        report.failed[printable(path)] = KEY_IN_USE
    return is_in_use


def _metadata_of(metadata: MetadataOf | None, path: str) -> dict[str, Any]:
    """The metadata of a new image; checked here, so that the error names its path."""
    values = None if metadata is None else metadata(path)
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise TypeError(
            f"metadata of {printable(path)} must be a dict or None, got {type(values).__name__}"
        )
    for field in values:
        if not isinstance(field, str):
            raise TypeError(
                f"field names in metadata of {printable(path)} must be str, got "
                f"{type(field).__name__}: {field!r}"
            )
    try:
        to_text(dict(values))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"metadata of {printable(path)} cannot be represented in JSON: {error}"
        ) from error
    return dict(values)
