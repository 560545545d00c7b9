"""Label more images by a network that learned from a few: self-training.

    python export/pseudo_label.py runs/mine/checkpoint.pt labelled unlabelled --out more
    python export/train.py more --out runs/more

Writes a list (train.txt) of the labelled images, as they are, and of those unlabelled ones of
which the network's classifier is sure enough. Trained on both, a network is often better than its
teacher (Lee, "Pseudo-Label", ICML workshop 2013). With --protocol, the unlabelled images are the
protocol's database, whose labels are not looked at.
"""

import argparse
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from attention_hashing.checkpoint import load_trained
from attention_hashing.data import protocols
from attention_hashing.data.folders import images_below
from attention_hashing.data.labelled import Labelled, check_readable, read
from attention_hashing.data.lists import CLASSES, TRAIN
from attention_hashing.features import FeatureExtractor
from attention_hashing.network import AttentionHashing
from bitgaze import ImageError
from bitgaze.images import Preprocess

_BATCH = 64
# The others have a database of classes that the network does not know.
_PROTOCOLS = [name for name in protocols.PROTOCOLS if not name.endswith("-unseen")]


def main() -> int:
    """Parse, look at every unlabelled image, write the list."""
    arguments = _arguments()
    try:
        labelled, unlabelled = _images(arguments)
        network, config, state = load_trained(arguments.checkpoint)
        _check_teacher(arguments, state, labelled)
        everything = Labelled(unlabelled, np.zeros(len(unlabelled), np.int64), labelled.classes)
        check_readable(everything, config.preprocess)
        found = _probabilities(network, config.preprocess, unlabelled)
        sure = found.max(1) >= arguments.above
        arguments.out.mkdir(parents=True, exist_ok=True)
        _write(arguments.out, labelled, unlabelled, found.argmax(1), sure)
    except (ImageError, ValueError, OSError) as error:
        print(f"pseudo_label.py: {error}", file=sys.stderr)
        return 2
    counts = np.bincount(found.argmax(1)[sure], minlength=len(labelled.classes))
    each = ", ".join(f"{name} {n}" for name, n in zip(labelled.classes, counts, strict=True))
    print(f"{sure.sum()} of {len(sure)} images got a label: {each}")
    print(f"next: python export/train.py {arguments.out}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help="of a run of train.py")
    add("labelled", type=Path, help="a folder of images that train.py takes")
    add("unlabelled", type=Path, nargs="?", help="a folder of images; or see --protocol")
    add("--protocol", choices=_PROTOCOLS, metavar="NAME", help=f"one of {', '.join(_PROTOCOLS)}")
    add("--above", type=float, default=0.9, help="least probability of a label (%(default)s)")
    add("--out", type=Path, required=True, help="folder of the list")
    arguments = parser.parse_args()
    if (arguments.unlabelled is None) == (arguments.protocol is None):
        parser.error("expected either a folder of unlabelled images or --protocol")
    if not 0 <= arguments.above <= 1:
        parser.error(f"--above {arguments.above}: expected a probability")
    if arguments.out.resolve() == arguments.labelled.resolve():
        parser.error(f"--out {arguments.out}: expected another folder than that of your labels")
    return arguments


def _images(arguments: argparse.Namespace) -> tuple[Labelled, list[Path]]:
    """The labelled ones, and the others without them."""
    if arguments.protocol:
        data = protocols.images(arguments.protocol, arguments.labelled)
        drawn = protocols.draw(arguments.protocol, data, seed=0)
        labelled = data.subset(drawn.training).with_present_classes()
        images = data.subset(drawn.database).images
        place = arguments.labelled
    else:
        labelled = read(arguments.labelled)
        images = images_below(arguments.unlabelled)
        place = arguments.unlabelled
    if not isinstance(labelled.images, list) or not isinstance(images, list):
        raise ValueError(f"{arguments.labelled}: a list names files; unpack it into class folders")
    if labelled.labels.ndim == 2:
        raise ValueError(
            f"{arguments.labelled}: images with several labels; this gives an image one"
        )
    known = {path.resolve() for path in labelled.images}
    unlabelled = [path for path in images if path.resolve() not in known]
    if not unlabelled:
        raise ValueError(f"{place}: no images there but labelled ones")
    return labelled, unlabelled


def _check_teacher(
    arguments: argparse.Namespace, state: dict[str, Any], labelled: Labelled
) -> None:
    """Raises a ValueError if it knows other classes, or may have seen a protocol's database."""
    if tuple(state["classes"]) != labelled.classes:
        raise ValueError(
            f"{arguments.checkpoint} tells {', '.join(state['classes'])} apart, the labelled "
            f"images are of {', '.join(labelled.classes)}"
        )
    if arguments.protocol and state["digest"] != labelled.digest():
        raise ValueError(
            f"{arguments.checkpoint} was trained on other images than those of "
            f"{arguments.protocol}; train it with train.py --protocol {arguments.protocol}"
        )


def _probabilities(
    network: AttentionHashing, preprocess: Preprocess, images: list[Path]
) -> NDArray[np.float32]:
    """What the classifier makes of each: (n, classes)."""
    extract = FeatureExtractor(network, preprocess, whole_map=True)
    bar = tqdm(images, "labelling", unit="img", mininterval=1)
    maps = extract.each(bar, lambda path: path)
    found = []
    with torch.inference_mode():
        while some := list(islice(maps, _BATCH)):
            logits = network.branch(torch.from_numpy(np.stack(some))).logits
            found.append(logits.softmax(1).numpy())
    return np.concatenate(found)


def _write(
    out: Path,
    labelled: Labelled,
    unlabelled: list[Path],
    labels: NDArray[np.intp],
    sure: NDArray[np.bool_],
) -> None:
    """One list, of absolute paths."""
    found = np.eye(len(labelled.classes), dtype=int)[labels]
    pairs = [(unlabelled[at], found[at]) for at in np.flatnonzero(sure)]
    pairs += zip(labelled.images, labelled.one_hot().astype(int), strict=True)
    lines = [f"{path.resolve()} {' '.join(map(str, row))}\n" for path, row in pairs]
    draft = out / f"{TRAIN}.part"
    draft.write_text("".join(lines), encoding="utf-8")
    (out / CLASSES).write_text("".join(f"{name}\n" for name in labelled.classes), encoding="utf-8")
    draft.replace(out / TRAIN)


if __name__ == "__main__":
    sys.exit(main())
