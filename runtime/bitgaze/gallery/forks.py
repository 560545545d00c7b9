"""Forks: a forked child neither waits for a thread of its parent nor uses what that was using.

A child has only the thread that forked. A lock that another thread held would stay locked in it for
ever, SQLite's own among them, which all connections of a process share.
"""

import _thread
import ctypes
import os
import threading
import time
from collections.abc import Iterator
from operator import methodcaller
from typing import Any
from weakref import WeakValueDictionary

# How long a fork waits for other threads, in seconds, so that the child can go on with their locks.
_WAIT_S = 0.2


class Lock(_thread.RLock):  # type: ignore[misc] # final in typeshed; the functions stay those in C
    """A reentrant lock.

    A fork waits for the locks that other threads hold, up to 0.2 s in all.

    Attributes:
        guarded: an object that only the lock's holder may use.
        inherited: in a forked child: what was guarded at the fork. It is never freed.
    """

    def __init__(self) -> None:
        self.guarded: Any = None
        self.inherited: Any = None
        _locks[id(self)] = self


_locks: WeakValueDictionary[int, Lock] = WeakValueDictionary()
# Forks of several threads go one by one.
_one_fork = threading.RLock()
_forks: list[Iterator[None]] = []
_is_cut_off = False


def is_cut_off() -> bool:
    """Whether another thread held a lock when this process was forked, or one above it."""
    return _is_cut_off


def _all_locks() -> list[Lock]:
    return [lock for ref in _locks.valuerefs() if (lock := ref()) is not None]


def _all_held() -> Iterator[None]:
    """Hold all locks but those that other threads keep too long, until the generator is closed."""
    with _one_fork:
        held: list[Lock] = []
        releases = map(methodcaller("release"), held)
        try:
            give_up = time.monotonic() + _WAIT_S
            for lock in _all_locks():
                acquire = methodcaller("acquire", timeout=max(0.0, give_up - time.monotonic()))
                # In one step: Ctrl-C cannot come between acquiring a lock and noting that.
                held.extend(filter(acquire, [lock]))
            yield
        finally:
            any(releases)  # all of them: it ends at the first true value


def _before_fork() -> None:
    fork = _all_held()
    next(fork)
    _forks.append(fork)


def _after_fork_in_child() -> None:
    global _is_cut_off  # noqa: PLW0603 (of the process)
    for lock in _all_locks():
        lock.inherited = lock.guarded
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(lock.guarded))
        if lock.acquire(blocking=False):
            lock.release()
        else:
            _is_cut_off = True
            lock._at_fork_reinit()  # type: ignore[attr-defined] # as the standard library does
    _forks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        # Closes the generator. A function written in C: Ctrl-C cannot come before it.
        after_in_parent=_forks.clear,
        after_in_child=_after_fork_in_child,
    )
