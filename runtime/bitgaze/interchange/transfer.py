"""Runs an export or an import: an engine's module on one side, a gallery on the other."""

import os
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from bitgaze.errors import InterchangeError
from bitgaze.gallery.file_format import create_private, new_file
from bitgaze.gallery.items import Item
from bitgaze.interchange.content import Content
from bitgaze.interchange.folders import new_folder
from bitgaze.interchange.galleries import reading, write_gallery
from bitgaze.interchange.report import Progress, Transfer


def _module(engine: str) -> ModuleType:
    return import_module(f"bitgaze.interchange.{engine.replace('-', '_')}")


def export(
    gallery: str | os.PathLike[str],
    engine: str,
    out: str | os.PathLike[str],
    is_folder: bool,
    on_progress: Progress | None,
) -> Transfer:
    """See `bitgaze.interchange.export_gallery`."""
    out = Path(out).expanduser()
    looks = [0]
    with reading(Path(gallery)) as found:
        content = found.content
        batches = _counted(content, on_progress, looks)
        with new_folder(out) if is_folder else new_file(out, "an export") as unfinished:
            if not is_folder:
                create_private(unfinished)
            try:
                _module(engine).write(unfinished, content.description, batches)
            except OSError as error:
                reason = error.strerror or error
                raise InterchangeError(f"{out}: cannot be written: {reason}") from error
    return Transfer(content.total, tuple(_notes(engine, looks[0], found.thumbnails[0])))


def _notes(engine: str, looks: int, thumbnails: int) -> Iterator[str]:
    if thumbnails:
        yield f"not kept: {thumbnails} thumbnails"
    if looks and engine != "parquet":
        yield (
            f"{engine} searches codes of whole images; those of {looks} looks are kept beside "
            "them, for an import"
        )
    if engine == "milvus":
        yield "written to Milvus' documented format; no Milvus has read it"


def import_(
    source: str | os.PathLike[str],
    engine: str,
    gallery: str | os.PathLike[str],
    on_progress: Progress | None,
) -> Transfer:
    """See `bitgaze.interchange.import_gallery`."""
    path = Path(source).expanduser()
    try:
        content: Content = _module(engine).read(path)
        batches = _counted(content, on_progress, [0])
        count = write_gallery(Path(gallery), content.description, batches, path)
    except OSError as error:
        raise InterchangeError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InterchangeError(f"{path}: {error}") from error
    notes = []
    if not content.description.fingerprint:
        notes.append(
            "no model is named there: the gallery holds your own codes and encodes no images"
        )
    if content.ignored:
        notes.append(f"not read: column {', '.join(content.ignored)}")
    return Transfer(count, tuple(notes))


def _counted(
    content: Content, on_progress: Progress | None, looks: list[int]
) -> Iterator[Sequence[Item]]:
    """The batches; reports progress, and adds up the looks as the only entry of `looks`."""
    batches: Iterable[Sequence[Item]] = content.batches
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        looks[0] += sum(len(item.looks) for item in batch)
        if on_progress is not None:
            on_progress(done, content.total)
