"""IDX files of images and labels, as MNIST and Fashion-MNIST are published.

Knows the format (yann.lecun.com/exdb/mnist): magic, big-endian sizes, bytes. Plain files or .gz.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attention_hashing.data.errors import DataError

_MAGIC_BYTES_UBYTE = b"\x00\x00\x08"


def is_here(folder: Path) -> bool:
    """Whether the folder has IDX files to train on, whole or not."""
    names = (p.name for p in folder.iterdir())
    return any(name.startswith("train-images") and "idx3" in name for name in names)


def read(
    folder: Path, part: Literal["train", "t10k"]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images and labels of a part.

    Args:
        folder: of the files.
        part: "train", or "t10k" for the test images.

    Returns:
        Images (n, height, width), and labels (n,).

    Raises:
        DataError: files are missing or damaged, or do not go together.
    """
    images = _file(folder, f"{part}-images-idx3-ubyte", 3)
    labels = _file(folder, f"{part}-labels-idx1-ubyte", 1).astype(np.int64)
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} images, but {len(labels)} labels")
    return images, labels


def _file(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    plain, packed = folder / name, folder / f"{name}.gz"
    if plain.is_file():
        content = plain.read_bytes()
    elif packed.is_file():
        try:
            content = gzip.decompress(packed.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{packed}: not a gzip file, or damaged ({error})") from error
    else:
        raise DataError(f"{folder}: neither {name} nor {name}.gz is there")
    magic, header = _MAGIC_BYTES_UBYTE + bytes([dimensions]), 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:header].ljust(header - 4, b"\0"), ">u4").tolist())
    if content[:4] != magic or len(content) != header + math.prod(shape):
        raise DataError(f"{folder / name}: not an IDX file of {dimensions} dimensions, or damaged")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
