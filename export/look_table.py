"""Measure what looking again is worth, and where looks should go.

    python export/look_table.py FOLDERS... [--model MODEL] [--places NAMES...]

FOLDERS contain an annotations.tsv with boxes, or one folder per class. Compares the model's own
looks with random ones of the same number and sizes, with other ways to choose places, and with the
true boxes: how many objects they find, and the tie-aware mAP of searches by all codes of an image,
on codes that are adapted to the database's. Writes a section of docs/results.md per folder and
model. The larger model takes twice the time; --places leaves out what is not to be compared.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attention_hashing.backbones import described
from attention_hashing.data import annotations, labelled
from attention_hashing.data.annotations import ANNOTATIONS
from attention_hashing.data.labels import Labels
from attention_hashing.evaluation.bootstrap import paired_bootstrap
from attention_hashing.evaluation.metrics import average_precision
from attention_hashing.experiments import looks as places
from attention_hashing.experiments.results import print_section, write_section
from attention_hashing.features import FeatureExtractor
from attention_hashing.general import model as general
from bitgaze import BitgazeError, Encoder
from bitgaze.encoding.contract import DEFAULT_MODEL
from bitgaze.encoding.images import Box, Region, upright

_SIDE = 0.5
_TIMED = 100
_RIVALS = (
    *("random squares", "centre", "grid", "spectral residual", "implicit (energy)"),
    *("attention's peaks", "true boxes"),
)


class Images(NamedTuple):
    """Images with labels; `boxes` (k, 4) and `box_labels` (k,) of each, if there are any."""

    paths: list[Path]
    labels: Labels
    boxes: list[NDArray[np.float32]]
    box_labels: list[NDArray[np.int64]]

    @property
    def has_boxes(self) -> bool:
        """Whether there is any box."""
        return any(map(len, self.boxes))


class Seen(NamedTuple):
    """Looks at every image, and hash values (n, 1 + looks, bits) of the image and its looks."""

    boxes: list[list[Box]]
    values: NDArray[np.float32]


class Objects(NamedTuple):
    """The largest object of every image that has any, cut out to be searched for.

    Attributes:
        images: (k,), positions of the images.
        labels: bool, (k, classes), one in each row.
        values: (k, 1, bits), hash values.
    """

    images: NDArray[np.intp]
    labels: NDArray[np.bool_]
    values: NDArray[np.float32]


def main() -> int:
    """Parse arguments, encode, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folders", type=Path, nargs="+")
    add("--model", type=Path, default=DEFAULT_MODEL, help="(the shipped one)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of queries (%(default)s)")
    add(
        "--places",
        nargs="+",
        choices=_RIVALS,
        default=list(_RIVALS),
        help="to compare with, besides none and random ones (all)",
    )
    add("--print", action="store_true", help="leave docs/results.md as it is")
    arguments = parser.parse_args()
    try:
        write = print_section if arguments.print else write_section
        with Encoder(arguments.model) as encoder:
            if encoder.contract.looks is None:
                raise ValueError(f"{arguments.model} cannot look; export it again")
            for folder in arguments.folders:
                part = folder.name
                if arguments.model != DEFAULT_MODEL:
                    part = f"{part}, {arguments.model.stem}"
                _measure(encoder, part, _read(folder), arguments.seeds, arguments.places, write)
    except (BitgazeError, ValueError) as error:
        print(f"look_table.py: {error}", file=sys.stderr)
        return 2
    return 0


def _read(folder: Path) -> Images:
    if (folder / ANNOTATIONS).is_file():
        data = annotations.read(folder)
        boxes = [one.corners for one in data.boxes]
        return Images(data.paths, data.one_hot(), boxes, [one.labels for one in data.boxes])
    classes = labelled.read(folder)
    if not isinstance(classes.images, list):
        raise ValueError(f"{folder}: expected image files")
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    return Images(classes.images, classes.labels, *([part] * len(classes) for part in none))


