"""Replace the hash layer of a trained network: another code length, or another method.

    python export/refit.py runs/mine/checkpoint.pt labelled --bits 32 --out runs/short
    python export/to_onnx.py runs/short/checkpoint.pt --out short.onnx

Backbone and branch stay as they are, so this takes minutes where training takes hours. A hash layer
that was trained for many epochs, or on labels predicted by a network, uses few codes, and images
with the same code are tied; a layer trained from scratch uses more.

Whether it is better is measured first: a layer is fitted without a tenth of the images, and these
are searched for among the others, with the old layer and with that one. If these are the images of
train.py, the tenth is what it held out, and a layer that is worse is only written with
--accept-worse. Other images may have been trained on, which flatters the old layer. What is written
is fitted to all images.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import attention_hashing  # noqa: F401  says what to install if a package is missing

# isort: split
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from attention_hashing.checkpoint import CHECKPOINT, load_checkpoint, save_refitted
from attention_hashing.data import protocols
from attention_hashing.data.labelled import Labelled, Shown, check_readable, read
from attention_hashing.evaluation.neighbours import held_out_map
from attention_hashing.features import FeatureExtractor
from attention_hashing.heads import epochs_of, fit_layer
from attention_hashing.looking import with_looks
from attention_hashing.methods import METHODS
from attention_hashing.network import AttentionHashing, HashLayer
from bitgaze.hamming import pack

_EPOCHS = 10
# On 216 images, 30 steps bring .34 to .36 mAP, depending on the method, 300 bring .54 to .68.
_STEPS = 400


def main() -> int:
    """Parse arguments, compute features, train the layer, write a checkpoint."""
    arguments = _arguments()
    try:
        network, config, state = load_checkpoint(arguments.checkpoint)
        new = config if arguments.bits is None else replace(config, bits=arguments.bits)
        before = state.get("layer", {"method": config.method, "seed": config.seed})
        name = arguments.method or before["method"]
        seed = before["seed"] if arguments.seed is None else arguments.seed
        if name not in METHODS:
            raise ValueError(f"--method {name}: expected one of {', '.join(METHODS)}")
        if not 0 <= seed < 2**32:
            raise ValueError(f"--seed {seed}: expected 0..{2**32 - 1}")
        labelled = _labelled(arguments, state)
        check_readable(labelled, new.preprocess)
        arguments.out.mkdir(parents=True, exist_ok=True)
        shown: Shown = labelled
        owners = np.arange(len(labelled))
        if new.looks:
            shown = with_looks(labelled, network, new, arguments.out, has_begun=False)
            owners = shown.owners
        bar = tqdm(range(len(shown)), "computing features", unit="img", mininterval=1)
        extract = FeatureExtractor(network, new.preprocess)
        features = extract(bar, lambda at: shown.images[at])
        one_hot = shown.one_hot()
        epochs = arguments.epochs or epochs_of(len(shown), _EPOCHS, _STEPS)

        def fitted(positions: NDArray[np.intp]) -> HashLayer:
            method = METHODS[name](len(labelled.classes), new.bits, seed)
            of_some = features[positions], one_hot[positions]
            return fit_layer(*of_some, method, epochs, arguments.learning_rate)

        if arguments.holdout:
            is_held_out = labelled.held_out(arguments.holdout, config.seed)
            rest = np.flatnonzero(~is_held_out[owners])
            values = features[: len(labelled)]
            figures = [
                _map(pack(found), labelled, is_held_out)
                for found in (_values(network, values), fitted(rest).values(values))
            ]
            trained_on = labelled.subset(np.flatnonzero(~is_held_out))
            is_fair = trained_on.digest() == state["digest"] and "layer" not in state
            _report(figures, config.bits, new.bits, int(is_held_out.sum()), is_fair)
            if is_fair and figures[1] < figures[0] and not arguments.accept_worse:
                raise ValueError(
                    "the new layer is worse, and was not written: try another --method, more "
                    "--epochs or another --learning-rate, or pass --accept-worse"
                )
        layer = fitted(np.arange(len(shown)))
        network.replace_hash_layer(layer)
        how = {
            "method": name,
            "epochs": epochs,
            "learning_rate": arguments.learning_rate,
            "seed": seed,
            "images": len(labelled),
            "digest": labelled.digest(),
        }
        save_refitted(network, new, state, how, arguments.out)
    except (ValueError, OSError) as error:
        print(f"refit.py: {error}", file=sys.stderr)
        return 2
    codes = np.unique(pack(layer.values(features)), axis=0)
    print(f"{len(labelled)} images have {len(codes)} different codes of {new.bits} bits")
    print(f"next: python export/to_onnx.py {arguments.out / CHECKPOINT}")
    return 0


@torch.inference_mode()
def _values(network: AttentionHashing, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Hash values of features (n, 2 * channels) by the layer that a network has: (n, bits)."""
    found: NDArray[np.float32] = network.normalise(
        network.project(torch.from_numpy(features))
    ).numpy()
    return found


