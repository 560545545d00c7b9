"""The plan of an encoding: which images make up each shard, decided once, before any is read.

A shard is described by a JSON object:
    {"kind": "images", "paths": [...], "refused": [[key, reason], ...]}
    {"kind": "parquet", "path": ..., "groups": [first, end], "row": number of the first row}
    {"kind": "webdataset", "path": ...}
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any, Literal, get_args

from bitgaze.encoding.images import printable
from bitgaze.errors import ClusterError
from bitgaze.gallery.sync.folders import Known, absolute, find_roots, scan
from bitgaze.gallery.sync.patterns import PathFilter
from bitgaze.interchange.parquet import pyarrow, row_group_runs

Kind = Literal["images", "parquet", "webdataset"]
Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Shard = dict[str, Any]

_SUFFIXES: dict[str, tuple[str, ...]] = {
    "parquet": (".parquet",),
    "webdataset": (".tar", ".tar.gz", ".tgz"),
}


def plan(source: Source, kind: Kind | None, shard_images: int) -> Iterator[Shard]:
    """Divide a source into shards, always in the same way.

    Args:
        source: as `encode` takes it.
        kind: of the source; None to infer it from the names.
        shard_images: number of images of a shard; row groups and tars are not divided.

    Raises:
        ClusterError: there is nothing of this name, or no image.
        ValueError: the kind is unknown, or names are of several kinds.
    """
    if kind is not None and kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}, expected one of {get_args(Kind)} or None")
    paths = _named(source)
    kind = kind or _kind_of(paths)
    if kind == "images":
        shards = _of_images(paths, shard_images)
    elif kind == "parquet":
        files = _files(paths, kind)
        shards = (shard for path in files for shard in _of_parquet(path, shard_images))
    else:
        shards = ({"kind": kind, "path": path} for path in _files(paths, kind))
    first = next(shards, None)
    if first is None:
        raise ClusterError(f"no images: {', '.join(map(printable, paths[:3]))} holds none")
    yield first
    yield from shards


def _named(source: Source) -> list[str]:
    """The names of a source as absolute paths."""
    if not isinstance(source, str | os.PathLike):
        return [absolute(one) for one in source]
    path = absolute(source)
    if not os.path.exists(path) and any(sign in path for sign in "*?["):  # noqa: PTH110
        return sorted(glob(path, recursive=True))  # noqa: PTH207 (as text)
    if path.endswith(".txt"):
        try:
            lines = Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except OSError as error:
            raise ClusterError(f"{printable(path)}: {error.strerror}") from error
        return [absolute(line) for line in lines if line]
    return [path]


def _kind_of(paths: Sequence[str]) -> Kind:
    if not paths:
        raise ClusterError("no images: the list, or the pattern, names no file")
    kinds: set[Kind] = {_kind_of_name(path) for path in paths}
    if len(kinds) > 1:
        raise ValueError(
            f"the source has names of several kinds, {' and '.join(sorted(kinds))}: encode each "
            "into a folder of its own"
        )
    return kinds.pop()


def _kind_of_name(path: str) -> Kind:
    if path.lower().endswith(_SUFFIXES["parquet"]):
        return "parquet"
    return "webdataset" if path.lower().endswith(_SUFFIXES["webdataset"]) else "images"


def _files(paths: Sequence[str], kind: str) -> Iterator[str]:
    """The files of a kind: those named, and those in folders that are named."""
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112
            inside = (str(one) for one in Path(path).rglob("*") if one.is_file())
            yield from sorted(one for one in inside if one.lower().endswith(_SUFFIXES[kind]))
        elif os.path.exists(path):  # noqa: PTH110
            yield path
        else:
            raise ClusterError(f"{printable(path)}: no such file or folder")


def _of_images(paths: Sequence[str], shard_images: int) -> Iterator[Shard]:
    refused: list[list[str]] = []
    folders = [path for path in paths if os.path.isdir(path)]  # noqa: PTH112
    if len(folders) == len(paths) or len(paths) == 1:
        try:
            found = scan(find_roots(paths), PathFilter((), ()), Known())
        except NotADirectoryError as error:
            raise ClusterError(f"{error.filename}: {error.strerror}") from error
        refused += [list(pair) for pair in sorted(found.failed.items())]
        paths = sorted(found.states)
    elif folders:
        raise ValueError(
            f"{printable(folders[0])} is a folder among files: pass folders or files, not both"
        )
    else:
        named = paths
        paths = list(dict.fromkeys(named))
        seen: set[str] = set()
        for path in named if len(paths) < len(named) else ():
            if path in seen:
                refused.append([printable(path), "is named twice"])
            seen.add(path)
    for start in range(0, len(paths), shard_images):
        some = list(paths[start : start + shard_images])
        yield {"kind": "images", "paths": some, "refused": refused if start == 0 else []}


def _of_parquet(path: str, shard_images: int) -> Iterator[Shard]:
    arrow = pyarrow()
    try:
        with pyarrow("pyarrow.parquet").ParquetFile(path) as file:
            runs = list(row_group_runs(file, shard_images))
    except (OSError, arrow.ArrowInvalid) as error:
        raise ClusterError(f"{printable(path)}: is not a Parquet file: {error}") from error
    for first, end, row in runs:
        yield {"kind": "parquet", "path": path, "groups": [first, end], "row": row}


def refused_by_plan(shard: Shard) -> Iterable[tuple[str, str]]:
    """Key and reason of what the plan could not take."""
    return ((key, reason) for key, reason in shard.get("refused", ()))
