"""How close a model of reduced precision is to float32: codes, retrieval, size and speed."""

import time
from itertools import chain
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from attention_hashing.data.labelled import Labelled
from attention_hashing.evaluation.metrics import mean_by_code
from bitgaze import Encoded, Encoder
from bitgaze.encoding.images import load

# Limits: shares of bits, of mean average precision, and of the size of the float32 file.
MAX_FLIPS = 0.02
MAX_MAP_LOSS = 0.003
MAX_SIZE = 0.6
# Difference of float32 between two machines; no reduced precision can promise less.
_MIN_TOLERANCE = 1e-3
_CLEAR = 0.1
_TIMED_IMAGES = 100
_WARM_UP = 3


class Comparison(NamedTuple):
    """A model compared with the float32 model of the same network; in pairs, float32 comes first.

    Attributes:
        flips: share of bits that differ.
        clear_flips: the same among bits whose float32 value is farther from 0 than a tenth of the
            bit's standard deviation.
        precision: tie-aware mean average precision, each query against all other images.
        megabytes: size of the file, in 10^6 bytes.
        speed: images per second of processor time, on one thread, without decoding.
        attention: mean absolute difference of the attention, which is in [0, 1].
    """

    flips: float
    clear_flips: float
    precision: tuple[float, float]
    megabytes: tuple[float, float]
    speed: tuple[float, float]
    attention: float

    def __str__(self) -> str:
        return "\n".join(
            [
                f"bits flipped                {self.flips:.2%}",
                f"  of values beyond .1 sd    {self.clear_flips:.2%}",
                "mAP, float32 / this         {:.4f} / {:.4f}".format(*self.precision),
                "MB                          {:.2f} / {:.2f}".format(*self.megabytes),
                "images/s, one thread        {:.1f} / {:.1f}".format(*self.speed),
                f"  ratio                     {self.speed[1] / self.speed[0]:.2f}",
                f"attention, mean difference  {self.attention:.4f}",
            ]
        )

    def excesses(self, is_sized: bool) -> list[str]:
        """Describe the limits that are exceeded; empty if none is.

        Args:
            is_sized: whether the limit on the file's size applies.
        """
        found = []
        if self.flips > MAX_FLIPS:
            found.append(f"{self.flips:.2%} of the bits flip (limit {MAX_FLIPS:.0%})")
        loss = self.precision[0] - self.precision[1]
        if loss > MAX_MAP_LOSS:
            found.append(f"mAP falls by {loss:.4f} (limit {MAX_MAP_LOSS})")
        limit = MAX_SIZE * self.megabytes[0]
        if is_sized and self.megabytes[1] > limit:
            found.append(f"the file has {self.megabytes[1]:.2f} MB (limit {limit:.2f})")
        return found


def compare(
    reference: Encoder,
    expected: Encoded,
    smaller: Encoder,
    data: Labelled,
    queries: NDArray[np.intp] | None = None,
) -> Comparison:
    """Compare a model with the float32 model of the same network.

    Args:
        reference: the float32 model.
        expected: its output for `data` (`encoded`).
        smaller: the other model.
        data: images that neither was made with.
        queries: positions in `data`; all of them by default.

    Raises:
        ImageError: an image cannot be read, or its values are not finite.
    """
    queries = np.arange(len(data)) if queries is None else queries
    found = encoded(smaller, data)
    flipped = (found.hashes > 0) != (expected.hashes > 0)
    is_clear = np.abs(expected.hashes) > _CLEAR * expected.hashes.std(0)
    paths = (reference.model.path, smaller.model.path)
    before, after = (path.stat().st_size / 1e6 for path in paths)
    return Comparison(
        flips=float(flipped.mean()),
        clear_flips=float(flipped[is_clear].mean()),
        precision=(
            mean_by_code(expected.codes, data.labels, queries),
            mean_by_code(found.codes, data.labels, queries),
        ),
        megabytes=(before, after),
        speed=_speed(reference, smaller, data),
        attention=float(np.abs(found.attention - expected.attention).mean()),
    )


def encoded(encoder: Encoder, data: Labelled) -> Encoded:
    """Encode images, all of which must be readable.

    Raises:
        ImageError: of the first that is not.
    """
    found = encoder.encode(data.images)
    for error in found.errors.values():
        raise error
    return found


def tolerance(model: onnx.ModelProto, pixels: NDArray[np.uint8]) -> float:
    """Estimate the largest difference of a hash value between two machines.

    The estimate is the difference between two ways to compute the graph on this machine:
    onnxruntime's optimised session, whose kernels compute in the smaller type, and a session
    without optimisation, which passes float32 from layer to layer.

    Args:
        model: any graph that the runtime can run.
        pixels: uint8 (n, size, size, 3).

    Returns:
        The difference, at least 1e-3.
    """
    fast = _values(model, pixels, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    plain = _values(model, pixels, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    return max(_MIN_TOLERANCE, float(np.abs(fast - plain).max()))


def _values(
    model: onnx.ModelProto, pixels: NDArray[np.uint8], level: ort.GraphOptimizationLevel
) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.concatenate([session.run(["hash"], {"image": one[None]})[0] for one in pixels])


def _speed(reference: Encoder, smaller: Encoder, data: Labelled) -> tuple[float, float]:
    """Images per second of processor time of both, measured alternately under the same load."""
    step = max(1, len(data) // _TIMED_IMAGES)
    some = [data.images[i] for i in range(0, len(data), step)][:_TIMED_IMAGES]
    pixels = [load(one, reference.contract.preprocess) for one in some]
    seconds = np.zeros(2)
    with (
        Encoder(reference.model.path, threads=1) as first,
        Encoder(smaller.model.path, threads=1) as second,
    ):
        for one in pixels[:_WARM_UP]:
            first.encode([one])
            second.encode([one])
        for one in chain(pixels, reversed(pixels)):
            for place, encoder in enumerate((first, second)):
                start = time.process_time()
                encoder.encode([one])
                seconds[place] += time.process_time() - start
    before, after = 2 * len(pixels) / seconds
    return float(before), float(after)
