"""Train attention hashing on labelled images.

    python export/train.py FOLDER --bits 64 --out runs/mine
    python export/to_onnx.py runs/mine/checkpoint.pt --out mine.onnx
    python export/train.py FOLDER --backbone resnet18-small --size 32 --backbone-rate 1
    python export/train.py FOLDER --bits 128 --branch runs/mine/branch.pt --out runs/longer
    python export/train.py --resume runs/mine

FOLDER contains one folder per class (or train/ and test/ with such folders), the IDX files of
Fashion-MNIST, or CIFAR-10 as published: python or binary version, packed or unpacked; or it is a
list (.txt) or table (.csv) of images and labels. A tenth of the images is held out: after each
epoch the log (log.csv) has a figure of them, and the epoch with the best one is used. The attention
branch is also written to a separate file (branch.pt), which can guide other networks of the same
backbone and classes instead of stage 1.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import attention_hashing  # noqa: F401  says what to install if a package is missing

# isort: split
import torch

from attention_hashing.backbones import NAMES, strides
from attention_hashing.bfloat16 import fast_precision
from attention_hashing.branch_file import BRANCH, StoredBranch, load_branch, save_branch
from attention_hashing.checkpoint import CHECKPOINT, stored_best, stored_config
from attention_hashing.config import PRECISIONS, Config
from attention_hashing.data import labelled, protocols
from attention_hashing.evaluation.neighbours import HeldOut, neighbour_precision
from attention_hashing.methods import DEFAULT, DEFAULT_OF_SEVERAL, METHODS, default
from attention_hashing.progress import LOG, as_time, memory_used
from attention_hashing.training import rehearse, steps_of, steps_of_epoch, train

_HOLDOUT = 0.1
# Few images are trained on for more epochs, until each stage has this number of steps.
_BRANCH_STEPS, _HASH_STEPS = 100, 300
RUN = "run.json"
_OF_THIS_CALL = ("resume", "dry_run", "out", "device")


def main() -> int:
    """Parse arguments, train, and evaluate on held-out images."""
    arguments = _arguments()
    try:
        device = _device(arguments.device)
        branch = load_branch(arguments.branch) if arguments.branch else None
        config = _config(arguments, device, branch)
        everything = _images(arguments)
        has_several = everything.has_several
        config = replace(config, several_labels=has_several)
        if arguments.method is None:
            begun = stored_config(arguments.out)
            config = replace(config, method=begun.method if begun else default(has_several))
        holdout = arguments.holdout
        if holdout is None:
            holdout = (
                0 if arguments.protocol else _HOLDOUT
            )  # a protocol has images for evaluation of its own
        if holdout:
            rest, held_out = everything.split(holdout, config.seed)
        else:
            rest, held_out = everything, None
        config = replace(config, **_epochs(arguments, config, len(rest)))
        labelled.check_readable(everything, config.preprocess)
        print(
            f"{len(everything.classes)} classes, {len(rest)} images to train on, "
            f"{len(held_out or ())} held out, {config.bits} bits, {config.backbone}, "
            f"{config.size} px, {config.precision}, loss {config.method}, {arguments.device}"
        )
        if arguments.dry_run:
            _rehearse(rest, config, device, branch)
            return 0
        arguments.out.mkdir(parents=True, exist_ok=True)
        _store(arguments)
        validate = HeldOut(config, held_out, rest) if held_out else None
        network = train(rest, config, arguments.out, device, branch, validate)
        save_branch(network, arguments.out / BRANCH, rest.classes, config.backbone)
    except (ValueError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    _report_best(arguments.out)
    if not config.hash_epochs:
        print(f"next: python export/train.py {arguments.folder} --branch {arguments.out / BRANCH}")
        return 0
    if held_out:
        found = neighbour_precision(network, config, rest, held_out)
        print(f"held-out images: {found:.1%} of their 10 nearest neighbours share their class")
    print(f"next: python export/to_onnx.py {arguments.out / CHECKPOINT}")
    return 0


def _rehearse(
    data: labelled.Labelled, config: Config, device: torch.device, branch: StoredBranch | None
) -> None:
    """Run a few steps, and print how long all of them would take."""
    seconds = rehearse(data, config, device, branch)
    count = steps_of(len(data), config)
    whole = 0.0
    for stage, each in seconds.items():
        whole += each * count[stage]
        up_to = "up to " * (stage == "hash" and config.looks > 0)
        print(f"stage {stage}: {up_to}{count[stage]} steps of {each:.2f} s")
    print(
        f"{'up to' if config.looks else 'about'} {as_time(whole)} and "
        f"{memory_used(device)}; nothing was written"
    )


def _report_best(run: Path) -> None:
    """Print which epoch is used."""
    best = stored_best(run)
    if best is None:
        print("no images were measured after the epochs: the last epoch is used")
    else:
        print(
            f"epoch {best['epoch']} is used, with the best figure of the held-out images, "
            f"{best['validation']:.3f}; chosen by them, it is a little too good. The log: "
            f"{run / LOG}"
        )


def _store(arguments: argparse.Namespace) -> None:
    """Write the arguments into the folder of a new run, for --resume."""
    if (arguments.out / CHECKPOINT).exists():
        return  # of the same arguments, or another run's, which `train` reports
    stored = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(arguments).items()
        if name not in _OF_THIS_CALL
    }
    stored["folder"] = str(arguments.folder.resolve())
    if arguments.branch:
        stored["branch"] = str(arguments.branch.resolve())
    (arguments.out / RUN).write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    """The arguments; with --resume, those of the run."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.resume is None:
        if arguments.folder is None:
            parser.error("expected a folder of labelled images, or --resume")
        return arguments
    others = {
        name: value
        for name, value in vars(arguments).items()
        if name not in ("resume", "device", "dry_run") and value != parser.get_default(name)
    }
    if others:
        parser.error(f"--resume takes all arguments from the run; omit {', '.join(others)}")
    path = arguments.resume / RUN
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        known = vars(arguments) | stored
        if stored.keys() - vars(arguments).keys():
            raise ValueError("it has other arguments")
    except FileNotFoundError:
        parser.error(f"{path} does not exist; train.py writes it at the start of a run")
    except (ValueError, TypeError) as error:
        parser.error(f"{path}: not written by this version of train.py ({error})")
    for name in ("folder", "branch"):
        known[name] = known[name] and Path(known[name])
    return argparse.Namespace(**known | {"out": arguments.resume})


