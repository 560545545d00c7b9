"""A folder that appears under its name once all of it is written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bitgaze.errors import InterchangeError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder, for its owner only; it is renamed to `out` on success, else deleted.

    Raises:
        InterchangeError: `out` exists or cannot be created.
    """
    if out.exists():
        raise InterchangeError(f"{out}: already exists; an export needs the name of a new folder")
    if not out.parent.is_dir():
        raise InterchangeError(f"{out}: the folder {out.parent} does not exist; create it first")
    try:
        with TemporaryDirectory(prefix=".bitgaze-", dir=out.parent) as folder:
            unfinished = Path(folder, "unfinished")
            unfinished.mkdir(mode=0o700)
            yield unfinished
            unfinished.rename(out)
    except OSError as error:
        raise InterchangeError(f"{out}: cannot be written: {error.strerror or error}") from error
