"""What the `bitgaze` command writes to stdout and stderr, and how it shows progress.

Knows terminals and closed pipes. Does not know commands.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from bitgaze.errors import BitgazeError

# Without a terminal; in a log, a line that comes more often is noise.
_LINE_S = 10.0
# What is done before a person would have seen the bar shows none.
_BAR: dict[str, Any] = {"delay": 0.2, "dynamic_ncols": True}


@contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """On a terminal a bar, else a line every ten seconds; moved by (done, total) units.

    A count that begins again, from a smaller number, is another one.
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
        if now - shown < _LINE_S or not 0 < done < total:
            return
        shown = now
        rate = done / max(now - began, 1e-3)
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
        left = duration((total - done) / rate)
        note(f"{what}: {done:,} of {total:,} {unit}, {speed} a second, {left} left")

    return show


def duration(seconds: float) -> str:
    """As one would say it: in seconds, minutes, or hours and minutes."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def say(*lines: str) -> None:
    """Results to stdout, at once: what cannot be written is met here, not when Python exits."""
    try:
        for line in lines:
            print(_fit_for(sys.stdout, line))
        sys.stdout.flush()
    except OSError as error:
        # Python would try the rest again as it exits, and print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise BitgazeError(f"stdout: {error.strerror}") from error


def warn(text: str) -> None:
    """What went wrong, to stderr."""
    note(f"bitgaze: {text}")


def note(text: str) -> None:
    """What is no result, to stderr."""
    print(_fit_for(sys.stderr, text), file=sys.stderr)


def _fit_for(stream: TextIO, line: str) -> str:
    r"""On a terminal, control characters (of a file's name) as \xNN: shown, not obeyed."""
    if not stream.isatty():
        return line
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", line)
