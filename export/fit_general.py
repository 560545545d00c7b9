"""Fit the general model's hash layer on a folder of photographs; no labels needed.

    python export/fit_general.py PHOTOS

writes export/general.npz, which to_onnx.py turns into the model that the wheel ships.
"""

import argparse
import sys
from pathlib import Path

from attention_hashing import general
from bitgaze import BitgazeError
from bitgaze.images import SUFFIXES


def main() -> int:
    """Parse and fit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--bits", type=int, default=128, help="code length (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "general.npz")
    arguments = parser.parse_args()
    pictures = sorted(p for p in arguments.photos.rglob("*") if p.suffix.lower() in SUFFIXES)
    command = (
        f"python export/fit_general.py PHOTOS --bits {arguments.bits} --seed {arguments.seed}"
        f"  # {len(pictures)} photographs"
    )
    try:
        general.fit(pictures, arguments.bits, arguments.seed, arguments.out, command)
    except (BitgazeError, ValueError) as error:
        print(f"fit_general.py: {error}", file=sys.stderr)
        return 2
    print(f"wrote {arguments.out} from {len(pictures)} photographs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
