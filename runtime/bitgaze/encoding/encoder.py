"""Encode images: onnxruntime sessions of a model, and threads that decode images and run them.

Knows the model file and how to run it, not who uses the codes or how providers are chosen
(providers.py).
"""

import ctypes
import math
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
from bitgaze.encoding.images import (
    Box,
    ImageFile,
    Region,
    Source,
    is_open_file,
    part,
    prepared,
    within,
)
from bitgaze.encoding.likely import pack
from bitgaze.encoding.looks import choose
from bitgaze.encoding.providers import CPU, ProviderReport, Providers, open_session
from bitgaze.encoding.structure import STRUCTURE_BITS, structural_code
from bitgaze.errors import ImageError, ModelError, ProviderError

_OUTPUTS = ("code", "hash", "attention")
_LIKELY = ("class_probability", "class_number")
_WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Encoded:
    """The model's outputs for n images. Row i of every array belongs to image i.

    Attributes:
        codes: uint8, shape (n, bits // 8); the first bit is the most significant bit of byte 0.
        hashes: float32, shape (n, bits): the hash values. A bit is set where its value is above 0.
        attention: float32, shape (n, h, w), in [0, 1]; covers the whole image.
        errors: position to error for each image that cannot be read, or for which the model
            computes hash values that are not finite. Rows at these positions are all zero and
            meaningless.
        stable: bool, shape (n, bits). False where the hash value is within the contract's tolerance
            of 0, so that another machine may compute the other bit.
        looks: uint8, shape (n, m, bits // 8): codes of m looks at each image, parts of it that the
            attention chose. An image with fewer places to look at repeats its own code, which
            changes no distance to the nearest of its codes.
        look_hashes: float32, shape (n, m, bits): the hash values of these.
        boxes: float32, shape (n, m, 4): left, top, right, bottom of the looks, in [0, 1] of the
            upright image; (0, 0, 1, 1) where there is no look.
        look_classes: int64, shape (n, m): number of the class, among those that guide the
            attention, whose evidence each look surrounds; -1 where that is no single class, or
            there is no look.
        structure: uint8, shape (n, 32): structural codes, what the images look like whatever they
            show; see `bitgaze.encoding.structure`. They do not depend on the model.
        classes: likely classes of each image and its looks, see `bitgaze.encoding.likely`; empty if
            the model does not say.
    """

    codes: NDArray[np.uint8]
    hashes: NDArray[np.float32]
    attention: NDArray[np.float32]
    errors: dict[int, ImageError]
    stable: NDArray[np.bool_]
    looks: NDArray[np.uint8]
    look_hashes: NDArray[np.float32]
    boxes: NDArray[np.float32]
    look_classes: NDArray[np.int64]
    structure: NDArray[np.uint8]
    classes: tuple[bytes, ...]

    def __repr__(self) -> str:
        count, width = self.codes.shape
        return f"Encoded({count} images, {8 * width} bits, {len(self.errors)} errors)"

    @property
    def views(self) -> NDArray[np.uint8]:
        """Codes of each image and of its looks: uint8, shape (n, 1 + m, bits // 8)."""
        return np.concatenate([self.codes[:, None], self.looks], axis=1)

    @property
    def view_hashes(self) -> NDArray[np.float32]:
        """Hash values of each image and of its looks: float32, shape (n, 1 + m, bits)."""
        return np.concatenate([self.hashes[:, None], self.look_hashes], axis=1)


class _Row(NamedTuple):
    """The model's outputs for one image: arrays as in `Encoded`, without the first axis."""

    code: NDArray[np.uint8]
    hash: NDArray[np.float32]
    attention: NDArray[np.float32]
    looks: NDArray[np.uint8]
    look_hashes: NDArray[np.float32]
    boxes: NDArray[np.float32]
    look_classes: NDArray[np.int64]
    structure: NDArray[np.uint8]
    classes: bytes


