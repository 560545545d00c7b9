"""Measure quality against processor time: models, input sizes, arithmetic, numbers of looks.

    python export/fit_general.py PHOTOGRAPHS --model lite2 --out lite2.npz
    python export/quality_plot.py FOLDER --photographs PHOTOGRAPHS --lite2 lite2.npz --out DIR

FOLDER contains an annotations.tsv. Searches among its images by the codes
of all views, adapted to the database, as look_table.py does, and measures how long each image
takes, all models in turns. 8-bit integers are calibrated on PHOTOGRAPHS. The same command resumes
an interrupted run. Writes a section of docs/results.md and docs/quality.jpg.
"""

import argparse
import hashlib
import sys
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import to_onnx
from attention_hashing.data import annotations
from attention_hashing.data.folders import images_below
from attention_hashing.data.labelled import Labelled, from_annotations
from attention_hashing.deployment.onnx_file import ExportError
from attention_hashing.deployment.quantize import TARGETS
from attention_hashing.experiments import quality
from attention_hashing.experiments.looks import draw, precision_of_views
from attention_hashing.experiments.quality import ARITHMETICS, Point, Setting
from attention_hashing.experiments.results import RESULTS, print_section, write_section
from attention_hashing.experiments.run_log import Row, check_arguments
from bitgaze import BitgazeError, Encoder

HERE = Path(__file__).parent
_LAYERS = {"Lite0": HERE / "general.npz", "Lite3": HERE / "general-large.npz"}
_SIZES = (160, 192, 224, 288)
# What integers save depends little on the size, and making them takes minutes.
_INTEGER_SIZES = (160, 224)
_MOST = 5
_PLOT = "quality.jpg"


def main() -> int:
    """Parse arguments, measure what is missing, write the table and the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=Path)
    add("--photographs", type=Path, required=True, help="those that the layers were fitted to")
    add("--lite2", type=Path, help="layer of fit_general.py --model lite2 (left out)")
    add("--sizes", type=int, nargs="+", default=list(_SIZES), help="pixels (%(default)s)")
    add(
        "--integer-sizes",
        type=int,
        nargs="*",
        default=list(_INTEGER_SIZES),
        help="those of --sizes that integers are made for, too (%(default)s)",
    )
    add("--target", choices=TARGETS, default="x86-vnni", help="of integers (%(default)s)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of queries (%(default)s)")
    add("--out", type=Path, default=Path("runs/quality"), help="folder to keep (%(default)s)")
    add("--kept", action="store_true", help="measure only the time of what --out has values of")
    add("--print", action="store_true", help="leave docs as they are")
    arguments = parser.parse_args()
    layers = dict(_LAYERS)
    if arguments.lite2 is not None:
        layers["Lite2"] = arguments.lite2
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        data = from_annotations(annotations.read(arguments.folder))
        photographs = images_below(arguments.photographs)
        points = _measure(arguments, layers, data, photographs)
    except (BitgazeError, ExportError, ValueError, OSError) as error:
        print(f"quality_plot.py: {error}", file=sys.stderr)
        return 2
    where = arguments.out if arguments.print else RESULTS.parent
    quality.plot(points, where / _PLOT)
    _write(points, arguments, data)
    return 0


def _measure(
    arguments: argparse.Namespace,
    layers: dict[str, Path],
    data: Labelled,
    photographs: list[Path],
) -> list[Point]:
    paths = [Path(str(path)) for path in data.images]
    settings = [
        Setting(model, size, arithmetic)
        for model, arithmetic, size in product(sorted(layers), ARITHMETICS, arguments.sizes)
        if arithmetic == "fp32" or size in arguments.integer_sizes
    ]
    if arguments.kept:
        settings = [one for one in settings if (arguments.out / f"{one.title}.npz").is_file()]
    if not settings:
        raise ValueError(f"{arguments.out} has no values; leave out --kept")
    check_arguments(arguments.out, _decisive(arguments, layers, settings, photographs))
    out, precision, encoders = arguments.out, [], []
    for setting in tqdm(settings, disable=None):
        file = out / f"{setting.title}.onnx"
        if not file.exists():
            made = to_onnx.general_model(layers[setting.model])
            quality.write(setting, *made, _MOST, photographs, arguments.target, out)
        with Encoder(file) as encoder:
            values = quality.hash_values(encoder, paths, out)
        precision.append(_precision(values, data, arguments.seeds))
        encoders.append(Encoder(file, threads=1))
    taken = quality.milliseconds(encoders, paths, _MOST)
    return [
        Point(setting, count, float(taken[i, count]), precision[i][count])
        for i, setting in enumerate(settings)
        for count in range(1 + _MOST)
    ]


def _decisive(
    arguments: argparse.Namespace,
    layers: dict[str, Path],
    settings: list[Setting],
    photographs: list[Path],
) -> Row:
    """What the model files depend on, which are kept."""
    found: Row = {
        f"layer of {model}": hashlib.sha256(layers[model].read_bytes()).hexdigest()
        for model in sorted({one.model for one in settings})
    }
    if any(one.arithmetic == "int8" for one in settings):
        names = "\n".join(str(path.relative_to(arguments.photographs)) for path in photographs)
        found["photographs"] = hashlib.sha256(names.encode()).hexdigest()
        found["integers for"] = arguments.target
    return found


def _precision(values: NDArray[np.float32], data: Labelled, seeds: list[int]) -> list[float]:
    """Mean mAP over seeds by number of looks."""
    found = []
    for count in range(1 + _MOST):
        views = values[:, : 1 + count]
        each = (precision_of_views(views, data.labels, *draw(len(views), seed)) for seed in seeds)
        found.append(float(np.mean([rules["Chamfer"].mean() for _, rules in each])))
    return found


def _write(points: list[Point], arguments: argparse.Namespace, data: Labelled) -> None:
    best = quality.front(points)
    rows: dict[Setting, list[str]] = {}
    for point in points:
        cell = f"{point.precision:.3f} / {point.milliseconds:.1f}"
        cell = f"**{cell}**" if point in best else cell
        rows.setdefault(point.setting, list(map(str, point.setting))).append(cell)
    write = print_section if arguments.print else write_section
    integers = f"; 8-bit integers are for {arguments.target}"
    has_integers = any(setting.arithmetic == "int8" for setting in rows)
    write(
        "quality_plot.py",
        "Quality against processor time",
        f"mAP / processor time in ms an image, by number of looks, among {len(data):,} images: "
        f"queries, searches and adaptation as in the section of {arguments.folder.name} above, "
        f"mean over {len(arguments.seeds)} seeds, by Chamfer. Time is that of one core, decoding "
        "included, all models in turns on the same images, median of five rounds. A model's hash "
        "layer was fitted once, at 224 px (Lite3 at 256 px), and serves all sizes"
        f"{integers * has_integers}. Bold: nothing measured is better and faster.\n\n"
        f"![mAP against processor time]({_PLOT})",
        ["model", "size", "arithmetic", *(f"{count} looks" for count in range(1 + _MOST))],
        list(rows.values()),
    )


if __name__ == "__main__":
    sys.exit(main())