def _measure(
    encoder: Encoder,
    part: str,
    images: Images,
    seeds: list[int],
    rivals: list[str],
    write: Callable[..., None],
) -> None:
    rule = encoder.contract.looks
    assert rule is not None
    seen = {"none": _looked(encoder, images.paths, 0)}
    whole = seen["none"].values[:, 0]
    most = _looked(encoder, images.paths, rule.most)
    for count in range(1, rule.most + 1):  # fewer looks are the first ones
        boxes = [some[:count] for some in most.boxes]
        seen[f"explicit, {count}"] = Seen(boxes, most.values[:, : 1 + count])
    for name, choose in _rivals(encoder, images, most.boxes, rule.most).items():
        if name == "random" or name in rivals:
            seen[name] = _regions(encoder, images.paths, whole, choose(), rule.most)
    objects = _objects(encoder, images)
    scores = {name: _scores(images, objects, one.values, seeds) for name, one in seen.items()}
    random = scores["random"]["Chamfer"].ravel()
    rows = []
    for name, one in seen.items():
        of_seeds = scores[name]
        chamfer = of_seeds["Chamfer"]
        found, share = ("-", "-")
        if images.has_boxes:
            found, share = (f"{x:.3f}" for x in places.found_and_seen(images.boxes, one.boxes))
        better = paired_bootstrap(chamfer.ravel(), random)
        rows.append(
            [
                name,
                f"{np.mean([len(boxes) for boxes in one.boxes]):.2f}",
                found,
                share,
                *(f"{of_seeds[each].mean():.3f}" for each in places.RULES),
                f"{chamfer.mean(1).std():.3f}",
                f"{better.mean:+.3f} ({better.low:+.3f} to {better.high:+.3f})",
                f"{of_seeds['object'].mean():.3f}" if images.has_boxes else "-",
            ]
        )
    costs = ", ".join(
        f"{count} {_milliseconds(encoder, images.paths, count):.1f}"
        for count in range(rule.most + 1)
    )
    size = len(images.paths)
    text = (
        f"{size:,} images, {places.query_count(size)} of them queries, the others the database, "
        f"drawn with {len(seeds)} seeds; {encoder.bits} bits, adapted to the codes of all views of "
        "the database. Found: share of true boxes with which a look has an intersection over "
        "union of at least .5; seen: share of an object that the best look contains. Then "
        "tie-aware mAP by four rules; deviation over seeds, and difference from random looks "
        "(95 % interval over queries), both of Chamfer; and of a search for one object, the "
        "largest of each query, by Chamfer. Processor time an image, decoding included, by number "
        f"of looks, ms: {costs}."
    )
    head = [
        *("places", "looks", "found", "seen", *places.RULES),
        *("deviation", "ahead of random", "object"),
    ]
    write("look_table.py", f"Looking again: {part}", text, head, rows, part=part)


def _looked(encoder: Encoder, paths: list[Path], count: int) -> Seen:
    found = encoder.encode(paths, looks=count)
    for error in found.errors.values():
        raise error
    values = np.concatenate([found.hashes[:, None], found.look_hashes], axis=1)
    boxes: list[list[Box]] = [
        [(a, b, c, d) for a, b, c, d in row if (a, b, c, d) != (0, 0, 1, 1)]
        for row in found.boxes.tolist()
    ]
    return Seen(boxes, values)


def _regions(
    encoder: Encoder,
    paths: list[Path],
    whole: NDArray[np.float32],
    boxes: list[list[Box]],
    count: int,
) -> Seen:
    """Encode parts of images; an image that has fewer than `count` repeats its own values."""
    regions = [Region(path, box) for path, some in zip(paths, boxes, strict=True) for box in some]
    found = encoder.encode(regions)
    for error in found.errors.values():
        raise error
    values = np.repeat(whole[:, None], 1 + count, axis=1)
    rest = iter(found.hashes)
    for row, some in zip(values, boxes, strict=True):
        for place in range(1, 1 + len(some)):
            row[place] = next(rest)
    return Seen(boxes, values)


