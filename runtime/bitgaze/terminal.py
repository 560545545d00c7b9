"""What the `bitgaze` command writes to stdout and stderr, and its progress bar.

Knows terminals and closed pipes. Does not know commands.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from bitgaze.errors import BitgazeError


@contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar, moved by (done, total) units."""
    from tqdm import tqdm

    # disable=None: no bar where stderr is not a terminal.
    with tqdm(unit=unit, desc=what, disable=None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


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
