"""Replace the hash layer of a trained network: another code length, or another method.

    python export/refit.py runs/mine/checkpoint.pt labelled --bits 32 --out runs/short
    python export/to_onnx.py runs/short/checkpoint.pt --out short.onnx

Backbone and branch stay as they are, so this takes minutes where training takes hours. A hash layer
that was trained for many epochs, or on labels predicted by a network, uses few codes, and images
with the same code are tied; a layer trained from scratch uses more.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from attention_hashing.checkpoint import CHECKPOINT, load_checkpoint, save_refitted
from attention_hashing.data import protocols
from attention_hashing.data.labelled import Labelled, Shown, check_readable, read
from attention_hashing.features import FeatureExtractor
from attention_hashing.heads import fit_layer
from attention_hashing.looking import with_looks
from attention_hashing.methods import METHODS
from bitgaze.hamming import pack


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
        if new.looks:
            shown = with_looks(labelled, network, new, arguments.out, has_begun=False)
        bar = tqdm(range(len(shown)), "computing features", unit="img", mininterval=1)
        extract = FeatureExtractor(network, new.preprocess)
        features = extract(bar, lambda at: shown.images[at])
        method = METHODS[name](len(labelled.classes), new.bits, seed)
        layer = fit_layer(
            features, shown.one_hot(), method, arguments.epochs, arguments.learning_rate
        )
        network.replace_hash_layer(layer)
        how = {
            "method": name,
            "epochs": arguments.epochs,
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
    add("--epochs", type=int, default=10, help="(%(default)s)")
    add("--learning-rate", type=float, default=1e-4, help="at the start (%(default)s)")
    add("--seed", type=int, help="(as before)")
    add("--out", type=Path, required=True, help="folder of the new checkpoint")
    arguments = parser.parse_args()
    if arguments.epochs < 1:
        parser.error(f"--epochs {arguments.epochs}: expected at least 1")
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
