"""What an export or an import reports, while it runs and at its end."""

from collections.abc import Callable
from typing import NamedTuple

# Takes (done, total) items.
Progress = Callable[[int, int], None]


class Transfer(NamedTuple):
    """What an export or an import has done.

    Attributes:
        items: how many were written.
        notes: what was not kept, and what the engine does not do with what it keeps; a sentence
            each.
    """

    items: int
    notes: tuple[str, ...]
