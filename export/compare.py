"""Compare hashing methods on the protocols of the literature, over a frozen backbone.

    python export/compare.py --cifar10 DIR --fashion-mnist DIR --out runs/compare
    python export/compare.py --cifar10 DIR --protocols cifar10 --backbones NAME NAME
    python export/compare.py --voc2012 DIR --size 224 --looks 3 --out runs/voc2012

All methods are trained on the same features of the same images, each at the learning rate that is
best on held-out training images: once with global features, as published, and once with the guided
branch's local features as well. With --looks, a third time on global features of images and of
looks at their likely classes. Codes are searched by bitgaze's own indexes. The same command resumes
an interrupted run. --results writes the tables into docs/results.md.

With other or several --backbones there is one table, of what the branch adds to each. A backbone
trained by train.py has seen the held-out images, so its learning rates are chosen on images it
was trained on.
"""

import argparse
import hashlib
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attention_hashing.backbones import NAMES, has_published_weights, strides
from attention_hashing.checkpoint import load_trained
from attention_hashing.config import MOST_LOOKS, Config, new_network
from attention_hashing.data import protocols
from attention_hashing.data.labelled import Labelled
from attention_hashing.experiments.arguments import check_lengths, check_unique
from attention_hashing.experiments.comparison import (
    BASELINES,
    LOOKS,
    RATES,
    TUNED_AT_BITS,
    Study,
    run,
)
from attention_hashing.experiments.results import print_section, write_section
from attention_hashing.experiments.run_log import Row, check_arguments
from attention_hashing.experiments.tables import (
    against_rivals,
    by_length,
    means,
    of_backbones,
    of_codes,
    of_form,
)
from attention_hashing.features import FeatureExtractor, cached_maps
from attention_hashing.methods import METHODS
from attention_hashing.network import AttentionHashing
from bitgaze import ImageError
from bitgaze.encoding.images import Preprocess

_DRAW = 0
# Protocols with the same queries and training images are measured on the same codes.
_TOGETHER = (
    ("cifar10", ("cifar10", "cifar10-1")),
    ("cifar10", ("cifar10-unseen",)),
    ("fashion-mnist", ("fashion-mnist",)),
    ("voc2012", ("voc2012", "voc2012-others")),
    ("grocery", ("grocery",)),
)
_DETAILED_AT_BITS = 64
_DEFAULT = [Config.backbone]
_SEEDS = 2**32 - 1  # methods also use the next one


