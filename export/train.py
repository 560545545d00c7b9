"""Train attention hashing on labelled pictures.

    python export/train.py FOLDER --bits 64 --out runs/mine
    python export/to_onnx.py runs/mine/checkpoint.pt --out mine.onnx

FOLDER holds one folder per class (or train/ and test/ with such folders), the IDX files of
Fashion-MNIST, or CIFAR-10 as published: python or binary version, packed or unpacked. Interrupted,
the same command goes on from the last epoch.
"""

import argparse
import sys
from pathlib import Path

import torch

from attention_hashing import data as datasets
from attention_hashing.evaluation import neighbour_precision
from attention_hashing.methods import METHODS
from attention_hashing.training import CHECKPOINT, Config, train


def main() -> int:
    """Parse, train, and say how good it is on pictures held out."""
    defaults = Config()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=Path)
    add("--out", type=Path, default=Path("runs/default"), help="folder of the run (%(default)s)")
    add("--bits", type=int, default=defaults.bits, help="code length, 8..1024 (%(default)s)")
    add("--size", type=int, default=defaults.size, help="input side in pixels (%(default)s)")
    add("--branch-epochs", type=int, default=defaults.branch_epochs, help="stage 1 (%(default)s)")
    add("--hash-epochs", type=int, default=defaults.hash_epochs, help="stage 2 (%(default)s)")
    add("--batch-size", type=int, default=defaults.batch_size, help="(%(default)s)")
    add("--method", default=defaults.method, help=f"{', '.join(METHODS)} (%(default)s)")
    add("--seed", type=int, default=defaults.seed, help="(%(default)s)")
    add("--holdout", type=float, default=0.1, help="share of each class kept for the final check")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    arguments = parser.parse_args()
    try:
        config = Config(
            bits=arguments.bits,
            size=arguments.size,
            branch_epochs=arguments.branch_epochs,
            hash_epochs=arguments.hash_epochs,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
            method=arguments.method,
        )
        everything = datasets.read(arguments.folder)
        rest, held_out = everything.split(arguments.holdout, config.seed)
        device = _device(arguments.device)
        datasets.check_readable(everything, config.preprocess)
        print(
            f"{len(everything.classes)} classes, {len(rest)} pictures to train on, "
            f"{len(held_out)} held out, {config.bits} bits, {config.size} px, {arguments.device}"
        )
        arguments.out.mkdir(parents=True, exist_ok=True)
        network = train(rest, config, arguments.out, device)
    except (datasets.DataError, ValueError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    precision = neighbour_precision(network, config, rest, held_out)
    print(f"held-out pictures: {precision:.1%} of their 10 nearest neighbours share their class")
    print(f"next: python export/to_onnx.py {arguments.out / CHECKPOINT}")
    return 0


def _device(name: str) -> torch.device:
    """The device, tried out."""
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        message = str(error).splitlines()[0]
        raise ValueError(f"torch has no device {name!r} here ({message})") from error


if __name__ == "__main__":
    sys.exit(main())