def _map(codes: NDArray[np.uint8], labelled: Labelled, is_held_out: NDArray[np.bool_]) -> float:
    rest = ~is_held_out
    labels = labelled.labels
    return held_out_map(codes[is_held_out], labels[is_held_out], codes[rest], labels[rest])


def _report(figures: list[float], old: int, new: int, count: int, is_fair: bool) -> None:
    before, after = figures
    print(
        f"mAP of {count} held-out images: {before:.3f} with the old layer ({old} bits), "
        f"{after:.3f} with the new one ({new} bits)"
    )
    if not is_fair:
        print(
            "the network may have been trained on them, which flatters the old layer; compare both "
            "on other images with evaluate.py"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help="of a run of train.py")
    add("labelled", type=Path, help="a folder of images as for train.py, of the same classes")
    add("--protocol", metavar="NAME", help="use its training images, as in train.py")
    add("--bits", type=int, help="code length, 8..1024 (as before)")
    add("--method", help=f"{', '.join(METHODS)} (as before)")
    add("--epochs", type=int, help=f"({_EPOCHS}; more for few images: at least {_STEPS} steps)")
    add("--learning-rate", type=float, default=1e-4, help="at the start (%(default)s)")
    add("--seed", type=int, help="(as before)")
    add("--out", type=Path, required=True, help="folder of the new checkpoint")
    add("--holdout", type=float, default=0.1, help="share to measure on, as in train.py; 0: none")
    add("--accept-worse", action="store_true", help="write the layer even if it is worse")
    arguments = parser.parse_args()
    if arguments.epochs is not None and arguments.epochs < 1:
        parser.error(f"--epochs {arguments.epochs}: expected at least 1")
    if not 0 <= arguments.holdout < 1:
        parser.error(f"--holdout {arguments.holdout}: expected 0, or a share below 1")
    if not 0 < arguments.learning_rate < float("inf"):
        parser.error(f"--learning-rate {arguments.learning_rate}: expected a number above 0")
    if arguments.out.resolve() == arguments.checkpoint.resolve().parent:
        parser.error(f"--out {arguments.out}: must differ from the folder of the checkpoint")
    return arguments


def _labelled(arguments: argparse.Namespace, state: dict[str, Any]) -> Labelled:
    """Read the images; raise a ValueError if their classes differ from the network's."""
    if arguments.protocol:
        labelled = protocols.training_images(arguments.protocol, arguments.labelled)
    else:
        labelled = read(arguments.labelled)
    if labelled.classes != tuple(state["classes"]):
        raise ValueError(
            f"{arguments.checkpoint} has the classes {', '.join(state['classes'])}; the images "
            f"have {', '.join(labelled.classes)}"
        )
    return labelled


if __name__ == "__main__":
    sys.exit(main())
