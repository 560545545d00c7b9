"""Computes features of many images in onnxruntime, one thread per image."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime as ort
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from attention_hashing.deployment import onnx_file
from attention_hashing.network import AttentionHashing, pooled
from bitgaze.cores import available_cores
from bitgaze.encoding.images import Preprocess, Source, load

_Item = TypeVar("_Item")
_IN_FLIGHT = 64


class _Pooled(nn.Module):
    def __init__(self, network: AttentionHashing) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        features = self.network.features(image)
        return pooled(features, self.network.branch(features).attention)


class _Map(nn.Module):
    def __init__(self, network: AttentionHashing) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network.features(image)


class FeatureExtractor:
    """Computes global and local features of images, as the network's hash layer sees them.

    Args:
        network: to run.
        preprocess: how images are prepared for it; stays readable.
        whole_map: compute the backbone's map instead.
    """

    def __init__(
        self, network: AttentionHashing, preprocess: Preprocess, whole_map: bool = False
    ) -> None:
        self.preprocess = preprocess
        module = (_Map if whole_map else _Pooled)(onnx_file.folded(network)).eval()
        model = onnx_file.export(module, preprocess.size, ["features"])
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(
        self, items: Iterable[_Item], image: Callable[[_Item], Source]
    ) -> NDArray[np.float32]:
        """Features of `image(item)` for each item, in order: float32 (n, 2 * channels)."""
        return np.stack(list(self.each(items, image)))

    def each(
        self, items: Iterable[_Item], image: Callable[[_Item], Source]
    ) -> Iterator[NDArray[np.float32]]:
        """Yield features one by one: float32 (2 * channels,), or the map (channels, h, w)."""

        def features(item: _Item) -> NDArray[np.float32]:
            pixels = load(image(item), self.preprocess)
            found: NDArray[np.float32] = self._session.run(None, {"image": pixels[None]})[0][0]
            return found

        with ThreadPoolExecutor(available_cores()) as pool:
            yield from _mapped(pool, features, items)


def cached_maps(
    extract: FeatureExtractor, images: Iterable[Source], count: int, path: Path
) -> NDArray[np.float16]:
    """The backbone's maps of images, from a file that is created if it does not exist.

    Args:
        extract: of whole maps.
        images: read only if the file does not exist.
        count: number of images, at least 1.
        path: of the file (.npy).

    Returns:
        float16, (n, channels, h, w), memory-mapped. float16 rounds by less than a thousandth, and
        halves a file that takes 2.5 GB for CIFAR-10 at 128 px.

    Raises:
        ValueError: there are fewer images than `count`.
    """
    if not path.exists():
        draft = path.with_suffix(".part")
        bar = tqdm(images, path.stem, count, unit="img")
        each = extract.each(bar, lambda one: one)
        first = next(each)
        file = open_memmap(draft, "w+", np.float16, (count, *first.shape))
        file[0] = first
        made = 1
        for one in each:
            file[made] = one
            made += 1
        if made < count:
            raise ValueError(f"{made} images, expected {count}")
        file.flush()
        draft.replace(path)
    maps: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return maps


def _mapped(
    pool: ThreadPoolExecutor,
    function: Callable[[_Item], NDArray[np.float32]],
    items: Iterable[_Item],
) -> Iterator[NDArray[np.float32]]:
    """As `pool.map`, but without holding all items at once."""
    remaining = iter(items)
    while some := list(islice(remaining, _IN_FLIGHT)):
        yield from pool.map(function, some)
