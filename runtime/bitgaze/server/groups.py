"""Groups of duplicates, computed once for all who ask, in a thread of their own.

The computation works on another connection to the gallery, so that searches do not wait for it, and
ends when nobody asks for its result any more.
"""

import threading
import time
from collections.abc import Iterable
from pathlib import Path

import anyio

from bitgaze.gallery.duplicates import Duplicate, DuplicateGroup
from bitgaze.gallery.gallery import Gallery

_PATIENCE_S = 10.0
_MAX_WAIT_S, _WAIT_S = 1.0, 0.05


class Abandoned(Exception):
    """Nobody asked for the result any more."""


class Computation:
    """Groups of duplicates that are being computed, or have been.

    Attributes:
        state: of the gallery at the time, as `Gallery.state`.
        groups: the groups; None until they are known.
        error: what stopped it, if anything did.
        done, total: how much of its present step is done.
    """

    def __init__(self, path: Path, state: str, turn: threading.Lock, *, look_alikes: bool) -> None:
        self.state = state
        self.groups: list[DuplicateGroup] | None = None
        self.error: Exception | None = None
        self.done, self.total = 0, 0
        self._path, self._turn, self._look_alikes = path, turn, look_alikes
        self._asked = time.monotonic()
        # A daemon, so that Ctrl-C does not wait for it. It writes nothing.
        self._thread = threading.Thread(target=self._run, name="duplicates", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive()

    async def wait(self) -> None:
        """Wait until it has ended, but not for long."""
        end = time.monotonic() + _MAX_WAIT_S
        while self.is_running and time.monotonic() < end:
            self._asked = time.monotonic()
            await anyio.sleep(_WAIT_S)
        self._asked = time.monotonic()

    def _run(self) -> None:
        try:
            with self._turn:
                self._show(0, 0)
                with Gallery(self._path, create=False) as gallery:
                    self.groups = gallery.duplicates(
                        look_alikes=self._look_alikes, on_progress=self._show
                    )
        except Exception as error:  # for whoever asks
            self.error = error

    def _show(self, done: int, total: int) -> None:
        if time.monotonic() - self._asked > _PATIENCE_S:
            raise Abandoned
        self.done, self.total = done, total


class Groups:
    """The groups of duplicates of a gallery: with and without look-alikes, one at a time.

    Args:
        gallery: the gallery.
    """

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self._turn = threading.Lock()
        self._changing = threading.Lock()
        self._kept: dict[bool, Computation] = {}

    def get(self, known_state: str | None, *, look_alikes: bool) -> Computation:
        """The groups of the present state, or those that are being computed already.

        Args:
            known_state: of an earlier computation, to go on with its groups, if they are still
                kept, although the gallery has changed; None for the present one.
            look_alikes: whether to look for look-alikes too.
        """
        with self._changing:
            kept = self._kept.get(look_alikes)
            is_abandoned = kept is not None and isinstance(kept.error, Abandoned)
            is_wanted = kept is not None and (kept.is_running or kept.state == known_state)
            if kept is not None and is_wanted and not is_abandoned:
                return kept
            state = self._gallery.state
            if kept is None or kept.groups is None or kept.state != state:
                kept = Computation(self._gallery.path, state, self._turn, look_alikes=look_alikes)
                self._kept[look_alikes] = kept
            return kept

    def set_distinct(self, pairs: Iterable[tuple[str, str]], *, are_distinct: bool) -> None:
        """Note in the gallery whether pairs of items are distinct.

        Groups that are known lose what is distinct from another member, so that they need not be
        computed again. They lose them by key: identical files of these leave the groups when they
        are computed again.

        Raises:
            KeyError, GalleryError: as for `Gallery.set_distinct`; then nothing is noted.
        """
        pairs = list(pairs)
        # On another connection: while it waits for other writers, searches go on.
        with Gallery(self._gallery.path, create=False) as gallery, gallery.transaction():
            before = gallery.state
            for one, other in pairs:
                gallery.set_distinct(one, other, are_distinct=are_distinct)
            after = gallery.state
        with self._changing:
            for kept in self._kept.values():
                if kept.groups is not None and kept.state == before and are_distinct:
                    kept.groups = without(kept.groups, pairs)
                    kept.state = after


def without(
    groups: Iterable[DuplicateGroup], pairs: Iterable[tuple[str, str]]
) -> list[DuplicateGroup]:
    """Groups without the members that are distinct from an earlier one; those of one are left out.

    Args:
        groups: the groups.
        pairs: keys of items that are distinct.
    """
    distinct = {frozenset(pair) for pair in pairs}
    left = []
    for group in groups:
        others: list[Duplicate] = []
        for other in group.others:
            kept = [group.best, *others]
            if not any(frozenset((other.key, one.key)) in distinct for one in kept):
                others.append(other)
        if others:
            left.append(DuplicateGroup(group.best, tuple(others)))
    return left
