"""Label more pictures by a network that learned from a few: self-training.

    python export/pseudo_label.py runs/mine/checkpoint.pt labelled unlabelled --out more
    python export/train.py more --out runs/more

Writes a list (train.txt) of the labelled pictures, as they are, and of those unlabelled ones of
which the network's classifier is sure enough. Trained on both, a network is often better than its
teacher (Lee, "Pseudo-Label", ICML workshop 2013). With --protocol, the unlabelled pictures are the
protocol's database, whose labels are not looked at.
"""

import argparse
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from attention_hashing import data as datasets
from attention_hashing import protocols
from attention_hashing.checkpoint import load_trained
from attention_hashing.features import FeatureExtractor
from attention_hashing.lists import CLASSES, TRAIN
from bitgaze import ImageError

_BATCH = 64


def main() -> int:
    """Parse, look at every unlabelled picture, write the list."""
    arguments = _arguments()
    try:
        labelled, unlabelled = _pictures(arguments)
        found = _probabilities(arguments.checkpoint, labelled.classes, unlabelled)
        sure = found.max(1) >= arguments.above
        arguments.out.mkdir(parents=True, exist_ok=True)
        _write(arguments.out, labelled, unlabelled, found.argmax(1), sure)
    except (datasets.DataError, ImageError, ValueError, OSError) as error:
        print(f"pseudo_label.py: {error}", file=sys.stderr)
        return 2
    counts = np.bincount(found.argmax(1)[sure], minlength=len(labelled.classes))
    each = ", ".join(f"{name} {n}" for name, n in zip(labelled.classes, counts, strict=True))
    print(f"{sure.sum()} of {len(sure)} pictures got a label: {each}")
    print(f"next: python export/train.py {arguments.out}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help="of a run of train.py")
    add("labelled", type=Path, help="a folder of pictures that train.py takes")
    add("unlabelled", type=Path, nargs="?", help="a folder of pictures; or see --protocol")
    add("--protocol", metavar="NAME", help=f"one of {', '.join(protocols.PROTOCOLS)}")
    add("--above", type=float, default=0.9, help="least probability of a label (%(default)s)")
    add("--out", type=Path, required=True, help="folder of the list")
    arguments = parser.parse_args()
    if (arguments.unlabelled is None) == (arguments.protocol is None):
        parser.error("expected either a folder of unlabelled pictures or --protocol")
    if not 0 <= arguments.above <= 1:
        parser.error(f"--above {arguments.above}: expected a probability")
    return arguments


def _pictures(arguments: argparse.Namespace) -> tuple[datasets.Labelled, list[Path]]:
    if arguments.protocol:
        data = protocols.pictures(arguments.protocol, arguments.labelled)
        drawn = protocols.draw(arguments.protocol, data, seed=0)
        labelled = data.subset(drawn.training).with_present_classes()
        unlabelled = data.subset(drawn.database).pictures
    else:
        labelled = datasets.read(arguments.labelled)
        unlabelled = datasets.pictures_below(arguments.unlabelled)
    if not isinstance(labelled.pictures, list) or not isinstance(unlabelled, list):
        raise ValueError(f"{arguments.labelled}: a list names files; unpack it into class folders")
    if not unlabelled:
        raise ValueError(f"{arguments.unlabelled}: no pictures there")
    return labelled, unlabelled


def _probabilities(
    checkpoint: Path, classes: tuple[str, ...], pictures: list[Path]
) -> NDArray[np.float32]:
    """What the classifier makes of each: (n, classes)."""
    network, config, state = load_trained(checkpoint)
    if tuple(state["classes"]) != classes:
        raise ValueError(
            f"{checkpoint} tells {', '.join(state['classes'])} apart, the labelled pictures are of "
            f"{', '.join(classes)}"
        )
    extract = FeatureExtractor(network, config.preprocess, whole_map=True)
    bar = tqdm(pictures, "labelling", unit="img", mininterval=1)

    maps = extract.each(bar, lambda path: path)
    found = []
    with torch.inference_mode():
        while some := list(islice(maps, _BATCH)):
            logits = network.branch(torch.from_numpy(np.stack(some))).logits
            found.append(logits.softmax(1).numpy())
    return np.concatenate(found)


def _write(
    out: Path,
    labelled: datasets.Labelled,
    unlabelled: list[Path],
    labels: NDArray[np.intp],
    sure: NDArray[np.bool_],
) -> None:
    """One list, of absolute paths; who is labelled already is not labelled anew."""
    found = np.eye(len(labelled.classes), dtype=int)[labels]
    pairs = [(unlabelled[at], found[at]) for at in np.flatnonzero(sure)]
    pairs += zip(labelled.pictures, labelled.hot().astype(int), strict=True)
    rows = {path.resolve(): row for path, row in pairs}
    lines = [f"{path} {' '.join(map(str, row))}\n" for path, row in rows.items()]
    draft = out / f"{TRAIN}.part"
    draft.write_text("".join(lines), encoding="utf-8")
    (out / CLASSES).write_text("".join(f"{name}\n" for name in labelled.classes), encoding="utf-8")
    draft.replace(out / TRAIN)


if __name__ == "__main__":
    sys.exit(main())
