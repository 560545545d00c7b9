"""Codes of images as a step of scikit-learn: pip install scikit-learn."""

from sklearn.base import BaseEstimator, TransformerMixin

from bitgaze import Encoder


class Codes(TransformerMixin, BaseEstimator):
    """Turns images, as `Encoder.encode` takes them, into packed codes: uint8, (n, bits // 8)."""

    def fit(self, images, labels=None):
        """Nothing to learn."""
        return self

    def transform(self, images):
        """The codes of images."""
        return Encoder().encode(list(images)).codes
