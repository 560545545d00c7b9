"""IDX files of images and labels, as published for MNIST and Fashion-MNIST.

The format (yann.lecun.com/exdb/mnist) is a magic number, big-endian sizes, then bytes. Files may be
plain or .gz.
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
    """Whether the folder contains IDX training images, complete or not."""
    names = (p.name for p in folder.iterdir())
    return any(name.startswith("train-images") and "idx3" in name for name in names)


def read(
    folder: Path, part: Literal["train", "t10k"]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the images and labels of one part.

    Args:
        folder: of the files.
        part: "train", or "t10k" for the test images.

    Returns:
        Images uint8 (n, height, width) and labels int64 (n,).

    Raises:
        DataError: files are missing, damaged, or of different lengths.
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
            raise DataError(f"{packed}: not a gzip file, or a damaged one ({error})") from error
    else:
        raise DataError(f"{folder}: contains neither {name} nor {name}.gz")
    magic, header = _MAGIC_BYTES_UBYTE + bytes([dimensions]), 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:header].ljust(header - 4, b"\0"), ">u4").tolist())
    if content[:4] != magic or len(content) != header + math.prod(shape):
        raise DataError(
            f"{folder / name}: not an IDX file of {dimensions} dimensions, or a damaged one"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
