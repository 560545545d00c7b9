"""A gallery as a web page: static files that encode and search in the browser.

The page itself is built from `web/` and installed with bitgaze; here it gets its model, its gallery
and its thumbnails. docs/guide-web.md describes the folder.
"""

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from bitgaze.cores import available_cores
from bitgaze.encoding.heatmap import jpeg, thumbnail
from bitgaze.encoding.images import ImageFile
from bitgaze.errors import GalleryError, ImageError
from bitgaze.gallery.flat.gallery import FlatGallery
from bitgaze.gallery.gallery import Gallery
from bitgaze.gallery.items import FileState, Item, reason_unusable

SITE = Path(__file__).resolve().parent.parent / "web" / "site"
THUMBNAIL_PX = 256
# What an export writes, besides the files of the page. `site.json` comes last: it names the others.
_MODEL, _GALLERY, _THUMBNAILS, _MANIFEST, _INDEX = (
    "model.onnx",
    "gallery.flat",
    "thumbnails.pack",
    "manifest.webmanifest",
    "site.json",
)
_BATCH = 256
_MOST_SIDE_PX = 2048


@dataclass(frozen=True)
class Website:
    """What was written.

    Attributes:
        items: number of images that the page searches.
        bytes: length of all files.
        failed: key to reason of each item whose thumbnail is missing, since its file is gone, has
            changed, or cannot be read; items that were added by hand have none either, and are not
            in here.
    """

    items: int
    bytes: int
    failed: dict[str, str]


def export_web(
    gallery: Gallery,
    folder: str | os.PathLike[str],
    *,
    thumbnail_px: int = THUMBNAIL_PX,
    on_progress: Callable[[int, int], None] | None = None,
) -> Website:
    """Write a web page that searches a gallery in the browser, without a server's help.

    The folder has the gallery's codes, keys and metadata, its model, and thumbnails: whoever can
    open the page can read them. Keys are relative to the folder above the images.

    Args:
        gallery: the gallery.
        folder: a new or empty folder, or one that an earlier export has written.
        thumbnail_px: longest side of a thumbnail, 16 to 2048; 0 for none.
        on_progress: called with (done, total) thumbnails.

    Raises:
        FingerprintMismatch: the gallery was opened without an encoder, and its model was not
            found.
        GalleryError: the folder holds something else, cannot be written, the gallery has codes
            without a model or images on several drives, or this bitgaze was installed without the
            page.
        ValueError: `thumbnail_px` is out of range.
    """
    if thumbnail_px != 0 and not 16 <= thumbnail_px <= _MOST_SIDE_PX:
        raise ValueError(f"thumbnail_px is {thumbnail_px}, expected 0 or 16 to {_MOST_SIDE_PX}")
    model = _model_of(gallery)
    if not (SITE / "index.html").is_file():
        raise GalleryError(
            f"{SITE}: this bitgaze was installed without the web page; in a checkout, run "
            "`make web` and install again"
        )
    folder, below = Path(folder).expanduser(), _above(gallery)
    try:
        _check_folder(folder)
        shutil.copytree(SITE, folder, dirs_exist_ok=True)
        _replace(folder / _MODEL, model)
        items = gallery.export_flat(folder / _GALLERY, below=below)
        (folder / _GALLERY).chmod(0o644)  # to be published, unlike a gallery
        failed: dict[str, str] = {}
        (folder / _THUMBNAILS).unlink(missing_ok=True)
        if thumbnail_px:
            failed = _write_thumbnails(gallery, folder, below, thumbnail_px, on_progress)
        name = gallery.path.stem
        _replace(folder / _MANIFEST, _manifest(name))
        files = {path.relative_to(folder).as_posix(): _described(path) for path in _files(folder)}
        index = {"name": name, "items": items, "files": files}
        _replace(folder / _INDEX, json.dumps(index, indent=1).encode())
    except OSError as error:
        raise GalleryError(f"{error.filename or folder}: {error.strerror}") from error
    return Website(items, sum(path.stat().st_size for path in _files(folder)), failed)