def _objects(encoder: Encoder, images: Images) -> Objects | None:
    if not images.has_boxes:
        return None
    positions = np.flatnonzero([len(boxes) for boxes in images.boxes])
    regions, labels = [], np.zeros((len(positions), images.labels.shape[1]), bool)
    for row, position in enumerate(positions):
        boxes = images.boxes[position]
        largest = int((boxes[:, 2:] - boxes[:, :2]).prod(1).argmax())
        labels[row, images.box_labels[position][largest]] = True
        (box,) = places.largest(boxes, 1)
        regions.append(Region(images.paths[position], box))
    return Objects(positions, labels, encoder.encode(regions).hashes[:, None])


def _rivals(
    encoder: Encoder, images: Images, explicit: list[list[Box]], count: int
) -> dict[str, Callable[[], list[list[Box]]]]:
    """Other ways to choose boxes of all images, each computed when it is called."""
    rule = encoder.contract.looks
    assert rule is not None
    size = encoder.contract.preprocess.size

    def random() -> list[list[Box]]:
        generator = np.random.default_rng(0)
        return [places.moved(boxes, generator) for boxes in explicit]

    def squares() -> list[list[Box]]:
        generator = np.random.default_rng(1)
        return [places.random_boxes(count, _SIDE, generator) for _ in images.paths]

    def peaks(maps: Iterable[NDArray[np.float32]]) -> list[list[Box]]:
        return [places.at_peaks(one, rule, count) for one in maps]

    def loaded() -> Iterator[Image.Image]:
        return (upright(path, size) for path in images.paths)

    def energy() -> list[list[Box]]:
        # Features of the same backbone, if the model is a general one.
        models = {described(base.backbone): name for name, base in general.MODELS.items()}
        model = models.get(str(encoder.contract.training.get("backbone")), general.SHIPPED)
        preprocess = general.MODELS[model].preprocess
        extract = FeatureExtractor(general.untrained(8, model), preprocess, whole_map=True)
        return peaks(map(places.energy, extract.each(list(loaded()), lambda image: image)))

    found: dict[str, Callable[[], list[list[Box]]]] = {
        "random": random,
        "random squares": squares,
        "centre": lambda: [[(0.175, 0.175, 0.825, 0.825)] for _ in images.paths],
        "grid": lambda: [places.grid(count, _SIDE) for _ in images.paths],
        "spectral residual": lambda: peaks(map(places.spectral_residual, loaded())),
        "implicit (energy)": energy,
        "attention's peaks": lambda: peaks(encoder.encode(images.paths).attention),
    }
    if images.has_boxes:
        found["true boxes"] = lambda: [places.largest(boxes, count) for boxes in images.boxes]
    return found


def _scores(
    images: Images, objects: Objects | None, values: NDArray[np.float32], seeds: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """AP of each query by each rule, and of each object by Chamfer: (seeds, queries)."""
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in (*places.RULES, "object")}
    for seed in seeds:
        queries, database = places.draw(len(values), seed)
        fitted, by_rule = places.precision_of_views(values, images.labels, queries, database)
        for rule, precision in by_rule.items():
            found[rule].append(precision)
        if objects is not None:
            chosen = np.isin(objects.images, queries)
            parts, codes = (
                fitted.apply(some.reshape(-1, values.shape[2])).reshape(some.shape) > 0
                for some in (objects.values[chosen], values[database])
            )
            levels = places.levels_of_views(
                parts, objects.labels[chosen], codes, images.labels[database]
            )
            found["object"].append(average_precision(levels["Chamfer"]).expected)
    if objects is not None:  # the number of objects differs between seeds
        found["object"] = [np.array([one.mean()]) for one in found["object"]]
    return {name: np.array(rows) for name, rows in found.items()}


def _milliseconds(encoder: Encoder, paths: list[Path], count: int) -> float:
    some = paths[:_TIMED]
    encoder.encode(some[:2], looks=count)
    start = time.process_time()
    encoder.encode(some, looks=count)
    return (time.process_time() - start) / len(some) * 1e3


if __name__ == "__main__":
    sys.exit(main())
