"""A budget of memory for decoding images, shared by all threads of the process.

An image file of a few kilobytes can take gigabytes to decode. Whoever decodes one reserves its cost
first: images wait for one another, and one that can never fit is refused before it is decoded.
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

VARIABLE, OPTION = "BITGAZE_MAX_DECODED_MB", "--max-decoded-mb"

_MB = 1_000_000
# The rest is for the network, the gallery and everybody else.
_SHARE = 1 / 4
# Where the system does not tell, as on Windows.
_UNKNOWN_MEMORY_BYTES = 4 << 30
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
# Version 1 of cgroups says "no limit" with a number near 2 ** 63.
_NO_LIMIT = 1 << 60
_LARGE_BYTES = 64 * _MB
# A waiting thread looks by itself this often, so that an interrupt at any point costs no more.
_LOOK_S = 0.5


class Budget:
    """A number of bytes. Threads reserve parts of it, in the order in which they ask.

    Without a lock, which an interrupt could leave locked: a reservation is granted once it and all
    those before it fit. Since nobody overtakes, small images do not starve large ones.

    Args:
        total_bytes: of all granted reservations together.

    Attributes:
        parts: bytes of each reservation, granted or waiting, in order.
    """

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.parts: dict[Reservation, int] = {}


class Reservation:
    """A part of a budget.

    A thread holds one at a time: two threads that each hold one and wait for a second one would
    wait for ever. To give it back, in a `finally` whose `try` comes before `take`, remove it from
    `budget.parts`, in one step that no interrupt can divide, and call `wake_others`.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._turn = threading.Lock()

    def take(self, cost_bytes: int) -> None:
        """Wait until there is room.

        Args:
            cost_bytes: at least 0.

        Raises:
            ValueError: more than the whole budget.
        """
        total_bytes = self.budget.total_bytes
        if cost_bytes > total_bytes:
            raise ValueError(
                f"decoding it takes {cost_bytes / _MB:,.0f} MB of memory, the limit is "
                f"{total_bytes / _MB:,.0f} MB; {OPTION} or ${VARIABLE} raises it"
            )
        self.budget.parts[self] = cost_bytes
        while not self._is_granted():
            self._turn.acquire(timeout=_LOOK_S)

    def take_some(self, cost_bytes: int) -> None:
        """Like `take`, but where that is more than the whole budget, wait for all of it."""
        self.take(min(cost_bytes, self.budget.total_bytes))

    def wake_others(self) -> None:
        """Let those who wait look again."""
        for other in list(self.budget.parts):
            with suppress(RuntimeError):  # it is awake
                other._turn.release()

    def _is_granted(self) -> bool:
        taken = 0
        for reservation, cost_bytes in list(self.budget.parts.items()):
            taken += cost_bytes
            if reservation is self:
                break
        return taken <= self.budget.total_bytes


_lock = threading.Lock()
_budget: Budget | None = None


def budget() -> Budget:
    """The budget of this process: $BITGAZE_MAX_DECODED_MB, else a quarter of its memory.

    Raises:
        ValueError: the variable is not a number of megabytes.
    """
    global _budget  # noqa: PLW0603 (one for the process)
    if _budget is None:
        with _lock:
            if _budget is None:
                text = os.environ.get(VARIABLE)
                total = megabytes(text, f"${VARIABLE}") if text else available_bytes() * _SHARE
                _budget = Budget(int(total))
    return _budget


def limit(total_bytes: int) -> None:
    """Replace the budget of this process. What is being decoded still counts for the old one."""
    global _budget  # noqa: PLW0603
    _budget = Budget(total_bytes)


def megabytes(text: str, name: str) -> int:
    """A number of megabytes as bytes.

    Raises:
        ValueError: not a number, or less than 1.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 1 <= number < float("inf"):
        raise ValueError(f"{name} is {text!r}, expected a number of megabytes, at least 1")
    return int(number * _MB)


def trim(cost_bytes: int) -> None:
    """Give freed memory back to the system after something large, before others reserve it.

    The C library keeps what a thread frees for that thread: four threads that decode in turn would
    hold four images' memory.
    """
    if cost_bytes >= _LARGE_BYTES and _malloc_trim is not None:
        _malloc_trim(0)


def _find_malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim  # of glibc alone
    except (OSError, AttributeError, TypeError):
        return None


_malloc_trim = _find_malloc_trim()


def _after_fork() -> None:
    # Other threads' reservations stay with the parent, and so do their locks.
    global _budget, _lock  # noqa: PLW0603
    _lock = threading.Lock()
    if _budget is not None:
        _budget = Budget(_budget.total_bytes)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def available_bytes() -> int:
    """The memory that this process may use: the machine's, or less where a cgroup limits it."""
    limits = [_UNKNOWN_MEMORY_BYTES]
    if hasattr(os, "sysconf"):
        with suppress(ValueError, OSError):  # some sandboxes do not tell
            limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _limit_files():
        try:
            limits.append(int(file.read_text(encoding="ascii")))
        except (OSError, ValueError):  # there is no such limit, or it is "max"
            continue
    return min((n for n in limits if 0 < n < _NO_LIMIT), default=_UNKNOWN_MEMORY_BYTES)


def _limit_files() -> Iterator[Path]:
    """Where both versions of cgroups keep the limits of this process's group and those above."""
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        lines = []
    for line in [*lines, "0::/", "0:memory:/"]:  # in a container, the group may be the root
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = _CGROUPS / "memory" if controllers else _CGROUPS
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        folder = root
        yield folder / name
        for part in Path(group.lstrip("/")).parts:
            folder /= part
            yield folder / name
