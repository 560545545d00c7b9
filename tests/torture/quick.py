"""A fast fake encoder and small images, for tests that create thousands of galleries."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from bitgaze.encoding.contract import DEFAULT_MODEL, read_model
from bitgaze.encoding.encoder import Encoded
from bitgaze.encoding.images import Preprocess, Source, load
from bitgaze.errors import ImageError
from bitgaze.hamming import pack

BITS = 128
_SIDE = 4


class QuickEncoder:
    """Poses as the shipped model; its hash values are a random projection of 4 x 4 pixels."""

    bits = BITS

    def __init__(self) -> None:
        self.model = read_model(DEFAULT_MODEL)
        contract = replace(self.model.contract, looks=None, look_calibration=None)
        self.model = replace(self.model, contract=contract)
        self.fingerprint, self.contract = self.model.fingerprint, contract
        random = np.random.default_rng(5)
        self._weight = random.standard_normal((_SIDE * _SIDE * 3, BITS))
        self._bias = random.standard_normal(BITS) * 2

    def encode(
        self,
        sources: Iterable[Source],
        *,
        looks: int | None = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> Encoded:
        self.contract.look_count(looks)
        rows, errors = [], {}
        for row, source in enumerate(sources):
            try:
                pixels = load(source, Preprocess(size=_SIDE)).ravel() / 255 - 0.5
                rows.append(pixels @ self._weight + self._bias)
            except ImageError as error:
                errors[row] = error
                rows.append(np.zeros(BITS))
            if on_progress is not None:
                on_progress(1)
        hashes = np.array(rows, np.float32).reshape(-1, BITS)
        attention = np.zeros((len(rows), 7, 7), np.float32)
        stable = np.abs(hashes) > self.contract.tolerance
        n = len(rows)
        return Encoded(
            pack(hashes),
            hashes,
            attention,
            errors,
            stable,
            looks=np.zeros((n, 0, BITS // 8), np.uint8),
            look_hashes=np.zeros((n, 0, BITS), np.float32),
            boxes=np.zeros((n, 0, 4), np.float32),
            look_classes=np.zeros((n, 0), np.int64),
            structure=np.zeros((n, 32), np.uint8),
            classes=(b"",) * n,
        )


def smooth_image(seed: int) -> Image.Image:
    """A 16 x 16 image that differs between seeds."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((16, 16))


def write_images(folder: Path, seeds: Iterable[int]) -> None:
    """Write a PNG per seed, named after it, in folders of 50."""
    for seed in seeds:
        path = folder / f"{seed // 50}" / f"p{seed:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth_image(seed).save(path)
