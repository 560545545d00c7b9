"""Export a network to the model file that bitgaze runs.

    python export/to_onnx.py runs/mine/checkpoint.pt --out mine.onnx
    python export/to_onnx.py --model general-large        a larger general model: general-large.onnx
    python export/to_onnx.py --out runtime/bitgaze/models/general.onnx     the one that ships
    python export/to_onnx.py --precision int8 --target arm --calibrate IMAGES --out small.onnx

The file is compared with torch on real images before it is kept. In reduced precision (fp16, int8)
it is also compared with float32 on images in class folders, and refused if it flips too many bits,
loses too much mAP, or saves too little.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from attention_hashing import backbones
from attention_hashing.checkpoint import load_checkpoint
from attention_hashing.data import labelled
from attention_hashing.data.folders import images_below
from attention_hashing.deployment import onnx_file, ort_format, reduced_precision
from attention_hashing.deployment.quantize import TARGETS
from attention_hashing.general import model as general
from attention_hashing.looking import RULE
from attention_hashing.network import AttentionHashing
from bitgaze import BitgazeError, Contract, Encoder
from bitgaze.encoding.contract import PRECISIONS
from bitgaze.encoding.looks import LookRule

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples" / "pictures"
_CHECKED_IMAGES = 64


def main() -> int:
    """Parse arguments, export, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoint", type=Path, nargs="?", help="of train.py (the general model)")
    add("--model", choices=general.MODELS, help=f"a general model ({general.SHIPPED})")
    add("--layer", type=Path, help="of fit_general.py, for another general model (MODEL.npz)")
    add(
        "--out",
        type=Path,
        help="the .onnx file (here: model.onnx, or the name of the general model); the model that "
        "ships is only replaced if named",
    )
    add("--name", help="stored in the file, for people (the checkpoint's folder)")
    add(
        "--images",
        type=Path,
        default=EXAMPLES,
        help="folder of images to compare with torch on (%(default)s)",
    )
    add("--precision", choices=PRECISIONS, default="fp32", help="arithmetic (%(default)s)")
    add("--target", choices=TARGETS, help="int8: the target processor; vnni: x86 since 2019")
    add("--calibrate", type=Path, help="int8: folder of a hundred images to measure ranges on")
    add("--check", type=Path, help="fp16, int8: class folders to compare on (the examples)")
    add(
        "--format",
        choices=("onnx", "ort"),
        default="onnx",
        help="ort: also write an .ort file, for onnxruntime's small builds",
    )
    arguments = parser.parse_args()
    try:
        _check_arguments(arguments)
        checked = images_below(arguments.images)
        checked = checked[:: max(1, len(checked) // _CHECKED_IMAGES)][:_CHECKED_IMAGES]
        encoder = _write(arguments, checked)
        written = [encoder.model.path]
        if arguments.format == "ort":
            written.append(encoder.model.path.with_suffix(ort_format.SUFFIX))
            ort_format.write_ort(encoder, written[-1])
    except (onnx_file.ExportError, BitgazeError, ValueError, OSError) as error:
        print(f"to_onnx.py: {error}", file=sys.stderr)
        return 2
    for path in written:
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {encoder.bits} bits")
    print(f"fingerprint {encoder.fingerprint}")
    return 0


def _check_arguments(arguments: argparse.Namespace) -> None:
    _check_network(arguments)
    precision, out = arguments.precision, arguments.out
    if out is not None and not out.absolute().parent.is_dir():
        raise ValueError(f"{out}: the folder {out.parent} does not exist")
    for name, precisions in (
        ("target", ("int8",)),
        ("calibrate", ("int8",)),
        ("check", ("fp16", "int8")),
    ):
        is_given = getattr(arguments, name) is not None
        if is_given and precision not in precisions:
            raise ValueError(f"--{name} is for {' and '.join(precisions)}, not for {precision}")
        if not is_given and precision == "int8" and name != "check":
            raise ValueError(f"int8 requires --{name}")
    if precision != "fp32" and out is None:
        raise ValueError(
            f"{precision} requires --out: the default name is that of the float32 model"
        )
    if arguments.format == "ort" and out is None:
        raise ValueError("--format ort requires --out, which names the .ort file, too")
    if out is not None and out.suffix == ort_format.SUFFIX:
        raise ValueError(
            f"{out}: --out names the .onnx file; --format ort adds an .ort file next to it"
        )


def _check_network(arguments: argparse.Namespace) -> None:
    """Check the arguments that say what to export."""
    out, layer = arguments.out, arguments.layer
    if layer is not None:
        if arguments.checkpoint is not None:
            raise ValueError("--layer is for a general model; a checkpoint has its own")
        if not layer.is_file():
            raise ValueError(f"{layer} does not exist; fit_general.py writes it")
        if out is None:
            raise ValueError("--layer requires --out: the shipped model is made from general.npz")
    if arguments.model is not None and (arguments.checkpoint or layer):
        raise ValueError(
            "--model is for a general model as fitted; leave out checkpoint and --layer"
        )
    if arguments.checkpoint is not None and not arguments.checkpoint.is_file():
        raise ValueError(f"{arguments.checkpoint} does not exist")


def _write(arguments: argparse.Namespace, checked: list[Path]) -> Encoder:
    out = arguments.out
    if arguments.checkpoint is None:
        model = arguments.model or general.SHIPPED
        layer = arguments.layer or HERE / f"{model}.npz"
        network, contract = general_model(layer, arguments.name)
        out = out or Path(f"{model}.onnx")
    else:
        network, contract = trained(arguments.checkpoint, arguments.name)
        out = out or Path("model.onnx")
    if arguments.precision == "fp32":
        return onnx_file.write_model(network, contract, checked, out)
    check = labelled.read(arguments.check or EXAMPLES)
    if arguments.precision == "fp16":
        encoder, found = reduced_precision.write_fp16(network, contract, checked, out, check)
    else:
        calibration = images_below(arguments.calibrate)
        encoder, found = reduced_precision.write_int8(
            network, contract, checked, out, check, calibration, arguments.target
        )
    print(f"{len(check)} images of {len(check.classes)} classes, compared with float32")
    print(found)
    return encoder


def general_model(
    layer_file: Path = HERE / "general.npz", name: str | None = None
) -> tuple[AttentionHashing, Contract]:
    """The network of a general model, and its contract without golden examples."""
    fitted = general.Fitted.load(layer_file)
    base = general.BASES[fitted.model]
    network = general.with_layer(fitted.layer, fitted.model)
    return network, Contract(
        name=name or f"{fitted.model}-{network.bits}",
        bits=network.bits,
        preprocess=base.preprocess,
        licence=f"Apache-2.0 (backbone and classifier: {base.package})",
        training={
            "backbone": backbones.described(base.backbone),
            "attention": "the ImageNet classifier's class activation maps",
            "hash layer": "fitted without labels to photographs and distorted versions of them",
            "command": fitted.command,
        },
        calibration=fitted.calibration,
        looks=LookRule(),
        look_calibration=fitted.look_calibration,
    )


def trained(checkpoint: Path, name: str | None) -> tuple[AttentionHashing, Contract]:
    """The network of a checkpoint, and its contract without golden examples."""
    network, config, state = load_checkpoint(checkpoint)
    return network, Contract(
        name=name or checkpoint.resolve().parent.name,
        bits=config.bits,
        preprocess=config.preprocess,
        licence=f"set by whoever trained it; {backbones.licence(config.backbone)}",
        classes=tuple(state["classes"]),
        training={
            "backbone": backbones.described(config.backbone),
            "images": state["images"],
            "config": state["config"],
            "versions": state["versions"],
            **({"layer": state["layer"]} if "layer" in state else {}),
        },
        looks=replace(RULE, most=config.looks) if config.looks else None,
    )


if __name__ == "__main__":
    sys.exit(main())
