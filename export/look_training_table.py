"""Measure what looks add to codes that are trained with labels, where images have several.

    python export/look_training_table.py VOC2012 --out runs/looks --results

VOC2012 contains the photographs and their annotations.tsv. Over a frozen backbone, a branch and a
hash layer are trained for each seed, which also draws queries and training images: once without
looks, and once for every way to choose looks (experiments/look_training.py). Rivals are whole
images at a larger size or over a larger backbone. The same command reuses stored features.
--results writes the table into docs/results.md.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from attention_hashing.attention import AttentionBranch
from attention_hashing.backbones import NAMES, strides
from attention_hashing.backbones.lite import pretrained
from attention_hashing.config import Config, new_network
from attention_hashing.data import annotations, protocols
from attention_hashing.data.labelled import Labelled
from attention_hashing.evaluation.bootstrap import paired_bootstrap
from attention_hashing.experiments import look_training as looks
from attention_hashing.experiments.arguments import check_lengths, check_unique
from attention_hashing.experiments.results import print_section, write_section
from attention_hashing.features import FeatureExtractor, cached_maps
from attention_hashing.looking import RULE, evidence, explicit
from attention_hashing.methods import METHODS
from bitgaze import ImageError

_PROTOCOL = "voc2012"
_RATE = 1e-3
_FORMS = ("views", "views, others", "one code", "one code, others")
_HEAD = ("places", "looks an image", *_FORMS)


def main() -> int:
    """Parse arguments, compute features, train, print the table."""
    arguments = _arguments()
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        annotated = annotations.read(arguments.folder)
        data = protocols.images(_PROTOCOL, arguments.folder)
        found, pointing = _measure(data, annotated, arguments)
        rivals = {name: _rival(name, data, arguments) for name in arguments.rivals}
    except (ImageError, ValueError, OSError) as error:
        print(f"look_training_table.py: {error}", file=sys.stderr)
        return 2
    _write(found, rivals, pointing, arguments)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=Path)
    add("--method", default="csq", choices=METHODS, metavar="NAME", help="(%(default)s)")
    add("--bits", type=int, default=64, help="(%(default)s)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="(%(default)s)")
    add("--size", type=int, default=224, help="input side in pixels (%(default)s)")
    add("--rivals", nargs="*", default=[], metavar="BACKBONE@SIZE", help="of whole images")
    add("--out", type=Path, default=Path("runs/looks"), help="folder (%(default)s)")
    add("--results", action="store_true", help="write the table into docs/results.md")
    arguments = parser.parse_args()
    check_lengths(parser, [arguments.bits])
    check_unique(parser, arguments, ("seeds", "rivals"))
    return arguments


def _maps(
    backbone: str, size: int, data: Labelled, out: Path
) -> tuple[FeatureExtractor, NDArray[np.float16]]:
    """An extractor of this backbone's maps, and those of all images."""
    config = Config(backbone=backbone, size=size, stride=strides(backbone)[0])
    network = new_network(config, len(data.classes)).eval()
    extract = FeatureExtractor(network, config.preprocess, whole_map=True)
    path = out / f"{backbone}-{size}-{data.digest()[:8]}.npy"
    return extract, cached_maps(extract, data.images, len(data), path)


_Scores = dict[tuple[str, str], list[NDArray[np.float64]]]


def _measure(
    data: Labelled, annotated: annotations.Annotated, arguments: argparse.Namespace
) -> tuple[tuple[_Scores, dict[str, float]], list[float]]:
    """Average precision of all queries by places and form, looks an image, two pointing games."""
    extract, maps = _maps(Config.backbone, arguments.size, data, arguments.out)
    features = maps.astype(np.float32).mean((2, 3))
    one_hot = data.one_hot()
    _, weight, bias = pretrained(0, strides(Config.backbone)[0])
    published = AttentionBranch.from_classifier(weight, bias).eval()
    fixed = {
        "energy": looks.energy(maps),
        "imagenet": looks.imagenet(maps, published),
        "boxes": looks.true_boxes(annotated.boxes, RULE.most),
    }
    found: _Scores = {}
    counts: dict[str, list[float]] = {name: [] for name in looks.PLACES}
    pointing = []
    for seed in tqdm(arguments.seeds, "seeds", unit="seed"):
        drawn = protocols.draw(_PROTOCOL, data, seed)
        others = protocols.draw(f"{_PROTOCOL}-others", data, seed)
        training = drawn.training
        branch = looks.linear_branch(features[training], one_hot[training], seed)
        seen = evidence(looks.batches(maps), branch)
        pointing.append(
            [
                looks.pointing_by_class(seen.maps, annotated.boxes, drawn.queries, as_published)
                for as_published in (False, True)
            ]
        )
        chosen = explicit(seen, one_hot, training)
        by_name = {"random": looks.scattered(chosen, seed), "explicit": chosen} | fixed
        for name in looks.PLACES:
            looked = looks.whole(features, branch)
            if name != "whole":
                places = by_name[name]
                views = looks.look(extract, annotated.paths, places, arguments.out)
                looked = looks.Looked(features, views, places, branch)
            counts[name].append(looked.looks_an_image())
            for is_fused in (False, True):
                layer = looks.fit(
                    looked,
                    one_hot,
                    training,
                    arguments.method,
                    arguments.bits,
                    seed,
                    _RATE,
                    is_fused,
                )
                forms = _FORMS[2:] if is_fused else _FORMS[:2]
                for form, part in zip(forms, (drawn, others), strict=True):
                    found.setdefault((name, form), []).append(
                        looks.scores(
                            looked, layer, data.labels, part.queries, part.database, is_fused
                        )
                    )
    means = {name: float(np.mean(some)) for name, some in counts.items()}
    return (found, means), np.mean(pointing, 0).tolist()


