"""Pictures to codes: one onnxruntime session, decoding in threads beside it.

Knows the model file and how to run it. Does not know what becomes of the codes.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitgaze import images
from bitgaze.contract import DEFAULT_MODEL, Contract, Model, read_model
from bitgaze.cores import available_cores
from bitgaze.errors import ImageError, ModelError
from bitgaze.images import Source
from bitgaze.providers import CPU, ProviderReport, Providers, open_session

# Pictures per run of the session. Larger batches were not faster on CPU and hold more memory.
BATCH_SIZE = 16

_OUTPUTS = ("code", "hash", "attention")


@dataclass(frozen=True)
class Encoded:
    """What the model says of n pictures. Row i belongs to picture i, always.

    Attributes:
        codes: uint8, (n, bits // 8); the first bit is the most significant of byte 0.
        hashes: float32, (n, bits); a bit is set where its value is above 0.
        attention: float32, (n, h, w), in [0, 1], over the whole picture.
        errors: position of each picture that could not be read, with its error. The rows at these
            positions are all zero and mean nothing.
    """

    codes: NDArray[np.uint8]
    hashes: NDArray[np.float32]
    attention: NDArray[np.float32]
    errors: dict[int, ImageError]


class Encoder:
    """A model, loaded. Safe to use from several threads.

    Args:
        model: path of a model file; by default the model that comes with bitgaze.
        providers: what is to run the model: the CPU by default, or

            - a list of onnxruntime execution providers in order of preference, each a name ("cuda"
              is "CUDAExecutionProvider") or a pair (name, options) with onnxruntime's options.
              Every one must be present and come up, and one must run a part of the model.
            - "auto": the first of `bitgaze.providers.PREFERENCE` that is present and comes up, and
              the CPU. One that is present and does not come up gives a `ProviderWarning`.
            - "prefer_npu", "prefer_gpu", "prefer_cpu", "max_performance", "max_efficiency" or
              "min_overall_power": onnxruntime's device policies.

            `report` tells what came of it. Hash values of two providers differ in their last
            digits; `bitgaze.verify` tells whether that changes codes.
        threads: for the session and for decoding; by default the cores this process may use.

    Raises:
        ModelError: not a bitgaze model, damaged, or its outputs disagree with its contract.
        ProviderError: a named provider is absent, did not come up, or runs nothing.
        TypeError: `providers` is no list of names.
        ValueError: no provider named, or threads below 1.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        providers: Providers = (CPU,),
        threads: int | None = None,
    ) -> None:
        threads = available_cores() if threads is None else threads
        if threads < 1:
            raise ValueError(f"threads is {threads}, expected at least 1")
        self._model = read_model(Path(model))
        self._session, self._report = open_session(self._model.path, providers, threads)
        self._threads = threads
        _check_signature(self._session, self._model.contract, self._model.path)

    @property
    def contract(self) -> Contract:
        """What the model promises."""
        return self._model.contract

    @property
    def fingerprint(self) -> str:
        """Identity of the model, 64 hex digits; only codes of one fingerprint can be compared."""
        return self._model.fingerprint

    @property
    def model(self) -> Model:
        """The model file: its path, contract and fingerprint."""
        return self._model

    @property
    def bits(self) -> int:
        """Length of a code."""
        return self._model.contract.bits

    @property
    def providers(self) -> list[str]:
        """The providers that the session really runs with, in its order."""
        return list(self._report.providers)

    @property
    def report(self) -> ProviderReport:
        """What runs the model, as the session itself tells."""
        return self._report

    def encode(
        self,
        sources: Iterable[Source],
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> Encoded:
        """Codes, hash values and attention maps of some pictures.

        Args:
            sources: paths, bytes, PIL images or arrays, as `bitgaze.images.load` takes them.
            on_progress: called after each batch with the number of pictures in it.

        Returns:
            One row per picture, in order; unreadable ones are listed in `errors`.

        Raises:
            TypeError: a single picture instead of several, or something that is no picture.
            ValueError: an array whose shape is not a picture's.
        """
        is_single_array = isinstance(sources, np.ndarray) and sources.ndim < 4
        if is_single_array or isinstance(sources, str | bytes | os.PathLike | Image.Image):
            raise TypeError("encode takes several images; put a single one into a list: [image]")
        batches: list[tuple[NDArray[Any], ...]] = []
        errors: dict[int, ImageError] = {}
        start = 0
        for batch in self._loaded(sources):
            pixels = np.zeros((len(batch), *self._input_shape), np.uint8)
            for row, loaded in enumerate(batch):
                if isinstance(loaded, ImageError):
                    errors[start + row] = loaded
                else:
                    pixels[row] = loaded
            outputs = self._run(pixels)
            for row, loaded in enumerate(batch):
                if isinstance(loaded, ImageError):
                    for output in outputs:
                        output[row] = 0
            batches.append(outputs)
            start += len(batch)
            if on_progress is not None:
                on_progress(len(batch))
        if not batches:
            batches.append(self._no_rows())
        codes, hashes, attention = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return Encoded(codes, hashes, attention, errors)

    @property
    def _input_shape(self) -> tuple[int, int, int]:
        size = self.contract.preprocess.size
        return size, size, 3

    def _run(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
        return tuple(self._session.run(list(_OUTPUTS), {"image": pixels}))

    def _no_rows(self) -> tuple[NDArray[Any], ...]:
        # onnxruntime 1.32 divides by zero, and takes the process with it, on a batch of no
        # pictures.
        height, width = self._session.get_outputs()[_OUTPUTS.index("attention")].shape[1:]
        return (
            np.zeros((0, self.bits // 8), np.uint8),
            np.zeros((0, self.bits), np.float32),
            np.zeros((0, height, width), np.float32),
        )

    def _loaded(self, sources: Iterable[Source]) -> Iterator[list[NDArray[np.uint8] | ImageError]]:
        """Batches of decoded pictures; the next batch decodes while the session runs this one."""
        remaining = iter(sources)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="bitgaze-decode") as pool:
            pending: deque[list[Future[NDArray[np.uint8] | ImageError]]] = deque()
            while True:
                while len(pending) < 2 and (batch := list(islice(remaining, BATCH_SIZE))):
                    pending.append([pool.submit(self._load, source) for source in batch])
                if not pending:
                    return
                yield [future.result() for future in pending.popleft()]

    def _load(self, source: Source) -> NDArray[np.uint8] | ImageError:
        try:
            return images.load(source, self.contract.preprocess)
        except ImageError as error:
            return error


def _check_signature(session: Any, contract: Contract, path: Path) -> None:
    """Compare the graph's inputs and outputs with what the contract promises."""
    size = contract.preprocess.size
    expected: dict[str, tuple[str, list[int | None]]] = {
        "image": ("tensor(uint8)", [size, size, 3]),
        "code": ("tensor(uint8)", [contract.bits // 8]),
        "hash": ("tensor(float)", [contract.bits]),
        "attention": ("tensor(float)", [None, None]),
    }
    found = {node.name: node for node in [*session.get_inputs(), *session.get_outputs()]}
    if list(found) != list(expected):
        raise ModelError(f"{path}: the graph has {list(found)}, expected {list(expected)}")
    for name, (dtype, shape) in expected.items():
        node = found[name]
        sizes_agree = len(node.shape) == len(shape) + 1 and all(
            isinstance(have, int) if want is None else have == want
            for have, want in zip(node.shape[1:], shape, strict=True)
        )
        if node.type != dtype or not sizes_agree:
            raise ModelError(
                f"{path}: {name} is {node.type} {node.shape}, "
                f"its contract promises {dtype} {['batch', *shape]}"
            )
