"""Encode on a cluster: Ray Data gives shards to workers, those of a lost worker to another."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from bitgaze.arguments import at_least
from bitgaze.distributed.cluster import (
    connected,
    cpus_per_worker,
    most_workers,
    node_cpus,
    ray_data,
)
from bitgaze.distributed.output import (
    MANIFEST,
    gallery,
    part,
    plan_offsets,
    read_manifest,
    receipt,
    remove_unfinished,
    write_manifest,
    write_plan,
)
from bitgaze.distributed.plan import Kind, Source, plan
from bitgaze.distributed.samples import Columns, check_columns
from bitgaze.distributed.worker import Worker, make_gallery
from bitgaze.encoding.contract import DEFAULT_MODEL, read_model
from bitgaze.encoding.structure import STRUCTURE_BITS
from bitgaze.errors import ClusterError
from bitgaze.interchange.description import Description

# Of Ray: each takes memory of the program that started the encoding.
_MOST_TASKS = 4096
_MOST_NAMES = 100


@dataclass(frozen=True)
class EncodeReport:
    """What an encoding has done; `refused` lists the images that it could not take.

    Attributes:
        items: number of images that were encoded, in earlier runs too.
        refused: number of images that could not be.
        shards: number of shards.
        already_done: number of shards that earlier runs had finished.
    """

    items: int
    refused: int
    shards: int
    already_done: int


def encode(
    source: Source,
    out: str | os.PathLike[str],
    *,
    kind: Kind | None = None,
    image: str = "image",
    key: str | None = None,
    metadata: Sequence[str] = (),
    model: str | os.PathLike[str] | None = None,
    looks: int | None = None,
    shard_images: int = 4096,
    shards_per_gallery: int | None = None,
    cpus: int | None = None,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> EncodeReport:
    """Encode images on a cluster, into a folder of shards.

    Each worker is a process with one encoder and as many threads as it has CPUs. It makes a whole
    shard, an atomic file, before it takes the next. If a worker or its machine is lost, another
    makes that shard; if the program ends, the next call with the same arguments continues. No
    finished shard is made again. Two programs must not write to one folder at the same time.

    The source is read once, at the first call, and divided into shards: `out` holds this plan, and
    images that are added to the source later are not taken. Encode them into another folder.

    An image that cannot be read is refused: reported with its reason, and not tried again.
    Of a damaged tar or Parquet file, one refusal stands for all that follows the damage in a shard.

    Args:
        source: what to encode, as every machine sees it:
            - a folder, or several, searched recursively as `Gallery.sync` does; or a list of files,
              or a .txt file with a path per line. The key of an item is its file's absolute path.
            - Parquet files with the bytes of image files in a column, or a pattern ("*.parquet").
            - WebDataset tars, or a pattern ("train-*.tar"). Each is one shard. The key of an image
              is the tar's path, "/" and its name in it. `.json` beside an image is its metadata;
              `.txt` and `.cls` are fields of it.
        out: folder to write to; is made if it does not exist. See `bitgaze.distributed.output`.
        kind: "images", "parquet" or "webdataset"; by default what the names say. A folder is one
            of images unless this says otherwise.
        image: the column of a Parquet file with images: bytes, or structs with a field `bytes`.
        key: the column with keys, which must differ; by default the key is the file's path, "/" and
            the number of the row.
        metadata: columns that become metadata.
        model: path of a model file, on all machines; by default the model of bitgaze.
        looks: how many parts of each image get codes too; None for what the model was made for.
        shard_images: images of a shard of a folder or list, and of a Parquet file, whose row groups
            stay whole.
        shards_per_gallery: also make galleries, of this many consecutive shards each, for
            `ShardedGallery`; None makes none. A call that continues can add them.
        cpus: CPUs of a worker; by default 4, or as many as the smallest machine has.
        workers: maximum number of workers; by default as many as fit on the cluster.
        on_progress: called with (done, total) shards.

    Returns:
        What was done.

    Raises:
        ClusterError: ray is not installed; there is no image, or no CPU; or `out` holds an encoding
            of another source, model or number of looks, or galleries of other shards.
        InterchangeError: two items of a gallery have one key.
        ModelError: the model cannot be read.
        TypeError, ValueError: an argument is of the wrong type or out of range.
        OSError: `out` cannot be written.
    """
    shard_images = at_least(shard_images, "shard_images", 1)
    if shards_per_gallery is not None:
        shards_per_gallery = at_least(shards_per_gallery, "shards_per_gallery", 1)
    folder = Path(out).absolute()
    is_default = model is None
    found = read_model(DEFAULT_MODEL if model is None else Path(model).absolute())
    count = found.contract.look_count(looks)
    description = Description(
        found.contract.bits,
        found.fingerprint,
        found.contract.name,
        count,
        STRUCTURE_BITS,
        found.contract.calibration_of(count),
    )
    columns = Columns(image, key, tuple(metadata))
    settings = {
        "source": _names(source),
        "kind": kind,
        "columns": {"image": image, "key": key, "metadata": list(metadata)},
        "shard_images": shard_images,
        "fingerprint": found.fingerprint,
        "looks": count,
    }
    manifest = _begun(folder, settings, description, columns, source)
    offsets = plan_offsets(folder)
    if len(offsets) != manifest["shards"]:
        raise ClusterError(
            f"{folder}: its plan has {len(offsets)} shards, and {MANIFEST} says "
            f"{manifest['shards']}; delete the folder and encode again"
        )
    done = [receipt(folder, number) is not None for number in range(len(offsets))]
    pending = [number for number, is_done in enumerate(done) if not is_done]
    if pending:
        for path in folder.glob("gallery-*.bitgaze"):  # of a shard that is made again
            path.unlink()
    if on_progress is not None:
        on_progress(len(offsets) - len(pending), len(offsets))
    if pending:
        arguments = {
            "out": str(folder),
            "description": description.to_text(),
            "model": None if is_default else str(found.path),
            "columns": columns,
        }
        rows = [{"number": number, "offset": offsets[number]} for number in pending]
        _run(rows, arguments, cpus, workers, len(offsets), on_progress)
    report = _finished(folder, manifest, sum(done))
    if shards_per_gallery is not None:
        _make_galleries(folder, len(offsets), shards_per_gallery)
    return report


def _names(source: Source) -> list[str]:
    """The source as the manifest has it; of a long list, a digest."""
    if isinstance(source, str | os.PathLike):
        return [os.fspath(source)]
    names = [os.fspath(name) for name in source]
    if len(names) <= _MOST_NAMES:
        return names
    digest = hashlib.blake2b(json.dumps(names).encode(), digest_size=16).hexdigest()
    return [names[0], f"and {len(names) - 1} more, BLAKE2b {digest}"]


def _begun(
    folder: Path,
    settings: dict[str, Any],
    description: Description,
    columns: Columns,
    source: Source,
) -> dict[str, Any]:
    """The manifest of an encoding that was begun earlier, or is begun now."""
    manifest = read_manifest(folder)
    if manifest is None:
        shards = plan(source, settings["kind"], settings["shard_images"])
        first = next(shards)
        check_columns(first, columns)
        folder.mkdir(parents=True, exist_ok=True)
        others = [path.name for path in folder.glob("part-*")]
        if others:
            raise ClusterError(
                f"{folder}: holds {others[0]}, but no {MANIFEST}; pass a folder that is new"
            )
        write_plan(folder, chain([first], shards))
        manifest = {
            "settings": settings,
            "description": json.loads(description.to_text()),
            "shards": len(plan_offsets(folder)),
            "is_complete": False,
        }
        write_manifest(folder, manifest)
        return manifest
    for name, value in settings.items():
        if manifest["settings"][name] != value:
            raise ClusterError(
                f"{folder}: was begun with {name} {manifest['settings'][name]!r}, not {value!r}; "
                "pass the same to continue, or another folder"
            )
    return manifest


def _run(
    rows: list[dict[str, int]],
    arguments: dict[str, Any],
    cpus: int | None,
    workers: int | None,
    total: int,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Have workers make shards."""
    ray = connected()
    nodes = node_cpus(ray)
    cpus = cpus_per_worker(nodes, cpus)
    most = min(most_workers(nodes, cpus), len(rows))
    if workers is not None:
        most = min(most, at_least(workers, "workers", 1))
    with ray_data(ray):
        made = ray.data.from_items(
            rows, override_num_blocks=min(len(rows), _MOST_TASKS)
        ).map_batches(
            Worker,
            fn_constructor_kwargs=arguments | {"threads": cpus},
            batch_size=1,
            # Not a fixed number: idle workers make way for those of machines that were lost. With
            # fewer than two tasks each, Ray would not start more.
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=most, initial_size=most, max_tasks_in_flight_per_actor=2
            ),
            num_cpus=cpus,
        )
        done = total - len(rows)
        for _ in made.iter_rows():
            done += 1
            if on_progress is not None:
                on_progress(done, total)


