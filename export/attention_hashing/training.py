"""Two stages: the branch learns to classify, then guides a hash layer that learns to separate.

Knows the loop and its checkpoints. Does not know where pictures come from (data.py), what a hashing
method's loss is (methods/), or what the file for the device looks like (onnx_file.py).
"""

import dataclasses
import math
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from attention_hashing.attention import AttentionBranch
from attention_hashing.backbones import efficientnet_lite0
from attention_hashing.data import Labelled, Views
from attention_hashing.methods import DEFAULT, METHODS, Method
from attention_hashing.network import AttentionHashing
from bitgaze.images import Preprocess

CHECKPOINT = "checkpoint.pt"
# What a checkpoint holds.
_ENTRIES = {
    "config": dict,
    "classes": list,
    "pictures": int,
    "digest": str,
    "epoch": int,
    "network": dict,
    "optimiser": dict,
    "scheduler": dict,
    "method": dict,
    "versions": dict,
}
_STAGES = ("branch", "hash")
# The pretrained layers learn at a tenth of the new ones' rate.
_BACKBONE_RATE = 0.1
# In stage 2 the branch is frozen, and its classification loss holds the backbone's maps in place.
_GUIDANCE_WEIGHT = 0.5


@dataclass(frozen=True)
class Config:
    """Everything that decides the weights, kept with them.

    Attributes:
        bits: length of the code.
        size: side of the input in pixels, a multiple of 32.
        branch_epochs: of stage 1.
        hash_epochs: of stage 2.
        batch_size: pictures a step.
        learning_rate: at the start of each stage, for the new layers; it falls to 0 as a half
            cosine.
        weight_decay: of AdamW.
        hidden: channels of the branch's 3 x 3 convolution.
        seed: of everything random.
        method: what stage 2 trains with, a name of methods.METHODS.
    """

    bits: int = 64
    size: int = 128
    branch_epochs: int = 3
    hash_epochs: int = 7
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    hidden: int = 256
    seed: int = 0
    method: str = DEFAULT

    def __post_init__(self) -> None:
        if self.size % 32 or self.size < 32:
            raise ValueError(f"size is {self.size}, expected a multiple of 32")
        # Batch normalisation cannot train on a single picture.
        least = {"batch_size": 2, "branch_epochs": 1, "hash_epochs": 1, "hidden": 1}
        for name, smallest in least.items():
            if (value := getattr(self, name)) < smallest:
                raise ValueError(f"{name} is {value}, expected at least {smallest}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}, expected 0..{2**32 - 1}")
        if self.bits % 8 or not 8 <= self.bits <= 1024:
            raise ValueError(f"bits is {self.bits}, expected a multiple of 8 in 8..1024")
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}, expected one of {', '.join(METHODS)}")

    @property
    def preprocess(self) -> Preprocess:
        """How pictures come to the network."""
        return Preprocess(self.size)


def new_network(config: Config, classes: int) -> AttentionHashing:
    """Pretrained backbone, new branch and hash layer."""
    torch.manual_seed(config.seed)
    backbone, _, _ = efficientnet_lite0()
    branch = AttentionBranch(backbone.channels, classes, config.hidden)
    return AttentionHashing(backbone, branch, config.bits)


def train(data: Labelled, config: Config, run: Path, device: torch.device) -> AttentionHashing:
    """Both stages, from the last checkpoint in `run` if there is one.

    A checkpoint is written after each epoch. Every random choice depends on the seed and the epoch
    alone, so an interrupted run continues as the undisturbed one would have.

    Raises:
        ValueError: the checkpoint in `run` is of another configuration, other classes or other
            pictures.
    """
    network = new_network(config, len(data.classes)).to(device)
    network = network.to(memory_format=torch.channels_last)
    method = METHODS[config.method](len(data.classes), config.bits, config.seed).to(device)
    epochs = {"branch": config.branch_epochs, "hash": config.hash_epochs}
    digest = data.digest()
    done, resumed = _resume(network, method, config, data, digest, run, device)
    epoch = 0  # counted over both stages
    for stage in _STAGES:
        optimiser, scheduler = _optimiser(network, method, stage, config, epochs[stage], len(data))
        for stage_epoch in range(epochs[stage]):
            epoch += 1
            if epoch < done:
                continue
            if epoch == done:
                optimiser.load_state_dict(resumed["optimiser"])
                scheduler.load_state_dict(resumed["scheduler"])
                continue
            epoch_seed = config.seed * 100_003 + epoch
            views = Views(data, config.preprocess, epoch_seed)
            order = torch.Generator().manual_seed(epoch_seed)
            loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
                views,
                config.batch_size,
                shuffle=True,
                generator=order,
                num_workers=min(4, (os.cpu_count() or 2) - 1),
                drop_last=len(data) > config.batch_size,
            )
            _set_mode(network, stage)
            total = sum(epochs.values())
            bar = tqdm(loader, desc=f"epoch {epoch}/{total} ({stage})", unit="batch", mininterval=1)
            for batch, (image, hot) in enumerate(bar):
                step = (stage_epoch + batch / len(loader)) / epochs[stage]
                loss = _loss(network, method, stage, image.to(device), hot.to(device), step)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                scheduler.step()
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            _save(network, method, config, data, digest, run, epoch, optimiser, scheduler)
    return network.cpu().eval()


