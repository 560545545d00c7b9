"""The quality of a network in training, by images that are held out and the search that ships."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm import tqdm

from attention_hashing.config import Config
from attention_hashing.data.labelled import Labelled
from attention_hashing.data.labels import Labels
from attention_hashing.data.scattered import Scattered
from attention_hashing.evaluation.distance_counts import levels
from attention_hashing.evaluation.metrics import average_precision, precision_among_first
from attention_hashing.network import AttentionHashing
from bitgaze.hamming import pack

_QUERIES, _DATABASE = 500, 1000


def neighbour_precision(
    network: AttentionHashing,
    config: Config,
    database: Labelled | Scattered,
    queries: Labelled | Scattered,
    k: int = 10,
) -> float:
    """Mean share of a query's k nearest neighbours that share a class with it, in [0, 1].

    Expected over all orders of ties, as in metrics.py.
    """
    found = levels(
        codes(network, config, queries),
        queries.labels,
        codes(network, config, database),
        database.labels,
    )
    return float(precision_among_first(found, k).expected.mean())


def held_out_map(
    codes_of_held_out: NDArray[np.uint8],
    held_out: Labels,
    codes_of_rest: NDArray[np.uint8],
    rest: Labels,
) -> float:
    """Mean average precision of held-out images as queries among the rest, in [0, 1].

    Args:
        codes_of_held_out: uint8, (q, bits // 8).
        held_out: their labels.
        codes_of_rest: uint8, (n, bits // 8).
        rest: their labels.
    """
    found = levels(codes_of_held_out, held_out, codes_of_rest, rest)
    return float(average_precision(found).expected.mean())


class HeldOut:
    """Measures a network after each epoch: the figures of the log.

    Stage 1 is measured by the branch, as the share of its likeliest labels that are right; stage 2
    by mAP. Both take a few hundred images, the same each time, so that a short epoch is not mostly
    measuring.

    Args:
        config: of the run.
        held_out: images that are not trained on, at least one.
        rest: images that are.
    """

    def __init__(self, config: Config, held_out: Labelled, rest: Labelled) -> None:
        self._config = config
        self._held_out = _some(held_out, _QUERIES, config.seed)
        self._rest = _some(rest, _DATABASE, config.seed)

    def __call__(self, network: AttentionHashing, stage: str) -> float:
        """The figure after an epoch of a stage, in [0, 1]; the network is in evaluation mode."""
        if stage == "branch":
            return self._accuracy(network)
        parts = (self._held_out, self._rest)
        held_out, rest = (codes(network, self._config, part) for part in parts)
        return held_out_map(held_out, self._held_out.labels, rest, self._rest.labels)

    @torch.inference_mode()
    def _accuracy(self, network: AttentionHashing) -> float:
        right = []
        for image, one_hot in _batches(self._held_out, self._config):
            features = network.features(image.to(_device(network)))
            first = network.branch(features).logits.argmax(1).cpu()
            right.append(one_hot[torch.arange(len(first)), first].numpy())
        return float(np.concatenate(right).mean())


def _some(data: Labelled, count: int, seed: int) -> Labelled:
    """Draw at most `count` of the images."""
    if len(data) <= count:
        return data
    return data.subset(np.sort(np.random.default_rng(seed).permutation(len(data))[:count]))


def _device(network: AttentionHashing) -> torch.device:
    return next(network.parameters()).device


def _batches(
    data: Labelled | Scattered, config: Config
) -> "DataLoader[tuple[torch.Tensor, torch.Tensor]]":
    return DataLoader(data.views(config.preprocess, epoch_seed=None), config.batch_size)


@torch.inference_mode()
def codes(
    network: AttentionHashing, config: Config, data: Labelled | Scattered
) -> NDArray[np.uint8]:
    """Packed codes of the images without augmentation: uint8 (n, bits // 8)."""
    parts = [
        pack(network(image.to(_device(network))).hash.cpu().numpy())
        for image, _ in tqdm(
            _batches(data, config), "encoding", unit="batch", mininterval=1, leave=False
        )
    ]
    return np.concatenate(parts)
