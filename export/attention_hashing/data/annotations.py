"""Images with several labels and the boxes of their objects, from an annotations.tsv.

The file has no heading and up to four columns, separated by tabs: the path of an image, relative
to the file; its labels, separated by commas; its boxes `label:x0,y0,x1,y1`, separated by blanks, in
pixels of the file, x1 and y1 exclusive; and the name of a part, such as train. The last two may be
empty. Reads the size of an image only where it has boxes, and does not import torch.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attention_hashing.data.errors import DataError

ANNOTATIONS = "annotations.tsv"


@dataclass(frozen=True)
class Boxes:
    """The boxes of one image.

    Attributes:
        labels: int64, (k,), positions in the classes.
        corners: float32, (k, 4), left, top, right, bottom as shares of the image's sides.
    """

    labels: NDArray[np.int64]
    corners: NDArray[np.float32]


@dataclass(frozen=True)
class Annotated:
    """The images of an annotations.tsv, in its order.

    Attributes:
        paths: of n images.
        labels: of each image, at least one.
        boxes: of each image; there may be none.
        parts: of each image; empty if none is named.
        classes: all labels, sorted.
    """

    paths: list[Path]
    labels: list[tuple[str, ...]]
    boxes: list[Boxes]
    parts: list[str]
    classes: tuple[str, ...]

    def one_hot(self) -> NDArray[np.bool_]:
        """Labels as bool (n, classes): true where an image has the label."""
        found = np.zeros((len(self.paths), len(self.classes)), bool)
        place = {name: at for at, name in enumerate(self.classes)}
        for row, names in zip(found, self.labels, strict=True):
            row[[place[name] for name in names]] = True
        return found


def read(folder: Path) -> Annotated:
    """Read the annotations.tsv of a folder.

    Raises:
        DataError: it does not exist, has no line or an invalid one, names a missing file, names a
            file twice, or has a box outside its image or with a label that the image lacks.
    """
    table = folder.resolve() / ANNOTATIONS
    try:
        lines = table.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: not a text file in UTF-8 ({error})") from error
    except OSError as error:
        raise DataError(f"{table}: {error.strerror}") from error
    cells = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{table}, line {number}"
        name, *more = (cell.strip() for cell in line.split("\t"))
        labels = tuple(more[0].split(",")) if more else ()
        if not labels or not all(labels) or len(more) > 3:
            raise DataError(
                f"{where}: expected path, labels, boxes and part, separated by tabs, found {line!r}"
            )
        path = table.parent / name
        if not path.is_file():
            raise DataError(f"{where}: {path} does not exist")
        if path in cells:
            raise DataError(f"{where}: {name} is listed twice; put all its labels in one line")
        cells[path] = where, labels, *more[1:], *[""] * (3 - len(more))
    if not cells:
        raise DataError(f"{table}: lists no image")
    classes = tuple(sorted({name for _, labels, _, _ in cells.values() for name in labels}))
    return Annotated(
        list(cells),
        [labels for _, labels, _, _ in cells.values()],
        [_boxes(path, *cell[:3], classes) for path, cell in cells.items()],
        [part for *_, part in cells.values()],
        classes,
    )


def _boxes(
    path: Path, where: str, labels: tuple[str, ...], text: str, classes: tuple[str, ...]
) -> Boxes:
    words = text.split()
    if not words:
        return Boxes(np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
    with Image.open(path) as image:
        width, height = image.size
    found, corners = [], []
    for word in words:
        name, _, numbers = word.rpartition(":")
        try:
            left, top, right, bottom = (int(one) for one in numbers.split(","))
        except ValueError as error:
            raise DataError(f"{where}: expected label:x0,y0,x1,y1, found {word!r}") from error
        if name not in labels:
            raise DataError(f"{where}: a box of {name!r}, which is not a label of the image")
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise DataError(f"{where}: the box {word} is not inside {width} x {height} px")
        found.append(classes.index(name))
        corners.append((left / width, top / height, right / width, bottom / height))
    return Boxes(np.array(found, np.int64), np.array(corners, np.float32))
