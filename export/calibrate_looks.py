"""Measure what distances between images with looks mean, for the general model.

    python export/calibrate_looks.py IMAGES

Run it after to_onnx.py, and to_onnx.py again after it: it encodes IMAGES, photographs of many
subjects, and --kinds, a folder per kind, with the looks of --model, and adds what it measures to
--layer. Pairs of photographs count as unrelated, but those that look like copies do not.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from attention_hashing.data.folders import images_below
from attention_hashing.data.labelled import read
from attention_hashing.general import model as general
from bitgaze import BitgazeError, Encoder
from bitgaze.encoding.contract import DEFAULT_MODEL

HERE = Path(__file__).parent


def main() -> int:
    """Parse arguments, encode, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument(
        "--kinds", type=Path, default=HERE.parent / "examples" / "pictures", help="(%(default)s)"
    )
    parser.add_argument("--layer", type=Path, default=HERE / "general.npz", help="(%(default)s)")
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, help="made from --layer")
    arguments = parser.parse_args()
    try:
        fitted = general.Fitted.load(arguments.layer)
        with Encoder(arguments.model) as encoder:
            if encoder.contract.training.get("command") != fitted.command:
                raise ValueError(f"{arguments.model} was not made from {arguments.layer}")
            measured = general.look_calibration(
                encoder, images_below(arguments.images), read(arguments.kinds)
            )
        replace(fitted, look_calibration=measured).save(arguments.layer)
    except (BitgazeError, ValueError) as error:
        print(f"calibrate_looks.py: {error}", file=sys.stderr)
        return 2
    print(f"added to {arguments.layer}; run to_onnx.py to put it into the model")
    return 0


if __name__ == "__main__":
    sys.exit(main())