class Encoder:
    """A loaded model that turns images into codes. Thread-safe, fork-safe and picklable.

    Every image runs through the network alone, so its code does not depend on the images encoded
    with it or on the number of threads.

    A forked child opens its own session when it first needs one. A pickle holds the model's path,
    not the model: unpickling opens the file again. Both refuse a file that meanwhile contains
    another model.

    Args:
        model: path of a model file; by default the model that ships with bitgaze.
        providers: what runs the model; by default the CPU. Either

            - a list of onnxruntime execution providers in order of preference, each a name ("cuda"
              means "CUDAExecutionProvider") or a pair (name, options) with onnxruntime's options.
              All of them must be present and come up, and one must run a part of the model; or
            - "auto": the first of `bitgaze.encoding.providers.PREFERENCE` that is present and comes
              up, then the CPU. Each one that is present but does not come up causes a
              `ProviderWarning`; or
            - an onnxruntime device policy: "prefer_npu", "prefer_gpu", "prefer_cpu",
              "max_performance", "max_efficiency" or "min_overall_power".

            `report` says what the session uses. Hash values of two providers differ in their last
            digits; `bitgaze.verify` checks whether that changes codes.
        threads: maximum number of threads, for the session and for decoding; by default the cores
            this process may use.

    Raises:
        ModelError: the file is not a bitgaze model, is damaged, or its outputs disagree with its
            contract.
        ProviderError: a named provider is absent, did not come up, or runs no part of the model.
        TypeError: `providers` is neither a string nor a list of names, or `threads` is not an
            integer.
        ValueError: `providers` is an unknown string or an empty list, or threads < 1.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        providers: Providers = (CPU,),
        threads: int | None = None,
    ) -> None:
        self._threads = thread_count(threads)
        self._arguments = (providers, threads)  # as given: a pickle may move to other hardware
        self._model = read_model(Path(model).absolute())
        self._report = ProviderReport((), None)  # until a session is open
        self._sessions: dict[int, Any] = {}  # by number of threads
        self._is_closed = False
        self._reset()
        self._session(self._threads)
        _ENCODERS.add(self)

    def __repr__(self) -> str:
        state = ", closed" if self._is_closed else ""
        return f"Encoder({self._model.contract.name!r}, {self.bits} bits{state})"

    @property
    def contract(self) -> Contract:
        """What the model file declares about itself."""
        return self._model.contract

    @property
    def fingerprint(self) -> str:
        """Identity of the model, 64 hex digits. Compare only codes of the same fingerprint."""
        return self._model.fingerprint

    @property
    def model(self) -> Model:
        """The model file: its path, contract and fingerprint."""
        return self._model

    @property
    def bits(self) -> int:
        """Length of a code, a multiple of 8."""
        return self._model.contract.bits

    @property
    def providers(self) -> list[str]:
        """The providers that the session actually uses, in order of preference."""
        return list(self.report.providers)

    @property
    def report(self) -> ProviderReport:
        """What runs the model, as reported by the session itself."""
        return self._report

    def close(self) -> None:
        """Free the sessions and their memory. From then on `encode` raises ValueError."""
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
        self._session(self._threads)  # raises if the encoder is closed
        is_default = self._model.path == DEFAULT_MODEL.absolute()
        # The default model has another path on another machine.
        path = None if is_default else os.fspath(self._model.path)
        return _unpickled, (path, *self._arguments, self.fingerprint)

    def encode(
        self,
        sources: Iterable[Source],
        *,
        looks: int | None = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> Encoded:
        """Compute codes, hash values and attention of images, and of parts of them.

        Args:
            sources: paths, bytes, `ImageFile`s, PIL images or arrays, as for
                `bitgaze.encoding.images.load`; or one array of several images, shape (n, height,
                width, 3). A generator is read only a few images ahead, and files are opened by the
                thread that decodes them. Of a `Region`, all outputs are of the region as if it were
                the image, except that boxes of looks are in [0, 1] of the whole image.
            looks: how many times to look again at parts of each image, up to the contract's
                `looks.most`; None for as many as that, or 0 if the model cannot look. Each look
                takes as long as the image itself. With looks, a large JPEG is decoded at a larger
                scale, and so a few of its own code's bits may differ from those without.
            on_progress: called as images finish, with their number since the last call.

        Returns:
            One row per image, in order. Images that cannot be read are listed in `errors`.

        Raises:
            ModelError: a forked child or a second session finds another model in the file.
            ProviderError: the session failed while running.
            TypeError: `sources` is a single image, or one of them is not an image.
            ValueError: an array does not have the shape of an image, the encoder is closed, or
                `looks` is more than the model can do.
        """
        is_single_array = isinstance(sources, np.ndarray) and sources.ndim < 4
        if (
            is_single_array
            or is_open_file(sources)
            or isinstance(sources, str | bytes | os.PathLike | ImageFile | Image.Image | Region)
        ):
            raise TypeError("encode takes several images; put a single one into a list: [image]")
        count = self.contract.look_count(looks)
        blank = self._blank(count)
        rows: list[_Row] = []
        errors: dict[int, ImageError] = {}
        with closing(self._rows(sources, count)) as results:
            for row in results:
                if isinstance(row, ImageError):
                    errors[len(rows)] = row
                rows.append(blank if isinstance(row, ImageError) else row)
                if on_progress is not None:
                    on_progress(1)
        if not rows:
            arrays: list[Any] = [np.zeros((0, *array.shape), array.dtype) for array in blank[:-1]]
        else:
            columns: list[Any] = list(zip(*rows, strict=True))
            arrays = [np.stack(column) for column in columns[:-1]]
        found = _Row._make([*arrays, b""])
        return Encoded(
            found.code,
            found.hash,
            found.attention,
            errors,
            stable=np.abs(found.hash) > self.contract.tolerance,
            looks=found.looks,
            look_hashes=found.look_hashes,
            boxes=found.boxes,
            look_classes=found.look_classes,
            structure=found.structure,
            classes=tuple(row.classes for row in rows),
        )

    def _reset(self) -> None:
        """Abandon sessions that a parent process opened, and replace its locks."""
        for session in self._sessions.values():
            # Freeing the session would deadlock on threads that do not exist in this process.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
        self._sessions = {}
        self._lock = threading.Lock()
        # Several threads may run a session at once on the CPU, but not on every provider.
        self._run_lock: Any = threading.Lock()

    def _session(self, threads: int) -> Any:
        with self._lock:
            if self._is_closed:
                raise ValueError(f"this encoder of {self._model.path} is closed")
            is_first, on_cpu = not self._report.providers, self._report.providers == (CPU,)
            if not is_first and not on_cpu:
                threads = self._threads  # a single session: other hardware has little memory
            if threads not in self._sessions:
                if not is_first:  # the file may have changed since
                    _check_fingerprint(read_model(self._model.path), self.fingerprint)
                # Providers that did not come up are not tried again, nor warned about again.
                providers = (CPU,) if on_cpu else self._arguments[0]
                session, report = open_session(self._model.path, providers, threads)
                _check_signature(session, self._model.contract, self._model.path)
                self._sessions[threads] = session
                if not on_cpu:
                    self._report = report
                if report.providers == (CPU,):
                    self._run_lock = nullcontext()
            return self._sessions[threads]

    def _blank(self, looks: int) -> _Row:
        outputs = self._session(self._threads).get_outputs()
        height, width = outputs[_OUTPUTS.index("attention")].shape[1:]
        return _Row(
            np.zeros(self.bits // 8, np.uint8),
            np.zeros(self.bits, np.float32),
            np.zeros((height, width), np.float32),
            np.zeros((looks, self.bits // 8), np.uint8),
            np.zeros((looks, self.bits), np.float32),
            np.zeros((looks, 4), np.float32),
            np.zeros(looks, np.int64),
            np.zeros(STRUCTURE_BITS // 8, np.uint8),
            b"",
        )

    def _rows(
        self, sources: Iterable[Source], looks: int
    ) -> Generator[_Row | ImageError, None, None]:
        """Yield a row or an error for each image, in order, while threads work ahead."""
        # Several images per task if their number is known: a thread that decodes some, then runs
        # some, keeps the network in its cache (5 % less processor time).
        size = min(8, max(1, length_hint(sources, 1) // (8 * self._threads)))
        remaining = iter(sources)
        first = list(islice(remaining, 2))
        if len(first) < 2:  # a thread pool costs more than it saves
            yield from self._encode_some(self._session(self._threads), looks, first)
            return
        remaining = chain(first, remaining)
        # Each thread runs the network alone. A session with threads of its own takes 2 % more
        # processor time with 2 threads and 11 to 18 % with 4, but a second session takes 40 MB.
        session = self._session(1 if self._threads > 2 else self._threads)
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="bitgaze-encode")
        try:
            pending: deque[Future[list[_Row | ImageError]]] = deque()
            while True:
                # Enough tasks that no thread idles while a large image delays those after it.
                while len(pending) < 4 * self._threads and (some := list(islice(remaining, size))):
                    pending.append(pool.submit(self._encode_some, session, looks, some))
                if not pending:
                    return
                yield from pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _encode_some(
        self, session: Any, looks: int, sources: list[Source]
    ) -> list[_Row | ImageError]:
        if looks:
            return [self._look_again(session, looks, source) for source in sources]
        loaded = [self._load(source) for source in sources]
        return [
            one if isinstance(one, ImageError) else self._single(session, *one) for one in loaded
        ]

    def _load(self, source: Source) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | ImageError:
        """The model's input and the structural code."""
        preprocess = self.contract.preprocess

        def both(image: Image.Image) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
            return prepared(image, preprocess), structural_code(image)

        try:
            return images.with_upright(source, preprocess.size, both, depth=preprocess.depth)
        except ImageError as error:
            # Without its traceback, which would keep what was decoded as long as the error.
            return ImageError(*error.args)

    def _single(
        self, session: Any, pixels: NDArray[np.uint8], structure: NDArray[np.uint8]
    ) -> _Row | ImageError:
        likely = _LIKELY if self.contract.looks is not None else ()
        outputs = self._run(session, pixels, _OUTPUTS + likely)
        if isinstance(outputs, ImageError):
            return outputs
        classes = pack([(outputs[4], outputs[3])]) if likely else b""
        return _row(outputs[:3], [], 0, structure, classes)

    def _look_again(self, session: Any, looks: int, source: Source) -> _Row | ImageError:
        """The image, and looks at it, from one decoding at a scale that serves both."""
        rule, preprocess = self.contract.looks, self.contract.preprocess
        assert rule is not None  # as `look_count` has checked

        def encoded(image: Image.Image) -> _Row | ImageError | ProviderError:
            try:
                whole = self._run(
                    session, prepared(image, preprocess), (*_OUTPUTS, "class_maps", *_LIKELY)
                )
                if isinstance(whole, ImageError):
                    return whole
                *outputs, maps, probability, numbers = whole
                parts: list[_Part] = []
                likely = [(numbers, probability)]
                for look in choose(maps, probability, outputs[2], rule, looks):
                    pixels = prepared(part(image, look.box), preprocess)
                    found = self._run(session, pixels, _OUTPUTS[:2] + _LIKELY)
                    if isinstance(found, ImageError):
                        return found
                    likely.append((found[3], found[2]))
                    number = int(numbers[look.row]) if look.row >= 0 else -1
                    box = look.box
                    if isinstance(source, Region):
                        box = within(source.box, box)
                    parts.append(_Part(found[0], found[1], box, number))
                return _row(outputs, parts, looks, structural_code(image), pack(likely))
            except ProviderError as error:  # which is not the image's fault, see `with_upright`
                return error

        # So many pixels that the smallest look is not enlarged, if the image has them.
        shorter_side = math.ceil(preprocess.size / rule.smallest)
        try:
            found = images.with_upright(source, shorter_side, encoded, depth=preprocess.depth)
        except ImageError as error:
            return ImageError(*error.args)
        if isinstance(found, ProviderError):
            raise found
        return found

    def _run(
        self, session: Any, pixels: NDArray[np.uint8], names: tuple[str, ...]
    ) -> list[Any] | ImageError:
        """Outputs for one image, code and hash values first."""
        try:
            # One image per run takes 17 % less processor time than 16 per run: what a layer writes
            # is still in the cache when the next layer reads it.
            with self._run_lock:
                outputs = session.run(list(names), {"image": pixels[None]})
        except Exception as error:  # onnxruntime's own classes share no base but Exception
            raise ProviderError(
                f"{self._model.path}: the session on {', '.join(self.providers)} failed: {error}"
            ) from error
        outputs = [output[0] for output in outputs]
        if not np.isfinite(outputs[1]).all():  # half precision can overflow, for example
            return ImageError(
                f"{self._model.path.name} on {', '.join(self.providers)} computes hash values that "
                "are not finite for this image"
            )
        return outputs


