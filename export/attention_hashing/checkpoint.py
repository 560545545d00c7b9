"""The checkpoint of a training run: written after each epoch, read to resume or to export.

Knows the file. Does not know what an epoch does.
"""

import dataclasses
import platform
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from attention_hashing import torch_file
from attention_hashing.config import Config, new_network
from attention_hashing.data.labelled import Labelled
from attention_hashing.methods import DEFAULT, Method, present_name
from attention_hashing.network import AttentionHashing
from attention_hashing.provenance import commit

CHECKPOINT = "checkpoint.pt"
# What a checkpoint holds.
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
# How runs were made before a checkpoint said so.
_ONCE = {
    "method": DEFAULT,
    "backbone": "efficientnet-lite0",
    "stride": 32,
    "backbone_rate": 0.1,
    "precision": "float32",
    "branch": "",
    "frozen_blocks": 0,
}


def stored_config(run: Path) -> Config | None:
    """The configuration of the checkpoint in a run's folder; None if there is none.

    Raises:
        ValueError: not a checkpoint of ours.
    """
    path = run / CHECKPOINT
    return _config(_read(path), path) if path.exists() else None


def load_checkpoint(path: Path) -> tuple[AttentionHashing, Config, dict[str, Any]]:
    """A network that makes codes, its configuration, and what else the checkpoint tells.

    Raises:
        ValueError: as `load_trained`, or the checkpoint is of a branch alone.
    """
    network, config, state = load_trained(path)
    if not config.hash_epochs:
        raise ValueError(
            f"{path}: only the branch was trained (hash_epochs is 0), there are no codes; give "
            "its branch.pt to train.py --branch"
        )
    return network, config, state


def load_trained(path: Path) -> tuple[AttentionHashing, Config, dict[str, Any]]:
    """As `load_checkpoint`; also where stage 1 was all, and the hash layer is as it was drawn.

    Raises:
        ValueError: not a checkpoint of ours, or one whose training has not ended.
    """
    state = _read(path)
    config = _config(state, path)
    if state["epoch"] < config.branch_epochs + config.hash_epochs:
        raise ValueError(
            f"{path}: training stopped after epoch {state['epoch']} of "
            f"{config.branch_epochs + config.hash_epochs}; run train.py again to finish it"
        )
    network = new_network(config, len(state["classes"]), pretrained=False)
    torch_file.load_weights(network, state["network"], path, "configuration")
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
) -> None:
    """Put the state after an epoch in a run's folder, in place of the one before.

    Args:
        network: in training.
        method: its loss, which may have learned, too.
        config: of the run.
        data: what it trains on.
        digest: of the data.
        run: the folder.
        epoch: how many are done, over both stages.
        optimiser: of this stage.
        scheduler: of this stage.
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
    """Put a trained network with another hash layer in a folder.

    Args:
        network: with the new layer.
        config: as it was trained, but for the bits.
        state: the checkpoint that the network comes from.
        how: the layer learned, to be kept beside the configuration.
        run: the folder, an existing one.
    """
    new = {
        "config": dataclasses.asdict(config),
        "network": network.state_dict(),
        "optimiser": {},
        "scheduler": {},
        "method": {},
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
    """Load what `save` left in a run's folder, if it did, into network and method.

    Returns:
        How many epochs are done, and the checkpoint for what else it holds (0 and empty: none).

    Raises:
        ValueError: the checkpoint is of another configuration, other classes or other images.
    """
    path = run / CHECKPOINT
    if not path.exists():
        return 0, {}
    state = _read(path)
    if "layer" in state:
        raise ValueError(f"{path} has a hash layer of refit.py; give another --out")
    mine = (dataclasses.asdict(config), list(data.classes), len(data))
    if (state["config"], state["classes"], state["images"]) != mine:
        raise ValueError(
            f"{path} is of another run ({state['config']}, {len(state['classes'])} classes, "
            f"{state['images']} images); give the same arguments to go on with it, "
            "or another --out"
        )
    if state["digest"] != digest:
        raise ValueError(
            f"{path} was trained on other images: since then files were added, removed, renamed "
            "or changed; give the same ones to go on with it, or another --out"
        )
    torch_file.load_weights(network, state["network"], path, "configuration")
    network.to(device)
    method.load_state_dict(state["method"])
    return int(state["epoch"]), state


def _versions() -> dict[str, str | None]:
    """What made the weights, beside the configuration."""
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
        raise ValueError(
            f"{path}: a configuration that this version cannot read: {error}"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    state = torch_file.load(path, "checkpoint")
    if isinstance(config := state.get("config"), dict):
        if "method" not in config:
            state["method"] = {}  # there was one, of which nothing needs keeping
        state["config"] = _ONCE | config
        for one in (state["config"], state.get("layer", {})):
            if "method" in one:
                one["method"] = present_name(one["method"])
    if "pictures" in state:
        state["images"] = state.pop("pictures")  # as the entry was called
    torch_file.check_entries(state, _ENTRIES, path, "checkpoint")
    return state
