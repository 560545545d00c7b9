"""Two stages: the branch learns to classify, then guides a hash layer that learns to separate.

Images come from data/, losses from methods/; checkpoint.py stores the state of a run.
"""

import os
from collections.abc import Iterator
from pathlib import Path

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

_STAGES = ("branch", "hash")


def train(
    data: Labelled | Scattered,
    config: Config,
    run: Path,
    device: torch.device,
    branch: StoredBranch | None = None,
) -> AttentionHashing:
    """Run both stages, resuming from the checkpoint in `run` if there is one.

    A checkpoint is written after each epoch. Every random choice depends on the seed and the epoch
    alone, so a resumed run ends with the same weights as an uninterrupted one.

    Args:
        data: to train on.
        config: of the run.
        run: an existing folder, for the checkpoint.
        device: to train on.
        branch: the stored branch whose digest is `config.branch`.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        ValueError: the checkpoint in `run` has another configuration, other classes or other
            images; the branch is not that of the configuration or does not fit the network; or the
            configuration is not for images with as many labels.
    """
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
    epochs = {"branch": config.branch_epochs, "hash": config.hash_epochs}
    digest = data.digest()
    done, resumed = checkpoint.resume(network, method, config, data, digest, run, device)
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
            total = sum(epochs.values())
            bar = tqdm(loader, desc=f"epoch {epoch}/{total} ({stage})", unit="batch", mininterval=1)
            losses = _losses(network, method, config, stage, bar, stage_epoch)
            minimise(losses, optimiser, scheduler)
            checkpoint.save(network, method, config, data, digest, run, epoch, optimiser, scheduler)
    return network.cpu().eval()


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
    steps = max(1, epochs) * max(1, images // config.batch_size)
    return optimiser, half_cosine(optimiser, steps)
