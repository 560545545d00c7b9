"""Measure what guided attention adds where it should help: small objects, scattered over a scene.

    python export/ablate.py --cifar10 DIR --backgrounds DIR --out runs/scattered

Scenes show one to three CIFAR-10 objects on photographs; no two parts share an object or a
background. For each seed a backbone is trained to classify the scenes by its global mean, without
attention, at its default stride; with --backbone-epochs 0 it keeps its published weights. Its maps
at a finer stride are stored, and every variant of experiments/ablations.py is trained over these,
at the learning rate that was best for it on validation scenes with the first seed. Two scenes are
alike if they share a class. The same command resumes an interrupted run. --results writes the
tables into docs/results.md.
"""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import attention_hashing  # noqa: F401  says what to install if a package is missing

# isort: split
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from attention_hashing.backbones import has_published_weights, strides
from attention_hashing.config import Config, new_network
from attention_hashing.data import protocols
from attention_hashing.data.folders import images_below
from attention_hashing.data.scattered import SIDE
from attention_hashing.evaluation.bootstrap import paired_bootstrap
from attention_hashing.evaluation.distance_counts import levels_among
from attention_hashing.evaluation.metrics import average_precision, mean_by_code
from attention_hashing.experiments.ablations import VARIANTS, Data, attention_of, learner
from attention_hashing.experiments.arguments import check_lengths, check_unique
from attention_hashing.experiments.pointing_game import covered, energy_inside, pointing_game
from attention_hashing.experiments.results import print_section, write_section
from attention_hashing.experiments.run_log import Row, Rows, check_arguments
from attention_hashing.experiments.scattered_parts import ScatteredParts, parts
from attention_hashing.features import FeatureExtractor, cached_maps
from attention_hashing.heads import describe, fit_branch
from attention_hashing.methods import DEFAULT, METHODS
from attention_hashing.training import train
from bitgaze import ImageError
from bitgaze.hamming import pack

_DRAW = 0
_BASELINE = "wide"
# Incremented when the same weights produce other maps.
_MAPS = 2
# Of the pointing game, as a share of the side: its authors' 15 pixels in images 500 wide.
_TOLERANCE = 0.03
_RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
_MINIMUMS = {
    "seeds": 0,
    "training": 2,  # batch normalisation cannot train on one
    "queries": 1,
    "database": 1,
    "validation": 2,
    "backbone_epochs": 0,
    "branch_epochs": 1,
    "epochs": 1,
    "hidden": 1,  # "untaught" needs the branch's convolution
}


def main() -> int:
    """Parse arguments, measure what is missing, print the tables."""
    arguments = _arguments()
    try:
        # Find wrong arguments before images are read and the arguments are stored.
        for seed in arguments.seeds:
            new_network(_fine(seed, arguments), classes=2, pretrained=False)
        if not (arguments.backbone_epochs or has_published_weights(arguments.backbone)):
            raise ValueError(
                f"{arguments.backbone} has no published weights; use --backbone-epochs above 0"
            )
        data = protocols.images("cifar10", arguments.cifar10)
        backgrounds = images_below(arguments.backgrounds)
        scenes = parts(
            protocols.draw("cifar10", data, _DRAW),
            backgrounds,
            (arguments.queries, arguments.training, arguments.database, arguments.validation),
            _DRAW,
        )
        arguments.out.mkdir(parents=True, exist_ok=True)
        check_arguments(arguments.out, _decisive(arguments, scenes))
        rows = Rows(arguments.out / "rows.jsonl")
        for seed in arguments.seeds:
            _measure(seed, scenes, arguments, rows)
    except (ImageError, ValueError, OSError) as error:
        print(f"ablate.py: {error}", file=sys.stderr)
        return 2
    _write(rows, arguments)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cifar10", type=Path, required=True, metavar="DIR", help="as published, or class folders")
    add("--backgrounds", type=Path, required=True, metavar="DIR", help="images to cut from")
    add("--out", type=Path, default=Path("runs/scattered"), help="folder for results (%(default)s)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of trainings (%(default)s)")
    add("--bits", type=int, default=64, help="(%(default)s)")
    add("--backbone", default=Config.backbone, help="(%(default)s)")
    add("--stride", type=int, default=16, help="of the backbone's map (%(default)s)")
    add("--frozen-blocks", type=int, default=0, help="as in train.py (%(default)s)")
    add("--backbone-rate", type=float, default=0.5, help="as in train.py (%(default)s)")
    add(
        "--training",
        type=int,
        default=10_000,
        help="number of scenes (%(default)s), new ones in each epoch",
    )
    add("--queries", type=int, default=1000, help="number of scenes (%(default)s)")
    add("--database", type=int, default=10_000, help="number of scenes (%(default)s)")
    add("--validation", type=int, default=2000, help="scenes to choose rates on (%(default)s)")
    add("--backbone-epochs", type=int, default=8, help="(%(default)s); 0: keep published weights")
    add("--branch-epochs", type=int, default=5, help="(%(default)s)")
    add("--epochs", type=int, default=10, help="of each variant (%(default)s)")
    add("--hidden", type=int, default=64, help="channels of the branch (%(default)s)")
    add("--results", action="store_true", help="write the tables into docs/results.md")
    arguments = parser.parse_args()
    check_lengths(parser, [arguments.bits])
    for name, minimum in _MINIMUMS.items():
        for value in np.atleast_1d(getattr(arguments, name)).tolist():
            if value < minimum:
                option = name.replace("_", "-")
                parser.error(f"--{option} {value}: expected at least {minimum}")
    trained_only = ("frozen_blocks", "backbone_rate")
    if not arguments.backbone_epochs and any(
        getattr(arguments, name) != parser.get_default(name) for name in trained_only
    ):
        parser.error(
            "--frozen-blocks and --backbone-rate require a backbone that is trained; omit them, or "
            "use --backbone-epochs above 0"
        )
    check_unique(parser, arguments, ["seeds"])
    return arguments


