"""Measure how well a model file finds images with the same label, by the code that ships.

    python export/evaluate.py FOLDER                 the general model
    python export/evaluate.py FOLDER --model mine.onnx --out report
    python export/evaluate.py FOLDER --queries OTHER --model mine.onnx --against theirs.onnx
    python export/evaluate.py CIFAR10 --protocol cifar10 --model mine.onnx
    python export/evaluate.py FOLDER --looks 3       and by looks at parts of the images

FOLDER contains one folder per class; or a file labels.csv with lines `path,label,label,...`, for
images with several labels; or is itself such a table (.csv), or a list (.txt) as train.py reads.
Queries are drawn from these images, or taken from another folder; all
other images are the database. If FOLDER contains lists test.txt and database.txt, with lines
`path 0 1 0 ...` and one column per class, they define queries and database. A hit is correct if it
shares a label with the query. With --looks, images are also searched by all of their codes, that of
the whole and those of the looks; --against then compares such searches. --out writes a full report:
report.json, report.md and plots.
"""

import argparse
import json
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from attention_hashing.evaluation.bootstrap import paired_bootstrap
from attention_hashing.evaluation.distance_counts import Levels, levels_among
from attention_hashing.evaluation.measure import measure, of_ranking
from attention_hashing.evaluation.metrics import average_precision, by_radius
from attention_hashing.evaluation.report import difference, looks_an_image, markdown, warnings
from attention_hashing.evaluation.split import Split, drawn, given, listed
from bitgaze import BitgazeError, Encoded, Encoder
from bitgaze.encoding.contract import DEFAULT_MODEL
from bitgaze.encoding.images import printable, upright

_FIRST = 10
_QUERIES = 1000
_PACKAGES = ("bitgaze", "onnxruntime", "numpy", "pillow")
_SHOWN, _SHOWN_PIXELS = 6, 400


def main() -> int:
    """Parse arguments, encode, measure, print, write."""
    arguments = _arguments()
    try:
        _check(arguments)
        encoder = Encoder(arguments.model)
        other = arguments.against and Encoder(arguments.against)
        split = _split(arguments)
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
        encoded = _encoded(encoder, split, arguments.looks)
        ranking = levels_among(encoded.codes, split.labels, split.queries, split.database)
        report = measure(encoded, split, ranking, arguments.top)
        scores = average_precision(ranking, arguments.top).expected
        if arguments.looks:
            report["with_looks"], scores = _with_looks(encoded, split, scores, arguments.top)
        if other:
            ranking_of_other = _by_views(_encoded(other, split, arguments.looks), split)
            scores_of_other = average_precision(ranking_of_other, arguments.top).expected
            report["against"] = {
                **_described(other),
                **paired_bootstrap(scores, scores_of_other)._asdict(),
            }
        report = {"model": _described(encoder), **report}
        _print(report)
        if arguments.out:
            report["queries"] = dict(zip(_names(split, arguments), map(float, scores), strict=True))
            _write(arguments.out, report, split, encoded, ranking)
    except (BitgazeError, ValueError, OSError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=Path)
    add("--model", type=Path, default=DEFAULT_MODEL)
    drawn_or_given = f"maximum number, up to half of the images ({_QUERIES}); or a folder of them"
    add("--queries", type=_number_or_folder, metavar="N|DIR", help=drawn_or_given)
    add("--seed", type=int, help="of the drawn queries (0)")
    add("--protocol", metavar="NAME", help="queries and database of cifar10, cifar10-1, ...")
    add("--top", type=int, help="measure only the first TOP of each ranking")
    add("--looks", type=int, default=0, help="search by up to N looks at each image, too")
    add(
        "--against",
        type=Path,
        metavar="MODEL",
        help="compare with another model on the same queries",
    )
    add("--out", type=Path, help="folder for report.json, report.md and plots")
    return parser.parse_args()


def _number_or_folder(text: str) -> int | Path:
    try:
        return int(text)
    except ValueError:
        return Path(text)


def _check(arguments: argparse.Namespace) -> None:
    for name, least in (("queries", 1), ("seed", 0), ("top", 1), ("looks", 0)):
        value = getattr(arguments, name)
        if isinstance(value, int) and value < least:
            raise ValueError(f"{name} is {value}, expected at least {least}")
    if arguments.seed is not None and isinstance(arguments.queries, Path):
        raise ValueError("--seed is for drawn queries, but a folder of queries is given")
    if arguments.protocol and not (arguments.queries is arguments.seed is None):
        raise ValueError("a protocol defines the queries; omit --queries and --seed")
    if arguments.out and find_spec("matplotlib") is None:
        raise ValueError("a report requires matplotlib: pip install -r export/requirements.txt")


def _split(arguments: argparse.Namespace) -> Split:
    split = None if arguments.protocol else listed(arguments.folder)
    if split and not (arguments.queries is arguments.seed is None):
        raise ValueError(
            f"{arguments.folder}: its lists define the queries; omit --queries and --seed"
        )
    if arguments.protocol:
        split = _of_protocol(arguments)
    elif isinstance(arguments.queries, Path):
        split = given(arguments.folder, arguments.queries)
    elif split is None:
        split = drawn(arguments.folder, arguments.queries or _QUERIES, arguments.seed or 0)
    most = len(split.database)
    if most <= _FIRST:
        raise ValueError(
            f"{arguments.folder}: {most} images in the database, expected more than {_FIRST}"
        )
    if arguments.top is not None and arguments.top > most:
        raise ValueError(f"top is {arguments.top}, but the database has {most} images")
    return split


