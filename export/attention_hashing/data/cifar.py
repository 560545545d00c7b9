"""CIFAR-10 as published: the python or the binary version, as an archive or unpacked.

https://www.cs.toronto.edu/~kriz/cifar.html describes the layout. The python version is a pickle,
which can run any program; only arrays, lists and text are accepted.
"""

import io
import pickle
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from attention_hashing.data.errors import DataError

_PLACES = (
    "cifar-10-batches-bin",
    "cifar-10-batches-py",
    "cifar-10-binary.tar.gz",
    "cifar-10-python.tar.gz",
)
_BATCHES = {
    "train": [f"data_batch_{number}" for number in range(1, 6)],
    "test": ["test_batch"],
}
_SIDE = 32
_VALUES = 3 * _SIDE * _SIDE


def find(path: Path) -> Path | None:
    """The folder or archive of CIFAR-10, at a path or directly below it; None if there is none."""
    first = _BATCHES["train"][0]
    for place in (path, *(path / name for name in _PLACES)):
        is_archive = place.name.endswith(".tar.gz") and place.is_file()
        if is_archive or any((place / f"{first}{end}").is_file() for end in ("", ".bin")):
            return place
    return None


def read(
    place: Path, part: Literal["train", "test"] = "train"
) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Read the images of one part.

    Args:
        place: as returned by `find`.
        part: "train" or "test".

    Returns:
        Images uint8 (n, 32, 32, 3), RGB; labels int64 (n,); names of the classes.

    Raises:
        DataError: files are missing or damaged, or a pickle contains more than data.
    """
    batches = _BATCHES[part]
    files = _unpacked(place, batches)
    binary = "batches.meta.txt" in files or f"{batches[0]}.bin" in files
    try:
        if binary:
            names = files["batches.meta.txt"].decode().split()
            parts = [_binary(files[f"{batch}.bin"]) for batch in batches]
        else:
            names = [name.decode() for name in _data(files["batches.meta"])[b"label_names"]]
            parts = [_python(_data(files[batch])) for batch in batches]
        values, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    except KeyError as error:
        raise DataError(f"{place}: CIFAR-10 lacks {error.args[0]!r}") from error
    except Exception as error:  # a damaged pickle can raise almost anything
        raise DataError(f"{place}: not CIFAR-10, or a damaged copy ({error})") from error
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(names):
        raise DataError(f"{place}: labels {labels.min()}..{labels.max()}, {len(names)} classes")
    images = values.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels, tuple(names)


def _unpacked(place: Path, batches: list[str]) -> dict[str, bytes]:
    """Contents of the files needed, by name. Nothing is extracted to disk."""
    names = {"batches.meta", "batches.meta.txt"} | {
        b + end for b in batches for end in ("", ".bin")
    }
    if place.is_dir():
        return {p.name: p.read_bytes() for p in place.iterdir() if p.name in names}
    files = {}
    try:
        with tarfile.open(place) as archive:
            for member in archive:
                if (name := Path(member.name).name) in names and member.isfile():
                    files[name] = archive.extractfile(member).read()  # type: ignore[union-attr]
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{place}: not an archive, or a damaged one ({error})") from error
    return files


def _binary(content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + _VALUES)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _python(batch: dict[bytes, Any]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    values, labels = batch[b"data"], np.array(batch[b"labels"], np.int64)
    if values.dtype != np.uint8 or values.shape != (len(labels), _VALUES):
        raise ValueError(f"data is {values.dtype} {values.shape}, with {len(labels)} labels")
    return values, labels


def _data(content: bytes) -> dict[bytes, Any]:
    return dict(_Unpickler(io.BytesIO(content), encoding="bytes").load())


class _Unpickler(pickle.Unpickler):
    """Loads data alone. A pickle names functions to call; only numpy's constructors are allowed."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        # numpy 2 moved this module, and warns when it is imported by its old name.
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.zeros(0).__reduce__()[0]  # type: ignore[return-value]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)  # type: ignore[no-any-return]
        raise pickle.UnpicklingError(f"it would call {module}.{name}")