def load_checkpoint(path: Path) -> tuple[AttentionHashing, Config, dict[str, Any]]:
    """A trained network, its configuration, and what else the checkpoint tells.

    Raises:
        ValueError: not a checkpoint of ours, or one whose training has not ended.
    """
    state = _read(path)
    try:
        config = Config(**state["config"])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: a configuration that this version cannot read: {error}"
        ) from error
    if state["epoch"] < config.branch_epochs + config.hash_epochs:
        raise ValueError(
            f"{path}: training stopped after epoch {state['epoch']} of "
            f"{config.branch_epochs + config.hash_epochs}; run train.py again to finish it"
        )
    network = new_network(config, len(state["classes"]))
    _load_weights(network, state, path)
    return network.eval(), config, state


def _loss(
    network: AttentionHashing,
    method: Method,
    stage: str,
    image: Tensor,
    hot: Tensor,
    step: float,
) -> Tensor:
    features = network.features(image)
    shares = hot / hot.sum(1, keepdim=True)
    if stage == "branch":
        return nn.functional.cross_entropy(network.branch(features).logits, shares)
    hashed = network.hash(features)
    guidance = nn.functional.cross_entropy(hashed.logits, shares)
    return method(hashed.hash, hot, step) + _GUIDANCE_WEIGHT * guidance


def _set_mode(network: AttentionHashing, stage: str) -> None:
    network.train()
    network.branch.requires_grad_(stage == "branch")
    if stage == "hash":
        network.branch.eval()  # frozen: its running statistics too


def _optimiser(
    network: AttentionHashing,
    method: Method,
    stage: str,
    config: Config,
    epochs: int,
    pictures: int,
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    head: list[nn.Module] = (
        [network.branch] if stage == "branch" else [network.project, network.normalise, method]
    )
    groups = [
        {"params": [p for module in head for p in module.parameters()]},
        {
            "params": list(network.backbone.parameters()),
            "lr": config.learning_rate * _BACKBONE_RATE,
        },
    ]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = max(1, epochs) * max(1, pictures // config.batch_size)
    warmup = max(1, steps // 20)

    def factor(step: int) -> float:
        decay = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
        return min(1.0, (step + 1) / warmup) * decay

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def _save(
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
    state = {
        "config": dataclasses.asdict(config),
        "classes": list(data.classes),
        "pictures": len(data),
        "digest": digest,
        "epoch": epoch,
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "scheduler": scheduler.state_dict(),
        "method": method.state_dict(),
        "versions": _versions(),
    }
    draft = run / (CHECKPOINT + ".part")
    torch.save(state, draft)
    draft.replace(run / CHECKPOINT)  # a kill leaves the old one or the new one, whole


def _versions() -> dict[str, str | None]:
    """What made the weights, beside the configuration; commit is None outside a git checkout."""
    try:
        describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(
            describe, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        commit = done.stdout.strip() or None
    except FileNotFoundError:  # there is no git
        commit = None
    return {
        "commit": commit,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def _resume(
    network: AttentionHashing,
    method: Method,
    config: Config,
    data: Labelled,
    digest: str,
    run: Path,
    device: torch.device,
) -> tuple[int, dict[str, Any]]:
    path = run / CHECKPOINT
    if not path.exists():
        return 0, {}
    state = _read(path)
    mine = (dataclasses.asdict(config), list(data.classes), len(data))
    if (state["config"], state["classes"], state["pictures"]) != mine:
        raise ValueError(
            f"{path} is of another run ({state['config']}, {len(state['classes'])} classes, "
            f"{state['pictures']} pictures); give the same arguments to go on with it, "
            "or another --out"
        )
    if state["digest"] != digest:
        raise ValueError(
            f"{path} was trained on other pictures: since then files were added, removed, renamed "
            "or changed; give the same ones to go on with it, or another --out"
        )
    _load_weights(network, state, path)
    network.to(device)
    method.load_state_dict(state["method"])
    return int(state["epoch"]), state


def _load_weights(network: AttentionHashing, state: dict[str, Any], path: Path) -> None:
    try:
        network.load_state_dict(state["network"])
    except RuntimeError as error:
        raise ValueError(f"{path}: its weights do not fit its configuration: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises zip, pickle and runtime errors of many classes
        raise ValueError(f"{path}: not a checkpoint of train.py ({error})") from error
    state = state if isinstance(state, dict) else {}
    if "method" not in state and isinstance(state.get("config"), dict):
        # Written when there was one method, of which nothing needs keeping.
        state["method"] = {}
        state["config"]["method"] = DEFAULT
    for name, kind in _ENTRIES.items():
        if not isinstance(state.get(name), kind):
            raise ValueError(f"{path}: not a checkpoint of train.py (it has no {name})")
    return state