def _fine(seed: int, arguments: argparse.Namespace) -> Config:
    """Configuration of a backbone that classifies by its global mean, at the stride of the maps."""
    return Config(
        bits=8,  # the hash layer is not trained
        size=SIDE,
        branch_epochs=max(1, arguments.backbone_epochs),
        hash_epochs=0,
        hidden=0,
        seed=seed,
        backbone=arguments.backbone,
        stride=arguments.stride,
        backbone_rate=arguments.backbone_rate,
        frozen_blocks=arguments.frozen_blocks,
    )


def _decisive(arguments: argparse.Namespace, scenes: ScatteredParts) -> Row:
    """Everything that determines the rows of a seed."""
    others = ("cifar10", "backgrounds", "out", "seeds", "results")
    found = {name: value for name, value in vars(arguments).items() if name not in others}
    digests = {f"scenes of {name}": part.digest() for name, part in scenes._asdict().items()}
    fixed = {"rates": list(_RATES), "maps": _MAPS, "tolerance": _TOLERANCE, "loss": DEFAULT}
    return {**found, **digests, **fixed}


def _measure(seed: int, scenes: ScatteredParts, arguments: argparse.Namespace, rows: Rows) -> None:
    """Measure the missing rows of one seed."""
    known = {row["variant"] for row in rows.of("variant") if row["seed"] == seed}
    missing = [name for name in VARIANTS if name not in known]
    has_branch = any(row["seed"] == seed for row in rows.of("branch"))
    if has_branch and not missing:
        return
    has = np.concatenate([part.labels for part in scenes])
    is_trained = arguments.backbone_epochs > 0
    folder = arguments.out / (f"backbone-{seed}" if is_trained else "backbone")
    folder.mkdir(exist_ok=True)
    fine = _fine(seed, arguments)
    network = new_network(fine, has.shape[1], pretrained=not is_trained).eval()
    if is_trained:
        # At the default stride the same weights produce the same values at fewer positions, and a
        # Lite trains in half the time.
        own = replace(fine, stride=strides(fine.backbone)[0])
        coarse = train(scenes.training, own, folder, torch.device("cpu"))
        network.load_state_dict(coarse.state_dict())
    counts = [len(part) for part in scenes]
    queries, training, database, validation = np.split(
        np.arange(sum(counts)), np.cumsum(counts)[:-1]
    )
    images = (part.scene(n).image for part in scenes for n in range(len(part)))
    extract = FeatureExtractor(network, fine.preprocess, whole_map=True)
    maps = cached_maps(extract, images, sum(counts), folder / "maps.npy")
    boxes = [one for part in scenes for one in part.boxes]
    inside = np.stack([covered(one, maps.shape[2:]) for one in boxes]).astype(np.float32)
    data = Data(maps, has.astype(np.float32), training, inside)
    branch = fit_branch(
        maps[training], data.one_hot[training], arguments.branch_epochs, seed, arguments.hidden
    )
    if not has_branch:
        attention = attention_of(maps[queries], branch)
        first = describe(maps[queries], branch).logits.argmax(1)
        found = {
            "first_class_is_there": float(has[queries, first].mean()),
            **_pointing(attention, boxes[: counts[0]]),
            "energy": energy_inside(attention, boxes[: counts[0]]),
        }
        rows.add([{"kind": "branch", "seed": seed, **found}])
    known_rates = {row["variant"]: row["rate"] for row in rows.of("rate")}
    for variant in missing:
        learn = learner(variant, data, branch, seed)
        tried = {}
        for rate in [known_rates[variant]] if variant in known_rates else _RATES:
            method = METHODS[DEFAULT](has.shape[1], arguments.bits, seed)
            codes = pack(learn(method, arguments.epochs, rate))
            own = codes[validation], has[validation], np.arange(len(validation))
            tried[rate] = mean_by_code(*own), codes
        best = max(tried, key=lambda rate: tried[rate][0])
        if variant not in known_rates:
            found = {rate: score for rate, (score, _) in tried.items()}
            row = {"kind": "rate", "variant": variant, "seed": seed, "rate": best}
            rows.add([{**row, "validation": found}])
        ranking = levels_among(tried[best][1], has, queries, database)
        scores = average_precision(ranking).expected
        row = {"kind": "variant", "variant": variant, "seed": seed, "rate": best}
        print(f"seed {seed}, {variant}, rate {best}: mAP {scores.mean():.4f}", flush=True)
        precision = [round(float(score), 5) for score in scores]
        rows.add([{**row, "map": float(scores.mean()), "queries": precision}])