def _model_of(gallery: Gallery) -> bytes:
    if not gallery.fingerprint:
        raise GalleryError(
            f"{gallery.path}: has codes without a model, and the page could not encode images"
        )
    return gallery.encoder.model.path.read_bytes()


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise GalleryError(f"{folder}: is no folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _INDEX).is_file():
        raise GalleryError(f"{folder}: holds something else; name a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        # Hidden: a checkout's .git, and what an interrupted export left.
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not is_hidden and path.name != _INDEX and path.is_file():
            yield path


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.replace(path)


def _described(path: Path) -> tuple[int, str]:
    """Length and digest, by which a browser knows whether it has this file already."""
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _manifest(name: str) -> bytes:
    """What makes the page installable (W3C Web Application Manifest)."""
    icons = [
        {"src": f"icon-{side}.png", "sizes": f"{side}x{side}", "type": "image/png"}
        for side in (192, 512)
    ]
    manifest = {
        "name": f"{name} - bitgaze",
        "short_name": name,
        "description": "Find images that look like yours, on this device.",
        "start_url": "./",
        "scope": "./",
        "display": "standalone",
        "background_color": "#faf9f7",
        "theme_color": "#faf9f7",
        "icons": icons,
    }
    return json.dumps(manifest, indent=1).encode()


def _above(gallery: Gallery) -> str | None:
    """The folder that keys are written relative to: where the images are is nobody's business."""
    folders = () if gallery.sources is None else gallery.sources.folders
    if not folders:
        return None
    if len(folders) == 1:
        return str(Path(folders[0]).parent)  # its name stays
    try:
        return os.path.commonpath(folders)
    except ValueError:
        raise GalleryError(
            f"{gallery.path}: its images are on several drives, so keys cannot be written relative "
            "to one folder; index each drive into a gallery of its own"
        ) from None


def _write_thumbnails(
    gallery: Gallery,
    folder: Path,
    below: str | None,
    side: int,
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, str]:
    """Write the pack: items + 1 offsets (u64, little-endian), then JPEG files, by slot.

    Returns:
        Key to reason of those that are missing.
    """
    failed: dict[str, str] = {}
    new = folder / f".{_THUMBNAILS}.new"
    with (
        FlatGallery(folder / _GALLERY) as flat,  # whose slots stay as they are
        new.open("wb") as file,
        ThreadPoolExecutor(available_cores()) as pool,
    ):
        keys, ends = iter(flat), [8 * (len(flat) + 1)]
        file.seek(ends[0])
        while batch := [(key, _item(gallery, below, key)) for key in islice(keys, _BATCH)]:
            states = [None if item is None else item.file for _, item in batch]
            found = pool.map(lambda state: _thumbnail(state, side), states)
            for (key, _), image in zip(batch, found, strict=True):
                if isinstance(image, str):
                    failed[key] = image
                else:
                    file.write(image)
                ends.append(file.tell())
            if on_progress is not None:
                on_progress(len(ends) - 1, len(flat))
        _write_offsets(file, ends)
    new.replace(folder / _THUMBNAILS)
    return failed


def _item(gallery: Gallery, below: str | None, key: str) -> Item | None:
    """The item of a key in the exported file; None if it has been removed since."""
    full = None if below is None else os.path.join(below, key)  # noqa: PTH118
    found: Item | None = gallery.get(full, None) if full is not None else None
    return found or gallery.get(key, None)


def _write_offsets(file: BinaryIO, ends: Iterable[int]) -> None:
    file.seek(0)
    for end in ends:
        file.write(struct.pack("<Q", end))


def _thumbnail(state: FileState | None, side: int) -> bytes | str:
    """A JPEG; empty for an item without a file; or why there is none."""
    if state is None:
        return b""
    image = ImageFile(state.path, is_tolerant=True)
    try:
        small, error = jpeg(thumbnail(image, side)), None
    except ImageError as found:
        small, error = b"", found
    return reason_unusable(state, image, error) or small
