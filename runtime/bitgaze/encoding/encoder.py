"""Images to codes: one onnxruntime session, and threads that decode and run it.

Knows the model file and how to run it. Does not know what becomes of the codes, nor how a session
comes by its hardware (providers.py does).
"""

import ctypes
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from operator import length_hint
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitgaze.arguments import thread_count
from bitgaze.encoding import images
from bitgaze.encoding.contract import DEFAULT_MODEL, Contract, Model, read_model
from bitgaze.encoding.images import Source
from bitgaze.encoding.providers import CPU, ProviderReport, Providers, open_session
from bitgaze.errors import ImageError, ModelError, ProviderError

_OUTPUTS = ("code", "hash", "attention")


@dataclass(frozen=True)
class Encoded:
    """What the model says of n images. Row i belongs to image i, always.

    Attributes:
        codes: uint8, (n, bits // 8); the first bit is the most significant of byte 0.
        hashes: float32, (n, bits); a bit is set where its value is above 0.
        attention: float32, (n, h, w), in [0, 1], over the whole image.
        errors: position of each image that could not be read, or for which the model gave values
            that are not numbers, with its error. The rows at these positions are all zero and mean
            nothing.
        stable: bool, (n, bits). False where the hash value lies so near to 0, within the contract's
            tolerance, that another machine may give the other bit.
    """

    codes: NDArray[np.uint8]
    hashes: NDArray[np.float32]
    attention: NDArray[np.float32]
    errors: dict[int, ImageError]
    stable: NDArray[np.bool_]


class _Row(NamedTuple):
    """What the model says of one image: arrays as in `Encoded`, without the first axis."""

    code: NDArray[np.uint8]
    hash: NDArray[np.float32]
    attention: NDArray[np.float32]


