"""Single steps of a gallery that it does not offer to its users, for tests of those steps."""

import os

from bitgaze import Gallery, Item
from bitgaze.gallery.items import FileState


def move(gallery: Gallery, *moves: tuple[str, str, FileState | None]) -> None:
    """Give items other keys and files, as `sync` does when files were renamed."""
    with gallery._store.writing():
        gallery._store.move(moves)


def files(gallery: Gallery, folder: str | os.PathLike[str]) -> dict[str, FileState]:
    """Key to file of the items below a folder, given by its absolute path."""
    prefix = os.fsencode(folder).rstrip(b"/") + b"/"
    with gallery._store.reading():
        return gallery._store.files((prefix,))


def item_of_file(gallery: Gallery, path: str) -> Item | None:
    """The item made from the file with this absolute path, or None."""
    with gallery._store.reading():
        return gallery._store.item_of_file(os.fsencode(path))
