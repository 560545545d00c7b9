"""The folder that an encoding writes: what it holds, and what of it is finished.

    manifest.json     how the folder was made, and whether it is complete
    plan.jsonl        what each shard is made of, a line each
    part-000000.parquet, .json
                      the items of a shard; a receipt that it is finished, with the images that were
                      refused
    gallery-000000.bitgaze
                      the items of some consecutive shards

Each file gets its name once it is complete. A shard is finished once its .json is there. Nothing
here depends on the time or on the machine, so a shard that is done again is the same file.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bitgaze.distributed.plan import Shard
from bitgaze.errors import ClusterError

FORMAT = 1
MANIFEST, PLAN = "manifest.json", "plan.jsonl"
Refusal = tuple[str, str]


def part(out: Path, number: int, suffix: str) -> Path:
    """A file of a shard."""
    return out / f"part-{number:06d}.{suffix}"


def gallery(out: Path, number: int) -> Path:
    """The gallery of some shards."""
    return out / f"gallery-{number:06d}.bitgaze"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write a file to; it is renamed to `path` on success, else deleted."""
    unfinished = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)


def remove_unfinished(out: Path) -> None:
    """Delete what `replacing` has left behind in processes that were killed."""
    for name in ("part-*", MANIFEST, PLAN):
        for left in out.glob(f".{name}.*"):
            left.unlink(missing_ok=True)


def write_manifest(out: Path, entries: dict[str, Any]) -> None:
    """Write the manifest."""
    content = json.dumps({"format": FORMAT, **entries}, indent=1) + "\n"
    write_atomically(out / MANIFEST, content.encode())


def read_manifest(out: Path) -> dict[str, Any] | None:
    """The manifest; None if there is none.

    Raises:
        ClusterError: it is damaged, or of a newer format.
    """
    path = out / MANIFEST
    try:
        entries = json.loads(path.read_bytes())
        if entries["format"] != FORMAT:
            raise ClusterError(
                f"{path}: is of format {entries['format']!r}, but this version of bitgaze reads "
                f"format {FORMAT}; update bitgaze"
            )
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise ClusterError(f"{path}: is no manifest of shards: {error!r}") from error
    return dict(entries)


def _existing_manifest(out: Path) -> dict[str, Any]:
    entries = read_manifest(out)
    if entries is None:
        raise ClusterError(f"{out}: has no {MANIFEST}; pass a folder that encode has written")
    return entries


def complete_manifest(out: Path) -> dict[str, Any]:
    """The manifest of a complete encoding.

    Raises:
        ClusterError: there is none, or the encoding is not complete.
    """
    entries = _existing_manifest(out)
    if not entries["is_complete"]:
        raise ClusterError(f"{out}: the encoding is not complete; run encode again to finish it")
    return entries


def write_plan(out: Path, shards: Iterator[Shard]) -> None:
    """Write the plan."""
    lines = "".join(json.dumps(shard) + "\n" for shard in shards)
    write_atomically(out / PLAN, lines.encode())


def plan_offsets(out: Path) -> list[int]:
    """Where each line of the plan begins."""
    offsets, at = [], 0
    with (out / PLAN).open("rb") as file:
        for line in file:
            offsets.append(at)
            at += len(line)
    return offsets


def read_shard(out: Path, offset: int) -> Shard:
    """A line of the plan."""
    with (out / PLAN).open("rb") as file:
        file.seek(offset)
        shard: Shard = json.loads(file.readline())
    return shard


def finish(out: Path, number: int, items: int, refused: list[Refusal]) -> None:
    """Note that a shard is finished, whose Parquet file is written."""
    size = part(out, number, "parquet").stat().st_size
    receipt = {"items": items, "bytes": size, "refused": refused}
    write_atomically(part(out, number, "json"), json.dumps(receipt).encode())


def receipt(out: Path, number: int) -> dict[str, Any] | None:
    """What `finish` noted; None if the shard is not finished, or its Parquet file is another."""
    try:
        noted: dict[str, Any] = json.loads(part(out, number, "json").read_bytes())
        size = part(out, number, "parquet").stat().st_size
    except (FileNotFoundError, ValueError):
        return None
    return noted if size == noted["bytes"] else None


def refused(out: str | os.PathLike[str]) -> Iterator[Refusal]:
    """Key and reason of each image that an encoding could not take, in the order of the source.

    Args:
        out: folder that `encode` has written; of shards that are not finished, nothing is known.

    Raises:
        ClusterError: there is no encoding.
    """
    folder = Path(out)
    for number in range(_existing_manifest(folder)["shards"]):
        noted = receipt(folder, number)
        yield from ((key, reason) for key, reason in (noted["refused"] if noted else ()))
