"""Writes to stdout and stderr, on terminals and into pipes that may close; shows progress."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from bitgaze.errors import BitgazeError

_LINE_INTERVAL_S = 10.0  # without a terminal; more lines are noise in a log
# The delay hides the bar of a task that ends at once.
_BAR: dict[str, Any] = {"delay": 0.2, "dynamic_ncols": True}


@contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress: a bar on a terminal, otherwise a line every ten seconds.

    Args:
        what: the task, such as "indexing".
        unit: plural of what it counts, such as "images".

    Yields:
        A function that takes (done, total). When `done` falls, a new count begins.
    """
    if not sys.stderr.isatty():
        yield _lines(what, unit)
        return
    from tqdm import tqdm

    with tqdm(desc=what, unit=f" {unit}", leave=False, **_BAR) as bar:

        def show(done: int, total: int) -> None:
            if done < bar.n:
                bar.reset(total)
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _lines(what: str, unit: str) -> Callable[[int, int], None]:
    began = shown = last = time.monotonic()
    before = 0

    def show(done: int, total: int) -> None:
        nonlocal began, shown, last, before
        now = time.monotonic()
        if done < before:
            began = last
        last, before = now, done
        if now - shown < _LINE_INTERVAL_S or not 0 < done < total:
            return
        shown = now
        rate = done / max(now - began, 1e-3)
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
        left = duration((total - done) / rate)
        note(f"{what}: {done:,} of {total:,} {unit}, {speed} a second, {left} left")

    return show


def duration(seconds: float) -> str:
    """A duration as people say it: in seconds, minutes, or hours and minutes."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def images(count: int) -> str:
    """A number of images, as text."""
    return f"{count} image" if count == 1 else f"{count} images"


def say(*lines: str) -> None:
    """Write results to stdout, and flush: a write error appears here, not when Python exits."""
    say_raw("".join(f"{_escaped_for(sys.stdout, line)}\n" for line in lines))


def say_raw(text: str) -> None:
    """Write text to stdout as it is, and flush."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # At exit, Python would flush the rest and print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise BitgazeError(f"stdout: {error.strerror}") from error


def warn(text: str) -> None:
    """Write what went wrong to stderr."""
    note(f"bitgaze: {text}")


def note(text: str) -> None:
    """Write to stderr what is not a result."""
    print(_escaped_for(sys.stderr, text), file=sys.stderr)


def _escaped_for(stream: TextIO, line: str) -> str:
    r"""The line; for a terminal, with control characters (of file names) as \xNN."""
    if not stream.isatty():
        return line
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: f"\\x{ord(match[0]):02x}", line)
