"""Codes of images as a step of scikit-learn: pip install scikit-learn."""

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from bitgaze import Encoder


class Codes(TransformerMixin, BaseEstimator):
    """Turns images, as `Encoder.encode` takes them, into packed codes: uint8, (n, bits // 8)."""

    def fit(self, images: Iterable[Any], labels: object = None) -> Self:
        """Nothing to learn."""
        return self

    def transform(self, images: Iterable[Any]) -> NDArray[np.uint8]:
        """The codes of images."""
        return Encoder().encode(list(images)).codes
