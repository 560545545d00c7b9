"""For engines that keep codes and numbers only: a folder with their file, and all else beside it.

`items.parquet` is the gallery as parquet.py writes it; row n belongs to number n in the engine.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitgaze.arguments import code_length
from bitgaze.errors import InterchangeError
from bitgaze.gallery.items import Item
from bitgaze.interchange import parquet
from bitgaze.interchange.content import Content
from bitgaze.interchange.description import Description

NAME = "items.parquet"
_BATCH = 4096


def write(
    folder: Path,
    description: Description,
    batches: Iterable[Sequence[Item]],
    add: Callable[[int, NDArray[np.uint8]], None],
) -> None:
    """Write the items beside an engine's file.

    Args:
        folder: to write to.
        description: of the gallery.
        batches: its items.
        add: takes codes, uint8, (n, bits // 8), and the number of the first; the engine's own
            writing.
    """

    def added() -> Iterator[Sequence[Item]]:
        done = 0
        for items in batches:
            add(done, np.stack([item.code for item in items]))
            done += len(items)
            yield items

    parquet.write(folder / NAME, description, added())


def read(
    source: Path, bits: int, count: int, codes: Callable[[int, int], NDArray[np.uint8]]
) -> Content:
    """The items of a folder, or of an engine's file alone.

    The codes are the engine's. Without a file beside them they are the caller's own, and keys are
    the numbers as text.

    Args:
        source: the folder, or the engine's file.
        bits: length of the engine's codes.
        count: how many it holds.
        codes: returns those from a number to another, uint8, (n, bits // 8).

    Raises:
        InterchangeError: codes and items are not of the same gallery.
        ValueError: codes of this length are not supported.
    """
    code_length(bits)
    if not source.is_dir():
        return Content(Description(bits), count, _own(count, codes))
    path = source / NAME
    content = parquet.read(path)
    if (content.total, content.description.bits) != (count, bits):
        raise InterchangeError(
            f"{path}: has {content.total} items of {content.description.bits} bits, but the index "
            f"beside it holds {count} codes of {bits} bits; they belong to different exports"
        )
    return content._replace(batches=_checked(path, content.batches, codes))


def _own(count: int, codes: Callable[[int, int], NDArray[np.uint8]]) -> Iterator[list[Item]]:
    for start in range(0, count, _BATCH):
        rows = codes(start, min(start + _BATCH, count))
        yield [Item(str(start + n), code) for n, code in enumerate(rows)]


def _checked(
    path: Path,
    batches: Iterable[Sequence[Item]],
    codes: Callable[[int, int], NDArray[np.uint8]],
) -> Iterator[Sequence[Item]]:
    done = 0
    for items in batches:
        found = codes(done, done + len(items))
        differs = (found != np.stack([item.code for item in items])).any(axis=1)
        if differs.any():
            row = int(differs.argmax())
            raise InterchangeError(
                f"{path}: the code of {items[row].key!r} is not number {done + row} of the index "
                "beside it; they belong to different exports, or one was changed"
            )
        done += len(items)
        yield items
