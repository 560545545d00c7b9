"""The checkpoint of a training run: written after each epoch, read to resume or to export."""

import dataclasses
import platform
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import PIL
import torch

from attention_hashing import torch_file
from attention_hashing.config import Config, new_network
from attention_hashing.data.labelled import Labelled
from attention_hashing.methods import Method, present_name
from attention_hashing.network import AttentionHashing
from attention_hashing.progress import Epoch
from attention_hashing.provenance import commit

CHECKPOINT = "checkpoint.pt"
# The entries of a checkpoint.
_ENTRIES = {
    "config": dict,
    "classes": list,
    "images": int,
    "digest": str,
    "epoch": int,
    "network": dict,
    "optimiser": dict,
    "scheduler": dict,
    "method": dict,
    "versions": dict,
}
# What older checkpoints do not say: how all runs were made when they were written.
_ONCE = {
    "method": "orthohash-supplement",
    "backbone": "efficientnet-lite0",
    "stride": 32,
    "backbone_rate": 0.1,
    "precision": "float32",
    "branch": "",
    "frozen_blocks": 0,
    "looks": 0,
    "several_labels": False,
}


class Best(TypedDict):
    """The epoch whose network is used: the one with the best figure of the held-out images.

    Attributes:
        epoch: its number, from 1, over both stages.
        validation: its figure.
        network: its weights.
    """

    epoch: int
    validation: float
    network: dict[str, torch.Tensor]


@dataclasses.dataclass
class Course:
    """What has happened in a run.

    Attributes:
        history: all finished epochs.
        best: of them; None if no images were measured.
    """

    history: list[Epoch]
    best: Best | None = None

    def add(self, epoch: Epoch, network: AttentionHashing, may_be_best: bool) -> None:
        """Note an epoch that has ended with this network."""
        self.history.append(epoch)
        figure = epoch["validation"]
        if figure is None or not may_be_best:
            return
        if self.best is None or figure >= self.best["validation"]:
            weights = {name: value.cpu().clone() for name, value in network.state_dict().items()}
            self.best = Best(epoch=epoch["epoch"], validation=figure, network=weights)


def stored_config(run: Path) -> Config | None:
    """The configuration of the checkpoint in a run's folder; None if there is no checkpoint.

    Raises:
        ValueError: the file is not a checkpoint of train.py.
    """
    path = run / CHECKPOINT
    return _config(_read(path), path) if path.exists() else None


def stored_best(run: Path) -> Best | None:
    """The epoch of a finished run that is used; None if no images were measured."""
    best: Best | None = _read(run / CHECKPOINT).get("best")
    return best


def load_checkpoint(path: Path) -> tuple[AttentionHashing, Config, dict[str, Any]]:
    """Load a network that produces codes.

    Returns:
        The network in evaluation mode, its configuration, and the whole checkpoint.

    Raises:
        ValueError: as for `load_trained`, or only the branch was trained.
    """
    network, config, state = load_trained(path)
    if not config.hash_epochs:
        raise ValueError(
            f"{path}: only the branch was trained (hash_epochs is 0), so there are no codes; pass "
            "its branch.pt to train.py --branch"
        )
    return network, config, state


def load_trained(path: Path) -> tuple[AttentionHashing, Config, dict[str, Any]]:
    """As `load_checkpoint`, but accept a run without stage 2, whose hash layer is still random.

    Raises:
        ValueError: the file is not a checkpoint of train.py, or its training is not finished.
    """
    state = _read(path)
    config = _config(state, path)
    if state["epoch"] < config.branch_epochs + config.hash_epochs:
        raise ValueError(
            f"{path}: training stopped after epoch {state['epoch']} of "
            f"{config.branch_epochs + config.hash_epochs}; run train.py again to finish it"
        )
    network = new_network(config, len(state["classes"]), pretrained=False)
    weights = state["best"]["network"] if state.get("best") else state["network"]
    torch_file.load_weights(network, weights, path, "configuration")
    return network.eval(), config, state


def save(
    network: AttentionHashing,
    method: Method,
    config: Config,
    data: Labelled,
    digest: str,
    run: Path,
    epoch: int,
    optimiser: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LambdaLR,
    course: Course,
) -> None:
    """Replace the checkpoint in a run's folder by the state after an epoch.

    Args:
        network: in training.
        method: its loss, which may have state of its own.
        config: of the run.
        data: that it trains on.
        digest: of the data.
        run: the folder.
        epoch: number of finished epochs, over both stages.
        optimiser: of this stage.
        scheduler: of this stage.
        course: of the run.
    """
    state = {
        "config": dataclasses.asdict(config),
        "classes": list(data.classes),
        "images": len(data),
        "digest": digest,
        "epoch": epoch,
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "scheduler": scheduler.state_dict(),
        "method": method.state_dict(),
        "history": course.history,
        "best": course.best,
        "versions": _versions(),
    }
    torch_file.save(state, run / CHECKPOINT)


def save_refitted(
    network: AttentionHashing,
    config: Config,
    state: dict[str, Any],
    how: dict[str, Any],
    run: Path,
) -> None:
    """Write a checkpoint of a trained network with a new hash layer.

    Args:
        network: with the new layer.
        config: of the training, with the new number of bits.
        state: the checkpoint that the network comes from.
        how: settings of the new layer, to be stored next to the configuration.
        run: an existing folder.
    """
    new = {
        "config": dataclasses.asdict(config),
        "network": network.state_dict(),
        "optimiser": {},
        "scheduler": {},
        "method": {},
        "best": None,
        "layer": how,
        "versions": _versions(),
    }
    torch_file.save(state | new, run / CHECKPOINT)


def resume(
    network: AttentionHashing,
    method: Method,
    config: Config,
    data: Labelled,
    digest: str,
    run: Path,
    device: torch.device,
) -> tuple[int, dict[str, Any]]:
    """Load the checkpoint of a run's folder, if there is one, into network and method.

    Returns:
        Number of finished epochs, and the checkpoint; 0 and {} if there is none.

    Raises:
        ValueError: the checkpoint has another configuration, other classes or other images.
    """
    path = run / CHECKPOINT
    if not path.exists():
        return 0, {}
    state = _read(path)
    if "layer" in state:
        raise ValueError(f"{path} has a hash layer from refit.py; choose another --out")
    mine = (dataclasses.asdict(config), list(data.classes), len(data))
    if (state["config"], state["classes"], state["images"]) != mine:
        raise ValueError(
            f"{path} belongs to another run ({state['config']}, {len(state['classes'])} classes, "
            f"{state['images']} images); use the same arguments to resume it, or another --out"
        )
    if state["digest"] != digest:
        raise ValueError(
            f"{path} was trained on other images: files have been added, removed, renamed or "
            "changed since; restore them to resume the run, or choose another --out"
        )
    torch_file.load_weights(network, state["network"], path, "configuration")
    network.to(device)
    method.load_state_dict(state["method"])
    return int(state["epoch"]), state


def _versions() -> dict[str, str | None]:
    """Versions of the software that made the weights."""
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def _config(state: dict[str, Any], path: Path) -> Config:
    try:
        return Config(**state["config"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: this version cannot read the configuration: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    state = torch_file.load(path, "checkpoint")
    if isinstance(config := state.get("config"), dict):
        if "method" not in config:
            state["method"] = {}  # the only method at the time has no state
        state["config"] = _ONCE | config
        for one in (state["config"], state.get("layer", {})):
            if "method" in one:
                one["method"] = present_name(one["method"])
    if "pictures" in state:
        state["images"] = state.pop("pictures")  # the former name
    torch_file.check_entries(state, _ENTRIES, path, "checkpoint")
    return state