def _of_protocol(arguments: argparse.Namespace) -> Split:
    from attention_hashing.data import protocols  # the only import that requires torch

    data = protocols.images(arguments.protocol, arguments.folder.resolve())
    if not isinstance(data.images, list):
        raise ValueError(
            f"{arguments.folder}: its images are not files; a model reads files, so unpack the set "
            "into one folder per class"
        )
    parts = protocols.draw(arguments.protocol, data, seed=0)
    chosen = np.concatenate([parts.queries, parts.database])
    queries, database = np.split(np.arange(len(chosen)), [len(parts.queries)])
    paths = [data.images[position] for position in chosen]
    return Split(paths, data.labels[chosen], data.classes, queries, database)


def _encoded(encoder: Encoder, split: Split, looks: int) -> Encoded:
    with tqdm(total=len(split.paths), unit="img", disable=None) as bar:
        encoded = encoder.encode(split.paths, looks=looks, on_progress=bar.update)
    for error in encoded.errors.values():
        raise error
    return encoded


def _by_views(encoded: Encoded, split: Split) -> Levels:
    views = np.concatenate([encoded.codes[:, None], encoded.looks], axis=1)
    return levels_among(views, split.labels, split.queries, split.database)


def _with_looks(
    encoded: Encoded, split: Split, scores_of_whole: NDArray[np.float64], top: int | None
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Figures of searches by all codes of an image, and average precision of each query."""
    ranking = _by_views(encoded, split)
    scores = average_precision(ranking, top).expected
    is_look = (encoded.boxes != (0, 0, 1, 1)).any(2)
    figures = {
        "most": encoded.looks.shape[1],
        "looks_an_image": float(is_look.sum(1).mean()),
        **of_ranking(ranking, top),
        "gain": paired_bootstrap(scores, scores_of_whole)._asdict(),
    }
    return figures, scores


def _described(encoder: Encoder) -> dict[str, Any]:
    return {
        "name": encoder.contract.name,
        "fingerprint": encoder.fingerprint,
        "bits": encoder.bits,
        "precision": encoder.contract.precision,
    }


def _print(report: dict[str, Any]) -> None:
    model, images, found = report["model"], report["set"], report["average_precision"]
    top = found["top"]
    name = "mAP" if top is None else f"mAP@{top}"
    bounds, first = found["over_possible"], report["precision_among_first"][str(_FIRST)]
    print(f"{model['name']}, {model['bits']} bits; {images['queries']} queries, ", end="")
    print(f"{images['database']} in the database, {images['classes']} classes")
    lines = [
        (f"{name}, Hamming, tie-aware", bounds["expected"]),
        ("  worst order of ties", bounds["worst"]),
        ("  best order of ties", bounds["best"]),
        (f"{name}, cosine of hash values", found["cosine_of_hash_values"]),
        (f"precision of the first {_FIRST}", first["expected"]),
        ("random order", found["random_order"]),
    ]
    views = report.get("with_looks")
    if views:
        bounds, first = (
            views["average_precision"]["over_possible"],
            views["precision_among_first"][str(_FIRST)],
        )
        lines += [
            (f"{name} with looks", bounds["expected"]),
            (f"precision of the first {_FIRST} with looks", first["expected"]),
        ]
    width = max(len(what) for what, _ in lines) + 3
    for what, value in lines:
        print(f"{what:{width}}{value:.4f}")
    for warning in warnings(images):
        print(warning)
    if views:
        print(f"{looks_an_image(views)}: {difference(name, views['gain'])}")
    if other := report.get("against"):
        print(f"against {other['name']}: {difference(name, other)}")


def _names(split: Split, arguments: argparse.Namespace) -> list[str]:
    """Paths of the queries, relative to their folder."""
    is_folder = isinstance(arguments.queries, Path)
    root = (arguments.queries if is_folder else arguments.folder).resolve()
    if root.is_file():
        root = root.parent
    paths = [split.paths[position] for position in split.queries]
    names = [(p.relative_to(root) if p.is_relative_to(root) else p).as_posix() for p in paths]
    return [printable(name) for name in names]


def _write(
    out: Path, report: dict[str, Any], split: Split, encoded: Encoded, ranking: Levels
) -> None:
    from attention_hashing.evaluation import (
        plots,
    )  # imports matplotlib, which only a report requires

    chosen = split.queries[_spread(len(split.queries), _SHOWN)]
    paths = [split.paths[position] for position in chosen]
    plots.precision_by_radius(by_radius(ranking), out / "precision.png")
    plots.distances(ranking, out / "distances.png")
    plots.attention(
        [upright(path, _SHOWN_PIXELS) for path in paths],
        encoded.attention[chosen],
        [printable(path.stem) for path in paths],
        out / "attention.png",
    )
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    report["command"] = " ".join(["python export/evaluate.py", *words])
    report["versions"] = {package: version(package) for package in _PACKAGES}
    text = json.dumps(report, indent=1, allow_nan=False)
    (out / "report.json").write_text(text + "\n", encoding="utf-8")
    page = markdown(
        report,
        [
            ("Precision and recall, one point per radius", "precision.png"),
            ("Distances of pairs that share a label, and of other pairs", "distances.png"),
            ("Some queries, and where the network looked", "attention.png"),
        ],
    )
    (out / "report.md").write_text(page, encoding="utf-8")
    print(f"wrote {out / 'report.md'}")


def _spread(count: int, shown: int) -> NDArray[np.intp]:
    """Positions spread evenly over the range, without randomness."""
    return np.unique(np.linspace(0, count - 1, shown).astype(np.intp))


if __name__ == "__main__":
    sys.exit(main())