class _Part(NamedTuple):
    """What a look found."""

    code: NDArray[np.uint8]
    hash: NDArray[np.float32]
    box: Box
    number: int


def _row(
    outputs: list[Any],
    parts: list[_Part],
    looks: int,
    structure: NDArray[np.uint8],
    classes: bytes,
) -> _Row:
    """Outputs of an image and its looks; the image itself stands in for those that it lacks."""
    code, values, attention = outputs
    parts = parts + [_Part(code, values, _WHOLE, -1)] * (looks - len(parts))
    return _Row(
        code,
        values,
        attention,
        np.array([part.code for part in parts], np.uint8).reshape(looks, *code.shape),
        np.array([part.hash for part in parts], np.float32).reshape(looks, *values.shape),
        np.array([part.box for part in parts], np.float32).reshape(looks, 4),
        np.array([part.number for part in parts], np.int64),
        structure,
        classes,
    )


# Every encoder of this process: a forked child resets them.
_ENCODERS: weakref.WeakSet[Encoder] = weakref.WeakSet()


def _after_fork() -> None:
    for encoder in list(_ENCODERS):
        encoder._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _unpickled(
    path: str | None, providers: Providers, threads: int | None, fingerprint: str
) -> Encoder:
    found = read_model(DEFAULT_MODEL if path is None else path)
    _check_fingerprint(found, fingerprint)
    return Encoder(found.path, providers=providers, threads=threads)


def _check_fingerprint(found: Model, fingerprint: str) -> None:
    if found.fingerprint != fingerprint:
        raise ModelError(
            f"{found.path}: the encoder was created with model {fingerprint[:12]}, but the file "
            f"now contains {found.fingerprint[:12]}; create a new encoder, or restore the file"
        )


def _check_signature(session: Any, contract: Contract, path: Path) -> None:
    """Check names, types and shapes of the graph's inputs and outputs against the contract."""
    size = contract.preprocess.size
    expected: dict[str, tuple[str, list[int | None]]] = {
        "image": ("tensor(uint8)", [size, size, 3]),
        "code": ("tensor(uint8)", [contract.bits // 8]),
        "hash": ("tensor(float)", [contract.bits]),
        "attention": ("tensor(float)", [None, None]),
    }
    if contract.looks is not None:
        expected |= {
            "class_maps": ("tensor(float)", [None, None, None]),
            "class_probability": ("tensor(float)", [None]),
            "class_number": ("tensor(int64)", [None]),
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
                f"its contract requires {dtype} {['batch', *shape]}"
            )