def main() -> int:
    """Parse arguments, measure what is missing, print the tables."""
    arguments = _arguments()
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        studies = _studies(arguments)
        every = [study for some in studies.values() for study in some]
        forms = partial(_forms, arguments)
        rows = run(every, arguments.methods, arguments.bits, arguments.seeds, arguments.out, forms)
    except (ImageError, ValueError, OSError) as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2
    if arguments.within_training:
        _write_choice(rows, arguments)
        return 0
    if arguments.backbones == _DEFAULT:
        _write(rows, arguments)
        return 0
    of = {study.key: title for title, some in studies.items() for study in some}
    found = {one: [row for row in rows if of[row["study"]] == one] for one in studies}
    _write_backbones(found, arguments)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = [name for _, together in _TOGETHER for name in together]
    every = [*METHODS, *BASELINES]  # with --backbones, METHODS only
    add("--cifar10", type=Path, metavar="DIR", help="CIFAR-10 as published, or class folders")
    add("--fashion-mnist", type=Path, metavar="DIR", help="IDX files of Fashion-MNIST")
    add("--voc2012", type=Path, metavar="DIR", help="VOC 2012 with its annotations.tsv")
    add("--grocery", type=Path, metavar="DIR", help="Grocery Store Dataset, with the same")
    add(
        "--protocols",
        nargs="+",
        choices=names,
        metavar="NAME",
        help=f"{names} (all of the sets that are given)",
    )
    add("--methods", nargs="+", choices=every, metavar="NAME", help=str(every))
    add("--bits", nargs="+", type=int, help="(16 32 64; with --backbones 64)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of trainings (%(default)s)")
    add(
        "--backbones",
        nargs="+",
        default=_DEFAULT,
        metavar="NAME",
        help=f"pretrained: {', '.join(NAMES)}; or a checkpoint.pt of train.py, from the same "
        f"training images ({Config.backbone})",
    )
    add(
        "--branch-of",
        nargs="*",
        choices=METHODS,
        metavar="NAME",
        help="methods to train with the branch as well (all of --methods)",
    )
    add(
        "--within-training",
        action="store_true",
        help="measure on parts of the training images instead, with the branch only, and print "
        "one table: to choose a method",
    )
    add("--looks", type=int, default=0, help=f"at an image, up to {MOST_LOOKS} (%(default)s)")
    add("--size", type=int, help=f"input side in pixels ({Config.size}; a checkpoint's own)")
    add("--out", type=Path, default=Path("runs/compare"), help="folder for results (%(default)s)")
    add("--results", action="store_true", help="write the tables into docs/results.md")
    arguments = parser.parse_args()
    if not 0 <= arguments.looks <= MOST_LOOKS:
        parser.error(f"--looks {arguments.looks}: expected 0 to {MOST_LOOKS}")
    is_one_table = arguments.backbones != _DEFAULT
    if is_one_table and arguments.looks:
        parser.error("--backbones: the table has no looks")
    if arguments.within_training and (
        is_one_table or arguments.looks or arguments.branch_of is not None
    ):
        parser.error("--within-training: the table has no --backbones, --looks or --branch-of")
    if arguments.methods is None:
        is_without = is_one_table or arguments.within_training
        arguments.methods = list(METHODS) if is_without else every
    if arguments.bits is None:
        arguments.bits = [_DETAILED_AT_BITS] if is_one_table else [16, 32, 64]
    if is_one_table and (arguments.bits[1:] or set(arguments.methods) & set(BASELINES)):
        parser.error("--backbones: the table has one length and no baselines")
    if arguments.within_training and set(arguments.methods) & set(BASELINES):
        parser.error("--within-training: the table has no baselines")
    check_lengths(parser, arguments.bits)
    for seed in arguments.seeds:
        if not 0 <= seed < _SEEDS:
            parser.error(f"--seeds {seed}: expected 0..{_SEEDS - 1}")
    once = ("protocols", "methods", "bits", "seeds", "backbones", "branch_of")
    check_unique(parser, arguments, once)
    return arguments


def _forms(arguments: argparse.Namespace, study: Study, method: str) -> tuple[str, ...]:
    """What a method is trained on in a study."""
    if arguments.within_training:
        return ("guided",)
    with_branch = arguments.methods if arguments.branch_of is None else arguments.branch_of
    return tuple(form for form in study.forms if form != "guided" or method in with_branch)


class _Frozen(NamedTuple):
    """A network to take maps from, with its preprocessing and a title for files.

    `trained_on` is the digest of the images that a checkpoint was trained on.
    """

    network: AttentionHashing
    preprocess: Preprocess
    title: str
    trained_on: str | None


def _frozen(name: str, size: int | None) -> _Frozen:
    """Load a backbone; raise a ValueError if there is none of this name, or if it is untrained."""
    path = Path(name)
    if path.suffix == ".pt":
        network, config, state = load_trained(path)
        if config.branch:
            raise ValueError(
                f"{path}: started from a stored branch whose training images are unknown"
            )
        config = config if size is None else replace(config, size=size)
        title = f"{config.backbone}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
        trained_on: str | None = state["digest"]
    else:
        size = Config.size if size is None else size
        config = Config(backbone=name, stride=strides(name)[0], size=size)
        if not has_published_weights(name):
            raise ValueError(f"{name} has no published weights; use a checkpoint.pt of train.py")
        network = new_network(config, classes=2).eval()  # the branch is not used
        title, trained_on = name, None
    title = re.sub(r"[^\w.-]", "-", f"{title}-{config.size}")
    return _Frozen(network, config.preprocess, title, trained_on)


