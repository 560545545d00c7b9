"""Label more images by a network trained on a few: self-training.

    python export/pseudo_label.py runs/mine/checkpoint.pt labelled unlabelled --out more
    python export/train.py more --out runs/more

Writes a list (train.txt) of the labelled images, and of the unlabelled images that the network's
classifier labels with enough confidence. A network trained on both is often better than its teacher
(Lee, "Pseudo-Label", ICML workshop 2013). With --protocol, the unlabelled images are the protocol's
database, whose labels are not used.
"""

import argparse
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import attention_hashing  # noqa: F401  says what to install if a package is missing

# isort: split
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
from bitgaze.encoding.images import Preprocess

_BATCH = 64
# The database of the others has classes that the network does not know.
_PROTOCOLS = [name for name in protocols.OF_ONE_LABEL if not name.endswith("-unseen")]


def main() -> int:
    """Parse arguments, classify the unlabelled images, write the list."""
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
    print(f"{sure.sum()} of {len(sure)} images were labelled: {each}")
    print(f"next: python export/train.py {arguments.out}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help="of a run of train.py")
    add("labelled", type=Path, help="a folder of images as for train.py")
    add("unlabelled", type=Path, nargs="?", help="a folder of images; or use --protocol")
    add("--protocol", choices=_PROTOCOLS, metavar="NAME", help=f"one of {', '.join(_PROTOCOLS)}")
    add("--above", type=float, default=0.9, help="minimum probability of a label (%(default)s)")
    add("--out", type=Path, required=True, help="folder of the list")
    arguments = parser.parse_args()
    if (arguments.unlabelled is None) == (arguments.protocol is None):
        parser.error("expected either a folder of unlabelled images or --protocol")
    if not 0 <= arguments.above <= 1:
        parser.error(f"--above {arguments.above}: expected a probability")
    if arguments.out.resolve() == arguments.labelled.resolve():
        parser.error(f"--out {arguments.out}: must differ from the folder of labelled images")
    return arguments


def _images(arguments: argparse.Namespace) -> tuple[Labelled, list[Path]]:
    """The labelled images, and the unlabelled images without them."""
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
        raise ValueError(
            f"{arguments.labelled}: images are not files; unpack them into class folders"
        )
    if labelled.labels.ndim == 2:
        raise ValueError(
            f"{arguments.labelled}: images have several labels; only one per image is supported"
        )
    known = {path.resolve() for path in labelled.images}
    unlabelled = [path for path in images if path.resolve() not in known]
    if not unlabelled:
        raise ValueError(f"{place}: contains no images except labelled ones")
    return labelled, unlabelled


def _check_teacher(
    arguments: argparse.Namespace, state: dict[str, Any], labelled: Labelled
) -> None:
    """Raise a ValueError if the classes differ, or if it may have been trained on the database."""
    if tuple(state["classes"]) != labelled.classes:
        raise ValueError(
            f"{arguments.checkpoint} has the classes {', '.join(state['classes'])}; the labelled "
            f"images have {', '.join(labelled.classes)}"
        )
    if arguments.protocol and state["digest"] != labelled.digest():
        raise ValueError(
            f"{arguments.checkpoint} was not trained on the training images of "
            f"{arguments.protocol}; train it with train.py --protocol {arguments.protocol}"
        )


def _probabilities(
    network: AttentionHashing, preprocess: Preprocess, images: list[Path]
) -> NDArray[np.float32]:
    """The classifier's probabilities: (n, classes)."""
    extract = FeatureExtractor(network, preprocess, whole_map=True)
    bar = tqdm(images, "labelling", unit="img", mininterval=1)
    maps = extract.each(bar, lambda path: path)
    found = []
    with torch.inference_mode():
        while some := list(islice(maps, _BATCH)):
            logits = network.branch(torch.from_numpy(np.stack(some))).logits
            found.append(network.branch.probability(logits).numpy())
    return np.concatenate(found)


def _write(
    out: Path,
    labelled: Labelled,
    unlabelled: list[Path],
    labels: NDArray[np.intp],
    sure: NDArray[np.bool_],
) -> None:
    """Write one list, with absolute paths."""
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
