"""Fit a general model's hash layer on a folder of photographs; no labels needed.

    python export/fit_general.py IMAGES
    python export/fit_general.py IMAGES --model general-large

Writes export/general.npz, from which to_onnx.py makes the model that the wheel ships, or
export/general-large.npz, for the larger one. IMAGES should
show many different subjects. --kinds, with one folder per kind, is not used in the fit, but to
measure how close images of the same kind are.
"""

import argparse
import sys
from pathlib import Path

from attention_hashing.data.folders import images_below
from attention_hashing.data.labelled import read
from attention_hashing.general import model as general
from bitgaze import BitgazeError

HERE = Path(__file__).parent


def main() -> int:
    """Parse arguments, fit, calibrate, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument(
        "--kinds", type=Path, default=HERE.parent / "examples" / "pictures", help="(%(default)s)"
    )
    parser.add_argument(
        "--model", choices=general.BASES, default=general.SHIPPED, help="(%(default)s)"
    )
    parser.add_argument("--bits", type=int, default=128, help="code length (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--out", type=Path, help="(MODEL.npz, in the folder of this script)")
    arguments = parser.parse_args()
    model = arguments.model
    out = arguments.out or HERE / f"{model}.npz"
    chosen = "" if model == general.SHIPPED else f" --model {model}"
    try:
        images = images_below(arguments.images)
        command = (
            f"python export/fit_general.py IMAGES{chosen} --bits {arguments.bits} "
            f"--seed {arguments.seed}"
            f"  # {len(images)} photographs"
        )
        general.check(arguments.bits, arguments.seed, len(images))
        kinds = read(arguments.kinds)
        extract = general.extractor(model)
        seen = general.versions(extract, images, arguments.seed)
        layer = general.fit(seen, arguments.bits, arguments.seed, model=model)
        calibration = general.calibration(extract, images, seen, kinds, layer, model)
        general.Fitted(layer, calibration, command, model=model).save(out)
    except (BitgazeError, ValueError) as error:
        print(f"fit_general.py: {error}", file=sys.stderr)
        return 2
    print(f"wrote {out} from {len(images)} photographs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
