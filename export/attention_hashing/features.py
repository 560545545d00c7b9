"""Pooled features of many pictures, quickly: by onnxruntime, one thread a picture.

Knows how to run the part of a network that is never fitted. Does not know what is done with the
features.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from torch import Tensor, nn

from attention_hashing import onnx_file
from attention_hashing.network import AttentionHashing, pooled
from bitgaze.cores import available_cores
from bitgaze.images import Preprocess, Source, load

_Item = TypeVar("_Item")
_IN_FLIGHT = 64


class _Pooled(nn.Module):
    def __init__(self, network: AttentionHashing) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        features = self.network.features(image)
        return pooled(features, self.network.branch(features).attention)


class FeatureExtractor:
    """Pictures to global and local features, as the hash layer of this network sees them."""

    def __init__(self, network: AttentionHashing, preprocess: Preprocess) -> None:
        self._preprocess = preprocess
        module = _Pooled(onnx_file.folded(network)).eval()
        model = onnx_file.export(module, preprocess.size, ["features"])
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(
        self, items: Iterable[_Item], picture: Callable[[_Item], Source]
    ) -> NDArray[np.float32]:
        """Features, (n, 2 * channels), of `picture(item)` for each item, in order."""

        def features(item: _Item) -> NDArray[np.float32]:
            pixels = load(picture(item), self._preprocess)
            found: NDArray[np.float32] = self._session.run(None, {"image": pixels[None]})[0][0]
            return found

        with ThreadPoolExecutor(available_cores()) as pool:
            return np.stack(list(_mapped(pool, features, items)))


def _mapped(
    pool: ThreadPoolExecutor,
    function: Callable[[_Item], NDArray[np.float32]],
    items: Iterable[_Item],
) -> Iterator[NDArray[np.float32]]:
    """As `pool.map`, which would hold every item at once."""
    remaining = iter(items)
    while some := list(islice(remaining, _IN_FLIGHT)):
        yield from pool.map(function, some)