def _studies(arguments: argparse.Namespace) -> dict[str, list[Study]]:
    """Studies by title of the backbone. Everything is checked before the first map is computed."""
    folders = {name: getattr(arguments, name.replace("-", "_")) for name, _ in _TOGETHER}
    wanted = arguments.protocols
    if wanted is None:
        wanted = [one for source, some in _TOGETHER if folders[source] is not None for one in some]
    if not wanted:
        raise ValueError(f"no images: pass at least one of --{', --'.join(folders)}")
    chosen = [
        (source, together[0], [name for name in together if name in wanted])
        for source, together in _TOGETHER
    ]
    chosen = [one for one in chosen if one[2]]
    for source, _, requested in chosen:
        if folders[source] is None:
            raise ValueError(f"{requested[0]} requires --{source} DIR; or omit it from --protocols")
    backbones = [_frozen(name, arguments.size) for name in arguments.backbones]
    titles = [one.title for one in backbones]
    if len(set(titles)) < len(titles):
        raise ValueError(f"backbones {', '.join(titles)}: one is listed twice")
    read = {}
    for source, first, requested in chosen:
        data = protocols.images(requested[0], folders[source])
        check_arguments(arguments.out, {f"images of {source}": data.digest()})
        drawn = [protocols.draw(one, data, _DRAW) for one in requested]
        if arguments.within_training:  # where the first of them has the others' training images
            drawn = [protocols.within_training(drawn[0])]
        read[first] = data, drawn
        for backbone in backbones:
            _check_training(backbone, *read[first])
    return {
        backbone.title: [
            _study(backbone, source, first, *read[first], arguments) for source, first, _ in chosen
        ]
        for backbone in backbones
    }


def _check_training(backbone: _Frozen, data: Labelled, drawn: list[protocols.Protocol]) -> None:
    """Raise a ValueError if a checkpoint may have been trained on queries or database."""
    training = data.subset(drawn[0].training).with_present_classes()
    if backbone.trained_on not in (None, training.digest()):
        raise ValueError(
            f"{backbone.title} was not trained on the training images of {drawn[0].name}; train it "
            f"with train.py --protocol {drawn[0].name}"
        )


def _study(
    backbone: _Frozen,
    source: str,
    first: str,
    data: Labelled,
    drawn: list[protocols.Protocol],
    arguments: argparse.Namespace,
) -> Study:
    path = arguments.out / f"{source}-{backbone.title}-{data.digest()[:8]}.npy"
    extract = FeatureExtractor(backbone.network, backbone.preprocess, whole_map=True)
    maps = cached_maps(extract, data.images, len(data), path)
    if arguments.within_training:
        return _study_within(f"{first}-within-{backbone.title}", maps, drawn[0])
    return Study(
        f"{first}-{backbone.title}",
        maps,
        data.labels,
        drawn[0].training,
        drawn[0].queries,
        {one.name: one.database for one in drawn},
        arguments.looks,
        data.images,
        extract,
    )


def _study_within(name: str, maps: NDArray[np.float16], drawn: protocols.Protocol) -> Study:
    """A study of a protocol's own images only: there is no need to describe any others."""
    parts = drawn.training, drawn.queries, drawn.database
    own = np.unique(np.concatenate(parts))
    training, queries, database = (np.searchsorted(own, part) for part in parts)
    databases = {drawn.name: database}
    return Study(name, maps[own], drawn.data.labels[own], training, queries, databases)