def _pointing(attention: NDArray[np.float32], boxes: list[NDArray[np.float32]]) -> Row:
    """The pointing game as published, without tolerance, and both for random points."""
    enlarged = _enlarged(attention)
    near = [covered(one, attention.shape[1:], _TOLERANCE).mean() for one in boxes]
    inside = [covered(one, attention.shape[1:]).mean() for one in boxes]
    return {
        "pointing": pointing_game(enlarged, boxes, _TOLERANCE),
        "pointing_at_random": float(np.mean(near)),
        "pointing_inside": pointing_game(enlarged, boxes),
        "pointing_inside_at_random": float(np.mean(inside)),
    }


def _enlarged(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Enlarge maps to the size of the scenes, as in the published pointing game: (n, SIDE, SIDE).

    Interpolation is cubic: the peak of a linear one is always in the centre of a cell.
    """
    found = interpolate(torch.from_numpy(maps)[:, None], (SIDE, SIDE), mode="bicubic")
    larger: NDArray[np.float32] = found[:, 0].numpy()
    return larger


def _write(rows: Rows, arguments: argparse.Namespace) -> None:
    kept: dict[str, list[Row]] = {name: [] for name in VARIANTS}
    for row in rows.of("variant"):
        if row["seed"] in arguments.seeds:
            kept[row["variant"]].append(row)
    scores = {name: np.mean([row["queries"] for row in some], 0) for name, some in kept.items()}
    table = []
    for name, some in kept.items():
        found = [row["map"] for row in some]
        deviation = f" ± {np.std(found, ddof=1):.3f}" if found[1:] else ""
        cells = [f"{some[0]['rate']:g}", f"{np.mean(found):.3f}{deviation}"]
        for other in (_BASELINE, "explicit"):
            difference = paired_bootstrap(scores[name], scores[other])
            text = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
            cells.append("" if name == other else text)
        table.append([name, *cells])
    section = partial(write_section if arguments.results else print_section, "ablate.py")
    seeds = ", ".join(map(str, arguments.seeds))
    over = f"seed {seeds} alone"
    if arguments.seeds[1:]:
        over = f"mean and standard deviation over seeds {seeds}"
    tuned_with = sorted({row["seed"] for row in rows.of("rate")})
    text = (
        f"Tie-aware mAP, {arguments.bits} bits, {arguments.queries} queries, {arguments.database} "
        f"scenes; {over}. Differences of these means have a 95 % interval over resampled queries, "
        "with the trainings fixed; scenes share objects and backgrounds, so it is too narrow "
        "rather than too wide. Each variant is trained at the rate, out of "
        f"{', '.join(f'{rate:g}' for rate in _RATES)}, that was best on {arguments.validation} "
        f"other scenes with seed {', '.join(map(str, tuned_with))}. The variants are described in "
        "export/attention_hashing/experiments/ablations.py."
    )
    head = ["variant", "rate", "mAP", f"minus {_BASELINE}", "minus explicit"]
    kind = "a trained backbone" if arguments.backbone_epochs else "a backbone as it was published"
    title = f"What the attention is worth on scattered scenes, over {kind}"
    section(title, text, head, table, part=f"variants over {kind}")
    branches = [row for row in rows.of("branch") if row["seed"] in arguments.seeds]
    names = (
        "first_class_is_there",
        "pointing",
        "pointing_at_random",
        "pointing_inside",
        "pointing_inside_at_random",
        "energy",
    )
    table = [[str(row["seed"]), *(f"{row[name]:.3f}" for name in names)] for row in branches]
    text = (
        "Shares of the queries for which the branch's likeliest class is in the scene; for which "
        "the peak of the attention, enlarged to the scene, is in a box or less than "
        f"{_TOLERANCE:.0%} of the side outside (the pointing game; its authors' 15 pixels are the "
        "same share of their images), or in a box; and the same for a random point. Energy is the "
        "mean share of the attention inside boxes."
    )
    head = [
        "seed",
        "first class is there",
        "pointing game",
        "of a random point",
        "without tolerance",
        "of a random point",
        "energy inside",
    ]
    section(
        f"Where the attention looks, over {kind}", text, head, table, part=f"branch over {kind}"
    )


if __name__ == "__main__":
    sys.exit(main())
