"""Two stages: the branch learns to classify, then guides a hash layer that learns to separate.

Images come from data/, losses from methods/; checkpoint.py stores the state of a run.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from attention_hashing import checkpoint
from attention_hashing.attention import GUIDANCE_WEIGHT
from attention_hashing.branch_file import StoredBranch
from attention_hashing.config import Config, new_network
from attention_hashing.data.labelled import Labelled
from attention_hashing.data.scattered import Scattered
from attention_hashing.descent import half_cosine, minimise
from attention_hashing.looking import WithLooks, with_looks
from attention_hashing.methods import METHODS, Method
from attention_hashing.network import AttentionHashing
from attention_hashing.progress import WARM_UP, Epoch, Forecast, described, write_log

_STAGES = ("branch", "hash")
# The figure of held-out images by a network after an epoch of a stage, "branch" or "hash".
Validate = Callable[[AttentionHashing, str], float]


def train(
    data: Labelled | Scattered,
    config: Config,
    run: Path,
    device: torch.device,
    branch: StoredBranch | None = None,
    validate: Validate | None = None,
) -> AttentionHashing:
    """Run both stages, resuming from the checkpoint in `run` if there is one.

    A checkpoint and the log are written after each epoch. Every random choice depends on the seed
    and the epoch alone, so a resumed run ends with the same weights as an uninterrupted one.

    Args:
        data: to train on.
        config: of the run.
        run: an existing folder, for the checkpoint.
        device: to train on.
        branch: the stored branch whose digest is `config.branch`.
        validate: measures held-out images after each epoch. The epoch of the last stage with the
            highest figure is used, of equal ones the last; without it, the last.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        ValueError: the checkpoint in `run` has another configuration, other classes or other
            images; the branch is not that of the configuration or does not fit the network; or the
            configuration is not for images with as many labels.
    """
    network, method = _prepared(data, config, device, branch)
    epochs = {"branch": config.branch_epochs, "hash": config.hash_epochs}
    digest = data.digest()
    done, resumed = checkpoint.resume(network, method, config, data, digest, run, device)
    course = checkpoint.Course(list(resumed.get("history", [])), resumed.get("best"))
    last_stage = _STAGES[config.hash_epochs > 0]
    steps = sum(steps_of(len(data), config, done).values())
    forecast = Forecast(steps, device, is_bound=config.looks > 0)
    epoch = 0  # counted over both stages
    shown: Labelled | Scattered | WithLooks = data
    for stage in _STAGES:
        if stage == "hash" and config.looks and config.hash_epochs:
            if not isinstance(data, Labelled):
                raise ValueError(f"looks is {config.looks}, but scenes are new in each epoch")
            shown = with_looks(data, network, config, run, done > config.branch_epochs)
        optimiser, scheduler = _optimiser(network, method, stage, config, epochs[stage], len(shown))
        for stage_epoch in range(epochs[stage]):
            epoch += 1
            if epoch < done:
                continue
            if epoch == done:
                optimiser.load_state_dict(resumed["optimiser"])
                scheduler.load_state_dict(resumed["scheduler"])
                continue
            loader = _loader(shown, config, config.seed * 100_003 + epoch)
            _set_mode(network, stage, config.frozen_blocks)
            total, start = sum(epochs.values()), time.monotonic()
            bar = tqdm(loader, desc=f"epoch {epoch}/{total} ({stage})", unit="batch", mininterval=1)
            losses: list[float] = []
            batches = _losses(network, method, config, stage, bar, stage_epoch)
            minimise(_watched(batches, losses, forecast), optimiser, scheduler)
            figure = validate(network.eval(), stage) if validate else None
            ended = Epoch(
                epoch=epoch,
                stage=stage,
                loss=float(np.mean(losses)),
                validation=figure,
                seconds=time.monotonic() - start,
            )
            tqdm.write(f"epoch {epoch}/{total} {described(ended)}", file=sys.stderr)
            course.add(ended, network, may_be_best=stage == last_stage)
            checkpoint.save(
                network, method, config, data, digest, run, epoch, optimiser, scheduler, course
            )
            write_log(run, course.history)
    network = network.cpu()
    if course.best is not None:
        network.load_state_dict(course.best["network"])
    return network.eval()


def rehearse(
    data: Labelled | Scattered,
    config: Config,
    device: torch.device,
    branch: StoredBranch | None = None,
    steps: int = 10,
) -> dict[str, float]:
    """Run a few steps of each stage, and write nothing.

    Args:
        data: as for `train`.
        config: as for `train`.
        device: as for `train`.
        branch: as for `train`.
        steps: of each stage, after a few that are not measured.

    Returns:
        Seconds of a step by stage; a stage without epochs is left out.

    Raises:
        ValueError: as for `train`.
    """
    network, method = _prepared(data, config, device, branch)
    found = {}
    for stage, epochs in zip(_STAGES, (config.branch_epochs, config.hash_epochs), strict=True):
        if not epochs:
            continue
        optimiser, scheduler = _optimiser(network, method, stage, config, epochs, len(data))
        loader = _loader(data, config, config.seed)
        _set_mode(network, stage, config.frozen_blocks)
        count = min(len(loader), WARM_UP + steps)
        bar = tqdm(islice(loader, count), f"dry run ({stage})", count, unit="batch")
        times = [time.monotonic()]
        for loss in _losses(network, method, config, stage, bar, 0):
            minimise([loss], optimiser, scheduler)
            times.append(time.monotonic())
        each = np.diff(times)
        found[stage] = float(np.mean(each[WARM_UP:] if len(each) > WARM_UP else each[-1:]))
    return found


def steps_of(images: int, config: Config, done: int = 0) -> dict[str, int]:
    """Number of steps by stage that are to come after `done` epochs.

    With looks it is an upper bound: how many there are is not known before they are chosen.
    """
    each = steps_of_epoch(images, config)
    branch = max(0, config.branch_epochs - done)
    others = config.branch_epochs + config.hash_epochs - max(done, config.branch_epochs)
    return {"branch": each * branch, "hash": each * others * (1 + config.looks)}


def steps_of_epoch(images: int, config: Config) -> int:
    """Number of steps of an epoch over this number of images."""
    return max(1, images // config.batch_size)


def _prepared(
    data: Labelled | Scattered,
    config: Config,
    device: torch.device,
    branch: StoredBranch | None,
) -> tuple[AttentionHashing, Method]:
    """The network before its training, and its loss."""
    has_several = isinstance(data, Labelled) and data.has_several
    if has_several != config.several_labels:
        raise ValueError(
            f"several_labels is {config.several_labels}, but images "
            f"{'may have several' if has_several else 'have one label each'}"
        )
    network = new_network(config, len(data.classes))
    if config.branch != ("" if branch is None else branch.digest()):
        raise ValueError("the digest of the branch differs from that in the configuration")
    if branch is not None:
        branch.check(network, config.backbone, data.classes)
        network.branch.load_state_dict(branch.branch.state_dict())
    network = network.to(device, memory_format=torch.channels_last)
    method = METHODS[config.method](len(data.classes), config.bits, config.seed).to(device)
    return network, method


def _watched(steps: Iterator[Tensor], losses: list[float], forecast: Forecast) -> Iterator[Tensor]:
    """The loss of each step; notes it once the step has ended."""
    for loss in steps:
        yield loss
        losses.append(loss.item())
        forecast.step()


def _loader(
    data: Labelled | Scattered | WithLooks, config: Config, epoch_seed: int
) -> "DataLoader[tuple[Tensor, Tensor]]":
    """The batches of an epoch; its seed determines order and views."""
    return DataLoader(
        data.views(config.preprocess, epoch_seed),
        config.batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(epoch_seed),
        num_workers=min(4, (os.cpu_count() or 2) - 1),
        drop_last=len(data) > config.batch_size,
    )


def _losses(
    network: AttentionHashing,
    method: Method,
    config: Config,
    stage: str,
    bar: "tqdm[tuple[Tensor, Tensor]]",
    done: int,
) -> Iterator[Tensor]:
    """The loss of each batch in `bar`, which displays it, after `done` epochs of the stage."""
    epochs = config.branch_epochs if stage == "branch" else config.hash_epochs
    device = next(network.parameters()).device
    for batch, (image, one_hot) in enumerate(bar):
        step = (done + batch / len(bar)) / epochs
        loss = _loss(network, method, config, stage, image.to(device), one_hot.to(device), step)
        yield loss
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def _loss(
    network: AttentionHashing,
    method: Method,
    config: Config,
    stage: str,
    image: Tensor,
    one_hot: Tensor,
    step: float,
) -> Tensor:
    """Loss of a batch: image uint8 (B, H, W, 3), one_hot float32 (B, classes), step in [0, 1]."""
    is_half = config.precision == "bfloat16"
    with torch.autocast(image.device.type, torch.bfloat16, enabled=is_half):
        features = network.features(image)
    features = features.float()
    if stage == "branch":
        return network.branch.loss(network.branch(features).logits, one_hot)
    hashed = network.hash(features)
    guidance = network.branch.loss(hashed.logits, one_hot)
    return method(hashed.hash, one_hot, step) + GUIDANCE_WEIGHT * guidance


def _set_mode(network: AttentionHashing, stage: str, frozen_blocks: int) -> None:
    network.train()
    for module in network.backbone.first(frozen_blocks) if frozen_blocks else []:
        module.requires_grad_(False).eval()
    network.branch.requires_grad_(stage == "branch")
    if stage == "hash":
        network.branch.eval()  # frozen: its running statistics too


def _optimiser(
    network: AttentionHashing,
    method: Method,
    stage: str,
    config: Config,
    epochs: int,
    images: int,
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    head: list[nn.Module] = (
        [network.branch] if stage == "branch" else [network.project, network.normalise, method]
    )
    groups = [
        {"params": [p for module in head for p in module.parameters()]},
        {
            "params": list(network.backbone.parameters()),
            "lr": config.learning_rate * config.backbone_rate,
        },
    ]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = max(1, epochs) * steps_of_epoch(images, config)
    return optimiser, half_cosine(optimiser, steps)
