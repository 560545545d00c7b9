"""A gallery on its way from one format to another: its description, and items in batches."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from bitgaze.gallery.items import Item
from bitgaze.gallery.metadata import to_text
from bitgaze.interchange.description import Description

# Of a batch, whichever comes first: metadata of an item can have 16 MB.
_BATCH_ITEMS = 16_384
_BATCH_CHARACTERS = 16 << 20


class Content(NamedTuple):
    """What an engine's files hold.

    Attributes:
        description: what all items have in common.
        total: number of items.
        batches: of items, in the gallery's order; to be read once.
        ignored: names of columns that are not read.
    """

    description: Description
    total: int
    batches: Iterable[Sequence[Item]]
    ignored: tuple[str, ...] = ()


def in_batches(items: Iterable[Item]) -> Iterator[Sequence[Item]]:
    """Items in batches that are neither long nor large."""
    batch: list[Item] = []
    characters = 0
    for item in items:
        batch.append(item)
        characters += len(to_text(item.metadata))
        if len(batch) == _BATCH_ITEMS or characters > _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
