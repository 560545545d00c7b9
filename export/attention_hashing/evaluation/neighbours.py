"""The quality of a trained network's codes, by the Hamming search that ships."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm import tqdm

from attention_hashing.config import Config
from attention_hashing.data.labelled import Labelled
from attention_hashing.data.scattered import Scattered
from attention_hashing.evaluation.distance_counts import levels
from attention_hashing.evaluation.metrics import precision_among_first
from attention_hashing.network import AttentionHashing
from bitgaze.hamming import pack


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


@torch.inference_mode()
def codes(
    network: AttentionHashing, config: Config, data: Labelled | Scattered
) -> NDArray[np.uint8]:
    """Packed codes of the images without augmentation: uint8 (n, bits // 8)."""
    loader = DataLoader(data.views(config.preprocess, epoch_seed=None), config.batch_size)
    parts = [
        pack(network(image).hash.numpy())
        for image, _ in tqdm(loader, desc="encoding", unit="batch", mininterval=1)
    ]
    return np.concatenate(parts)
