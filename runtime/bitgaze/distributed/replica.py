"""A replica: some galleries, open in a process of the cluster, and the candidates among them."""

from collections.abc import Sequence
from typing import NamedTuple

from bitgaze.gallery.file_format import gallery_path
from bitgaze.gallery.query import Query
from bitgaze.gallery.search import SearchParams
from bitgaze.gallery.shards import Candidates, candidates, reading
from bitgaze.gallery.store import Store

_TIMEOUT_S = 5.0


class Facts(NamedTuple):
    """What a gallery is: of all shards, the same but for path and items.

    Attributes:
        path: of its file.
        items: how many it holds.
        bits: length of a code.
        fingerprint: of the model; "" for the caller's own codes.
        model: name of the model.
        looks: how many looks an item has at most.
        structure: length of a structural code in bits; 0 for none.
        adaptation: fingerprint of the adaptation; None without one.
    """

    path: str
    items: int
    bits: int
    fingerprint: str
    model: str
    looks: int
    structure: int
    adaptation: str | None


class Replica:
    """Galleries that are searched one after the other.

    Args:
        paths: of the galleries.

    Raises:
        GalleryError: there is no such gallery.
        GalleryCorrupt: one is damaged.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._stores = [Store(gallery_path(path), None, _TIMEOUT_S) for path in paths]

    def facts(self) -> list[Facts]:
        """What the galleries are."""
        return [_facts(store) for store in self._stores]

    def candidates(self, query: Query, params: SearchParams) -> Candidates:
        """What the galleries contribute to a search."""
        with reading(self._stores):
            return candidates(self._stores, query, params)


def _facts(store: Store) -> Facts:
    with store.reading():
        info = store.info
        adaptation = info["adaptation"]
        return Facts(
            str(store.path),
            len(store.index),
            info["bits"],
            info["fingerprint"],
            info["model"],
            info["looks"],
            info["structure"],
            None if adaptation is None else adaptation.fingerprint,
        )
