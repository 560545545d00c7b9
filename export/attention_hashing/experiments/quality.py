"""How good searches by views are at what processor time, model by model.

A choice is a model at one input size in one arithmetic, with a number of looks. Model files and
hash values are kept in a folder, so that an interrupted measurement goes on where it stopped.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from tqdm import tqdm

from attention_hashing.deployment import onnx_file, quantize, reduced_precision
from attention_hashing.network import AttentionHashing
from bitgaze import Contract, Encoder
from bitgaze.encoding.looks import LookRule

ARITHMETICS = ("fp32", "int8")
_TIMED, _ROUNDS = 16, 5
_CHECKED = 16
# Blue, orange and green of Okabe and Ito, distinct in all kinds of colour vision.
_COLOURS = ("#0072b2", "#d55e00", "#009e73")
_INK, _SOFT = "#1c1b22", "#6a6775"
_NEAR_MS = 1.2  # a label is left out within this factor of the previous one's time


class Setting(NamedTuple):
    """A model at one input size (pixels) in one of ARITHMETICS."""

    model: str
    size: int
    arithmetic: str

    @property
    def title(self) -> str:
        """For files."""
        return "-".join(map(str, self))


class Point(NamedTuple):
    """A setting with a number of looks: processor time an image, and mAP."""

    setting: Setting
    looks: int
    milliseconds: float
    precision: float


def write(
    setting: Setting,
    network: AttentionHashing,
    contract: Contract,
    most: int,
    images: Sequence[Path],
    target: str,
    folder: Path,
) -> None:
    """Write the model file of a setting.

    Args:
        setting: names the file.
        network: of the model.
        contract: of the model at its own size.
        most: largest number of looks.
        images: to compare float32 with torch on, or to calibrate 8-bit integers with.
        target: of integers, a key of `quantize.TARGETS`.
        folder: to write to.

    Raises:
        ExportError: the file does not compute what the network computes.
    """
    contract = replace(
        contract,
        preprocess=replace(contract.preprocess, size=setting.size),
        precision=setting.arithmetic,
        looks=LookRule(most=most),
        look_calibration=None,
    )
    out = folder / f"{setting.title}.onnx"
    if setting.arithmetic == "fp32":
        onnx_file.write_model(network, contract, list(images[:_CHECKED]), out)
        return
    pixels = reduced_precision.calibration_pixels(list(images), contract)
    deployed, model = onnx_file.graph(network, contract)
    smaller = quantize.int8(model, deployed, pixels, target)
    onnx_file.store_as_float16(smaller)
    with tempfile.TemporaryDirectory(dir=folder) as drafts:
        draft = Path(drafts) / out.name
        onnx_file.save(smaller, contract, draft)
        draft.replace(out)


def hash_values(encoder: Encoder, paths: Sequence[Path], folder: Path) -> NDArray[np.float32]:
    """Hash values of images and of as many looks as the model was made for.

    Args:
        encoder: of a file that `write` wrote.
        paths: of the images.
        folder: where values are kept.

    Returns:
        float32, (n, 1 + looks, bits).

    Raises:
        ImageError: an image cannot be read.
    """
    file = folder / f"{encoder.model.path.stem}.npz"
    images = [str(path) for path in paths]
    if file.exists():
        with np.load(file) as kept:
            if kept["images"].tolist() == images and kept["model"] == encoder.fingerprint:
                values: NDArray[np.float32] = kept["values"]
                return values
    with tqdm(total=len(images), desc=file.stem, unit="img", disable=None) as bar:
        found = encoder.encode(list(paths), looks=None, on_progress=bar.update)
    for error in found.errors.values():
        raise error
    values = np.concatenate([found.hashes[:, None], found.look_hashes], axis=1)
    draft = file.with_suffix(".part.npz")
    np.savez(draft, images=np.array(images), model=encoder.fingerprint, values=values)
    draft.replace(file)
    return values


def milliseconds(
    encoders: Sequence[Encoder], paths: Sequence[Path], most: int
) -> NDArray[np.float64]:
    """Processor time an image by number of looks, decoding included.

    All encoders take turns on the same images, so that what else the machine does slows all alike;
    the median of the rounds counts.

    Args:
        encoders: each of one thread.
        paths: of images; a few are enough.
        most: largest number of looks.

    Returns:
        (encoders, 1 + most).
    """
    some = list(paths[:: max(1, len(paths) // _TIMED)][:_TIMED])
    taken = np.zeros((_ROUNDS, len(encoders), 1 + most))
    for one in tqdm(taken, desc="rounds", disable=None):
        for encoder, row in zip(encoders, one, strict=True):
            encoder.encode(some[:1], looks=most)
            for count in range(1 + most):
                start = time.process_time()
                encoder.encode(some, looks=count)
                row[count] = (time.process_time() - start) / len(some) * 1e3
    return np.median(taken, axis=0)


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats in time without losing in mAP, the fastest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda one: (one.milliseconds, -one.precision)):
        if not best or point.precision > best[-1].precision:
            best.append(point)
    return best


def plot(points: Sequence[Point], path: Path) -> None:
    """Draw mAP against processor time, the front connected and labelled.

    Args:
        points: of at most three models.
        path: of the image file.
    """
    models = list(dict.fromkeys(point.setting.model for point in points))
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    axes = figure.subplots()
    for model, colour in zip(models, _COLOURS, strict=False):
        for point in (one for one in points if one.setting.model == model):
            is_float = point.setting.arithmetic == "fp32"
            axes.plot(
                point.milliseconds,
                point.precision,
                "o" if is_float else "^",
                color=colour,
                mfc=colour if is_float else "white",
                ms=5,
                alpha=0.75,
            )
    best = front(points)
    times = [point.milliseconds for point in best]
    axes.step(times, [point.precision for point in best], where="post", color=_INK, lw=1.2)
    before = 0.0
    for point in best:
        if point.milliseconds < before * _NEAR_MS and point is not best[-1]:
            continue
        before = point.milliseconds
        axes.annotate(
            f"{point.setting.size} px, {point.looks}",
            (point.milliseconds, point.precision),
            (-5, 5),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=_COLOURS[models.index(point.setting.model)],
        )
    axes.set_xscale("log")
    ticks = [tick for tick in (2, 3, 5, 10, 20, 30, 50, 100, 200) if tick < 1.2 * max(times)]
    ticks = [tick for tick in ticks if tick > min(times) / 2]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("processor time an image, ms (one core, decoding included)", color=_INK)
    axes.set_ylabel("mAP, 128 bits, adapted", color=_INK)
    axes.set_xlim(0.62 * min(times))
    axes.grid(color="#e6e4ea", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    arithmetics = {"fp32": ("float32", "o", _SOFT), "int8": ("8-bit integers", "^", "white")}
    used = {point.setting.arithmetic for point in points}
    shown = [(model, "o", colour, colour) for model, colour in zip(models, _COLOURS, strict=False)]
    shown += [
        (name, marker, _SOFT, face)
        for one, (name, marker, face) in arithmetics.items()
        if one in used
    ]
    handles = [
        Line2D([], [], ls="", marker=marker, color=colour, mfc=face, label=name)
        for name, marker, colour, face in shown
    ]
    handles.append(Line2D([], [], color=_INK, label="nothing is better and faster\n(size, looks)"))
    axes.legend(handles=handles, loc="lower right", frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