def _make_galleries(folder: Path, shards: int, shards_per_gallery: int) -> None:
    """Have the galleries made that are not there."""
    manifest = read_manifest(folder)
    assert manifest is not None
    before = manifest.get("shards_per_gallery", shards_per_gallery)
    if before != shards_per_gallery:
        raise ClusterError(
            f"{folder}: has galleries of {before} shards each, not {shards_per_gallery}; delete "
            "gallery-*.bitgaze and shards_per_gallery in the manifest to make others"
        )
    if "shards_per_gallery" not in manifest:
        write_manifest(folder, manifest | {"shards_per_gallery": shards_per_gallery})
    starts = range(0, shards, shards_per_gallery)
    rows = [
        {"number": number, "first": first, "end": min(first + shards_per_gallery, shards)}
        for number, first in enumerate(starts)
        if not gallery(folder, number).exists()
    ]

    def make(row: dict[str, Any]) -> dict[str, Any]:
        number, first, end = (int(row[name][0]) for name in ("number", "first", "end"))
        make_gallery(folder, number, range(first, end))
        return {"number": row["number"]}

    if rows:
        ray = connected()
        with ray_data(ray):
            made = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_TASKS))
            made.map_batches(make, batch_size=1, num_cpus=1).materialize()
        for left in folder.glob(".bitgaze-*"):  # by workers that were lost
            shutil.rmtree(left, ignore_errors=True)


def _finished(folder: Path, manifest: dict[str, Any], already_done: int) -> EncodeReport:
    """Check that each shard is finished, and note it."""
    items = refused = 0
    for number in range(manifest["shards"]):
        noted = receipt(folder, number)
        if noted is None:
            raise ClusterError(
                f"{part(folder, number, 'json')}: the shard is not finished; encode again"
            )
        items += noted["items"]
        refused += len(noted["refused"])
    remove_unfinished(folder)
    totals = {"items": items, "refused": refused, "is_complete": True}
    if not totals.items() <= manifest.items():
        write_manifest(folder, manifest | totals)
    return EncodeReport(items, refused, manifest["shards"], already_done)