def _images(arguments: argparse.Namespace) -> labelled.Labelled:
    """All images of the folder, or the training images of a protocol."""
    if not arguments.protocol:
        return labelled.read(arguments.folder)
    return protocols.training_images(arguments.protocol, arguments.folder)


def _parser() -> argparse.ArgumentParser:
    defaults = Config()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=Path, nargs="?")
    add("--resume", type=Path, metavar="RUN", help="continue the run in this folder")
    add(
        "--dry-run",
        action="store_true",
        help="read the images, run a few steps, estimate time and memory; write nothing",
    )
    add(
        "--protocol",
        metavar="NAME",
        help=f"use the training images of: {', '.join(protocols.PROTOCOLS)}",
    )
    add("--out", type=Path, default=Path("runs/default"), help="folder of the run (%(default)s)")
    add("--bits", type=int, default=defaults.bits, help="code length, 8..1024 (%(default)s)")
    add("--size", type=int, default=defaults.size, help="input side in pixels (%(default)s)")
    add("--backbone", default=defaults.backbone, help=f"{', '.join(NAMES)} (%(default)s)")
    add(
        "--stride",
        type=int,
        help="pixels per position of the map (default of the backbone; Lite: or 16)",
    )
    add("--branch", type=Path, help=f"a trained {BRANCH} to use instead of stage 1")
    add(
        "--branch-epochs",
        type=int,
        help=f"stage 1 ({defaults.branch_epochs}, more for few images; with --branch 0)",
    )
    add(
        "--hash-epochs",
        type=int,
        help=f"stage 2 ({defaults.hash_epochs}, more for few images); 0: train the branch alone",
    )
    add("--batch-size", type=int, default=defaults.batch_size, help="(%(default)s)")
    add(
        "--method",
        help=f"{', '.join(METHODS)} ({DEFAULT}; {DEFAULT_OF_SEVERAL} if images have several "
        "labels)",
    )
    add("--learning-rate", type=float, default=defaults.learning_rate, help="(%(default)s)")
    add(
        "--backbone-rate",
        type=float,
        default=defaults.backbone_rate,
        help="learning rate of the backbone, as a factor (%(default)s, for a pretrained one; "
        "resnet18-small has no pretrained weights and needs 1)",
    )
    add(
        "--frozen-blocks",
        type=int,
        default=defaults.frozen_blocks,
        help="blocks of a Lite, from the first, that keep their published weights (%(default)s)",
    )
    add(
        "--precision",
        help=f"of the backbone in training: {', '.join(PRECISIONS)} (whichever is faster here; a "
        "resumed run keeps its own)",
    )
    add(
        "--looks",
        type=int,
        default=defaults.looks,
        help="stage 2 also learns from up to this number of parts of each image, where the branch "
        "finds its labels (%(default)s)",
    )
    add("--seed", type=int, default=defaults.seed, help="(%(default)s)")
    add(
        "--holdout",
        type=float,
        help="share of each class held out, to choose the best epoch by (0.1; with --protocol 0)",
    )
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    return parser


def _config(
    arguments: argparse.Namespace, device: torch.device, branch: StoredBranch | None
) -> Config:
    """The configuration, with defaults from the run to resume, the branch and the device."""
    stride = arguments.stride
    if stride is None:
        stride = strides(arguments.backbone)[0]
    precision = arguments.precision
    if precision is None:
        begun = stored_config(arguments.out)
        precision = begun.precision if begun else fast_precision(device, arguments.backbone)
    branch_epochs = arguments.branch_epochs
    if branch_epochs is None:
        branch_epochs = Config.branch_epochs if branch is None else 0
    return Config(
        bits=arguments.bits,
        size=arguments.size,
        branch_epochs=branch_epochs,
        hash_epochs=(
            Config.hash_epochs if arguments.hash_epochs is None else arguments.hash_epochs
        ),
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        hidden=Config.hidden if branch is None else branch.branch.hidden,
        seed=arguments.seed,
        method=arguments.method or Config.method,
        backbone=arguments.backbone,
        stride=stride,
        backbone_rate=arguments.backbone_rate,
        precision=precision,
        frozen_blocks=arguments.frozen_blocks,
        looks=arguments.looks,
        branch="" if branch is None else branch.digest(),
    )


def _epochs(arguments: argparse.Namespace, config: Config, images: int) -> dict[str, int]:
    """Epochs of both stages; by default more for few images, so that there are enough steps."""
    found = {}
    for name, least in (("branch_epochs", _BRANCH_STEPS), ("hash_epochs", _HASH_STEPS)):
        if getattr(arguments, name) is None and getattr(config, name):
            enough = -(-least // steps_of_epoch(images, config))
            found[name] = max(getattr(config, name), enough)
    return found


def _device(name: str) -> torch.device:
    """Check that a device works, and return it."""
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        message = str(error).splitlines()[0]
        raise ValueError(f"torch cannot use a device {name!r} here ({message})") from error


if __name__ == "__main__":
    sys.exit(main())