class Encoder:
    """A model, loaded. Safe to use from several threads, after a fork, and to pickle.

    Each image runs through the network alone, so that its code does not depend on what else is
    encoded with it, nor on the number of threads.

    A forked child opens a session of its own when it first needs one. Pickled is where the model
    lies, not the model: unpickling opens it again. Both refuse a file that has become another
    model meanwhile.

    Args:
        model: path of a model file; by default the model that comes with bitgaze.
        providers: what is to run the model: the CPU by default, or

            - a list of onnxruntime execution providers in order of preference, each a name ("cuda"
              is "CUDAExecutionProvider") or a pair (name, options) with onnxruntime's options.
              Every one must be present and come up, and one must run a part of the model.
            - "auto": the first of `bitgaze.encoding.providers.PREFERENCE` that is present and comes
              up, and the CPU. One that is present but does not come up is a `ProviderWarning`.
            - "prefer_npu", "prefer_gpu", "prefer_cpu", "max_performance", "max_efficiency" or
              "min_overall_power": onnxruntime's device policies.

            `report` tells what came of it. Hash values of two providers differ in their last
            digits; `bitgaze.verify` tells whether that changes codes.
        threads: for the session and for decoding; by default the cores this process may use.

    Raises:
        ModelError: not a bitgaze model, damaged, or its outputs disagree with its contract.
        ProviderError: a named provider is absent, did not come up, or runs nothing.
        TypeError: `providers` is no list of names, or `threads` no integer.
        ValueError: no provider named, or threads below 1.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        providers: Providers = (CPU,),
        threads: int | None = None,
    ) -> None:
        if isinstance(threads, bool):
            raise TypeError("threads must be an integer, got bool")
        self._threads = thread_count(threads)
        self._wanted = (providers, threads)  # as given: another machine has other cores
        self._model = read_model(Path(model).absolute())
        self._report = ProviderReport((), None)  # until the session is there
        self._sessions: dict[int, Any] = {}  # by their threads
        self._is_closed = False
        self._start_anew()
        self._session(self._threads)
        _ENCODERS.add(self)

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
        """The providers that the session really came up with, in its order."""
        return list(self.report.providers)

    @property
    def report(self) -> ProviderReport:
        """What runs the model, as the session itself tells."""
        return self._report

    def close(self) -> None:
        """Free the session and its memory. `encode` raises ValueError from now on."""
        with self._lock:
            self._is_closed = True
            self._sessions.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        self._session(self._threads)  # a closed one cannot be pickled
        is_default = self._model.path == DEFAULT_MODEL.absolute()
        # The default model lies elsewhere on another machine.
        path = None if is_default else os.fspath(self._model.path)
        return _unpickled, (path, *self._wanted, self.fingerprint)

    def encode(
        self,
        sources: Iterable[Source],
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> Encoded:
        """Codes, hash values and attention maps of some images.

        Args:
            sources: paths, bytes, PIL images or arrays, as `bitgaze.encoding.images.load` takes
                them. Only a few are drawn ahead from a generator.
            on_progress: called as images are done, with how many since the last call.

        Returns:
            One row per image, in order; unreadable ones are listed in `errors`.

        Raises:
            ProviderError: the session failed as it ran.
            TypeError: a single image instead of several, or something that is no image.
            ValueError: an array whose shape is not an image's, or the encoder is closed.
        """
        is_single_array = isinstance(sources, np.ndarray) and sources.ndim < 4
        if is_single_array or isinstance(sources, str | bytes | os.PathLike | Image.Image):
            raise TypeError("encode takes several images; put a single one into a list: [image]")
        blank = self._blank()
        rows: list[_Row] = []
        errors: dict[int, ImageError] = {}
        with closing(self._rows(sources)) as results:
            for row in results:
                if isinstance(row, ImageError):
                    errors[len(rows)] = row
                rows.append(blank if isinstance(row, ImageError) else row)
                if on_progress is not None:
                    on_progress(1)
        if not rows:
            codes, hashes, attention = (np.zeros((0, *part.shape), part.dtype) for part in blank)
        else:
            codes, hashes, attention = map(np.stack, zip(*rows, strict=True))
        stable = np.abs(hashes) > self.contract.tolerance
        return Encoded(codes, hashes, attention, errors, stable)

    def _start_anew(self) -> None:
        """Leave behind what another process has opened; make locks that nobody holds."""
        for session in self._sessions.values():
            # Its threads are not in this process. Freeing it would wait for them for ever.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
        self._sessions = {}
        self._lock = threading.Lock()
        # Several threads may run a session at once on the CPU; not every provider allows it.
        self._turn: Any = threading.Lock()

    def _session(self, threads: int) -> Any:
        with self._lock:
            if self._is_closed:
                raise ValueError(f"this encoder of {self._model.path} is closed")
            is_first, on_cpu = not self._report.providers, self._report.providers == (CPU,)
            if not is_first and not on_cpu:
                threads = self._threads  # one session: the memory of other hardware is small
            if threads not in self._sessions:
                if not is_first:  # opened before, who knows how long ago
                    _check_same(read_model(self._model.path), self.fingerprint)
                # What did not come up is not tried, and warned of, a second time.
                providers = (CPU,) if on_cpu else self._wanted[0]
                session, report = open_session(self._model.path, providers, threads)
                _check_signature(session, self._model.contract, self._model.path)
                self._sessions[threads] = session
                if not on_cpu:
                    self._report = report
                if report.providers == (CPU,):
                    self._turn = nullcontext()
            return self._sessions[threads]

    def _blank(self) -> _Row:
        outputs = self._session(self._threads).get_outputs()
        height, width = outputs[_OUTPUTS.index("attention")].shape[1:]
        return _Row(
            np.zeros(self.bits // 8, np.uint8),
            np.zeros(self.bits, np.float32),
            np.zeros((height, width), np.float32),
        )

    def _rows(self, sources: Iterable[Source]) -> Generator[_Row | ImageError, None, None]:
        """A row, or why there is none, for each image; several are on their way at once."""
        # A few at a time, where their number is known: a thread that decodes some and then runs
        # some keeps the network in its cache (5 % less processor time).
        size = min(8, max(1, length_hint(sources, 1) // (8 * self._threads)))
        remaining = iter(sources)
        first = list(islice(remaining, 2))
        if len(first) < 2:  # threads of our own would cost more than they could do
            yield from self._some_rows(self._session(self._threads), first)
            return
        remaining = chain(first, remaining)
        # Each thread runs the network by itself. A session whose own threads help each of them
        # takes 2 % more processor time with 2 threads and 11 to 18 % with 4; another takes 40 MB.
        session = self._session(1 if self._threads > 2 else self._threads)
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="bitgaze-encode")
        try:
            pending: deque[Future[list[_Row | ImageError]]] = deque()
            while True:
                # So many that no thread waits while a large image holds up its successors.
                while len(pending) < 4 * self._threads and (some := list(islice(remaining, size))):
                    pending.append(pool.submit(self._some_rows, session, some))
                if not pending:
                    return
                yield from pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _some_rows(self, session: Any, sources: list[Source]) -> list[_Row | ImageError]:
        loaded = [self._load(source) for source in sources]
        return [
            pixels if isinstance(pixels, ImageError) else self._run(session, pixels)
            for pixels in loaded
        ]

    def _load(self, source: Source) -> NDArray[np.uint8] | ImageError:
        try:
            return images.load(source, self.contract.preprocess)
        except ImageError as error:
            return error

    def _run(self, session: Any, pixels: NDArray[np.uint8]) -> _Row | ImageError:
        try:
            # One at a time, though 16 images a run would be less work for Python: it takes 17 %
            # less processor time, as what a layer leaves is still in the cache for the next.
            with self._turn:
                outputs = session.run(list(_OUTPUTS), {"image": pixels[None]})
        except Exception as error:  # onnxruntime's own classes share no base but Exception
            raise ProviderError(
                f"{self._model.path}: the session on {', '.join(self.providers)} failed: {error}"
            ) from error
        row = _Row(*(output[0] for output in outputs))
        if not np.isfinite(row.hash).all():  # half precision overflows, for example
            return ImageError(
                f"{self._model.path.name} on {', '.join(self.providers)} gives values that are not "
                "numbers for this image"
            )
        return row


# Every encoder of this process, for a fork to come.
_ENCODERS: weakref.WeakSet[Encoder] = weakref.WeakSet()


def _after_fork() -> None:
    for encoder in list(_ENCODERS):
        encoder._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _unpickled(
    path: str | None, providers: Providers, threads: int | None, fingerprint: str
) -> Encoder:
    found = read_model(DEFAULT_MODEL if path is None else path)
    _check_same(found, fingerprint)
    return Encoder(found.path, providers=providers, threads=threads)


def _check_same(found: Model, fingerprint: str) -> None:
    if found.fingerprint != fingerprint:
        raise ModelError(
            f"{found.path}: the encoder was made with model {fingerprint[:12]}, the file is "
            f"{found.fingerprint[:12]} now; make an encoder of this one, or bring the other back"
        )


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