def _write(rows: list[Row], arguments: argparse.Namespace) -> None:
    names = list(dict.fromkeys(row["protocol"] for row in rows))
    seconds = sum({_cell(row): row["seconds"] for row in rows}.values())
    seeds = f"seeds {', '.join(map(str, arguments.seeds))}"
    effort = (
        f"The {len({_cell(row) for row in rows})} cells of all protocols took {seconds / 60:.0f} "
        "minutes of one core, not counting features, branches and the choice of rates."
    )
    bits = _DETAILED_AT_BITS if _DETAILED_AT_BITS in arguments.bits else max(arguments.bits)
    # The other sections of sets of one label stay where only others are measured.
    is_of_one_label = any(name in protocols.OF_ONE_LABEL for name in names)
    where, of = ("", "") if is_of_one_label else (f" on {names[0]}", f" of {names[0]}")
    looks = (
        f", with looks the global features of the image and of at most {arguments.looks} looks at "
        "its likely classes, each with a code of its own"
        if arguments.looks
        else ""
    )
    sections = {
        f"{name}": (
            f"Methods on {name}",
            f"Tie-aware mAP over the whole ranking, mean and standard deviation over {seeds} "
            "(PCA-ITQ and float features do not depend on a seed). Methods have the "
            "global feature, as published; with the branch also the guided local one"
            f"{looks}. Each is trained at the rate that was best on held-out training images with "
            f"{TUNED_AT_BITS} bits. Bold: the best trained method, and those that a paired "
            "bootstrap over queries cannot distinguish from it. " + effort,
            by_length(rows, name),
        )
        for name in names
    }
    sections[f"rivals{of}"] = (
        f"With the branch, against the best rival{where}",
        "mAP of the default loss with the branch, and of the best rival as published, mean and "
        f"deviation over {seeds}; their difference with its 95 % interval over resampled "
        "queries, the trainings fixed. Bold: the interval does not contain 0. The best rival is "
        "the one with the highest mAP on these very queries, which favours it.",
        against_rivals(rows, names),
    )
    if arguments.branch_of is None:
        sections[f"branch{of}"] = (
            f"The branch under every loss{where}",
            f"mAP with the guided local feature minus mAP without it, {bits} bits; intervals and "
            "bold as above.",
            of_form(rows, names, bits, "guided"),
        )
    sections[f"looks{of}"] = (
        f"Looks under every loss{where}",
        f"mAP of searches by the codes of all views minus mAP without looks, {bits} bits; "
        "intervals and bold as above.",
        of_form(rows, names, bits, LOOKS),
    )
    sections[f"codes{of}"] = (
        f"Codes of {bits} bits on {names[0]}",
        "Means over seeds. The precision of an empty ball counts as 0"
        + (
            "; with looks it is of the whole images' codes, as is the share of different ones."
            if arguments.looks
            else "."
        ),
        of_codes(rows, names[0], bits),
    )
    section = partial(write_section if arguments.results else print_section, "compare.py")
    for name, (title, text, table) in sections.items():
        if not table.rows:  # of baselines alone; the older table is more useful
            continue
        section(title, text, *table, part=name)


def _write_choice(rows: list[Row], arguments: argparse.Namespace) -> None:
    lengths = ", ".join(map(str, arguments.bits))
    text = (
        "Tie-aware mAP of the guided network on parts of the training images that neither branch "
        "nor layer was trained on: a quarter of the images, or of cifar10-unseen 2 of the 7 "
        f"classes. Mean over {lengths} bits and seeds {', '.join(map(str, arguments.seeds))}, each "
        f"at the rate of {len(RATES)} that was best on a tenth of the other training images."
    )
    section = partial(write_section if arguments.results else print_section, "compare.py")
    section("The choice of the loss", text, *means(rows), part="choice")


def _write_backbones(rows: dict[str, list[Row]], arguments: argparse.Namespace) -> None:
    bits = arguments.bits[0]
    text = (
        f"Tie-aware mAP at {bits} bits over frozen maps of each backbone, mean and standard "
        f"deviation over seeds {', '.join(map(str, arguments.seeds))}, each at its own best "
        "learning rate; the difference with its 95 % interval over resampled queries, bold if that "
        "does not contain 0. A backbone with a number was trained here, on the same training "
        "images, including the held-out ones."
    )
    section = partial(write_section if arguments.results else print_section, "compare.py")
    table = of_backbones(rows, bits)
    section("The branch on several backbones", text, *table, part="backbones")


def _cell(row: Row) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("study", "method", "form", "bits", "seed"))


if __name__ == "__main__":
    sys.exit(main())