def _rival(name: str, data: Labelled, arguments: argparse.Namespace) -> _Scores:
    """Average precision of whole images by another backbone, or at another size."""
    backbone, _, size = name.partition("@")
    if backbone not in NAMES or not size.isdecimal():
        raise ValueError(f"rival is {name!r}, expected BACKBONE@SIZE, such as {NAMES[0]}@288")
    _, maps = _maps(backbone, int(size), data, arguments.out)
    features = maps.astype(np.float32).mean((2, 3))
    one_hot = data.one_hot()
    found: _Scores = {}
    for seed in arguments.seeds:
        drawn = protocols.draw(_PROTOCOL, data, seed)
        others = protocols.draw(f"{_PROTOCOL}-others", data, seed)
        branch = looks.linear_branch(features[drawn.training], one_hot[drawn.training], seed)
        looked = looks.whole(features, branch)
        layer = looks.fit(
            looked, one_hot, drawn.training, arguments.method, arguments.bits, seed, _RATE
        )
        for form, part in zip(_FORMS[:2], (drawn, others), strict=True):
            found.setdefault((name, form), []).append(
                looks.scores(looked, layer, data.labels, part.queries, part.database)
            )
    return found


def _write(
    measured: tuple[_Scores, dict[str, float]],
    rivals: dict[str, _Scores],
    pointing: list[float],
    arguments: argparse.Namespace,
) -> None:
    found, counts = measured
    rows = []
    for name in looks.PLACES:
        cells = [_cell(found[name, form]) for form in _FORMS]
        rows.append([name, f"{counts[name]:.2f}", *cells])
    for name, some in rivals.items():
        cells = [_cell(some[name, form]) for form in _FORMS[:2]]
        rows.append([f"{name}, whole", "0.00", *cells, *cells])
    views = {name: np.concatenate(found[name, "views"]) for name in looks.PLACES}
    against = "; ".join(
        f"{name} {gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
        for name in looks.PLACES
        if name != "explicit"
        for gain in [paired_bootstrap(views["explicit"], views[name])]
    )
    text = (
        f"{arguments.method.upper()} at {arguments.bits} bits over frozen {Config.backbone} at "
        f"{arguments.size} px, global features; tie-aware mAP over 1,131 images, 800 of which were "
        "trained on, and (others) over the 331 that were not; mean and standard deviation over "
        f"seeds {', '.join(map(str, arguments.seeds))}, which also draw queries and training "
        "images. A look is learned under its class and the labels of its image that the branch "
        "sees in it. Views are compared by the mean of each view's nearest, in both directions; "
        "one code is that of their mean, by a layer that learned views and means. Explicit looks "
        f"minus others, views, with 95 % intervals over queries: {against}. Pointing game by "
        f"class, by the highest cell {pointing[0]:.3f}, and as published, with an enlarged map "
        f"and a tolerance of 3 % of the side, {pointing[1]:.3f}."
    )
    section = write_section if arguments.results else print_section
    section("look_training_table.py", "Looks with labels: VOC 2012", text, _HEAD, rows)


def _cell(scores: list[NDArray[np.float64]]) -> str:
    means = [float(some.mean()) for some in scores]
    return f"{np.mean(means):.3f} ± {np.std(means):.3f}"


if __name__ == "__main__":
    sys.exit(main())
