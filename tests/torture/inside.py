"""Internal operations of a gallery, for tests of them."""

import os

from bitgaze import Gallery, Item
from bitgaze.gallery.items import FileState


def move(gallery: Gallery, *moves: tuple[str, str, FileState | None]) -> None:
    """Change keys and files of items, as `sync` does after files were renamed."""
    with gallery._store.writing():
        gallery._store.move(moves)


def files(gallery: Gallery, folder: str | os.PathLike[str]) -> dict[str, FileState]:
    """Key to file, for the items below a folder; the path is absolute."""
    prefix = os.fsencode(folder).rstrip(b"/") + b"/"
    with gallery._store.reading():
        return gallery._store.files((prefix,))


def item_of_file(gallery: Gallery, path: str) -> Item | None:
    """The item that sync made from the file with this absolute path, or None."""
    with gallery._store.reading():
        return gallery._store.item_of_file(os.fsencode(path))
