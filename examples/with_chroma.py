"""Codes of images in Chroma (pip install chromadb); its squared distances are Hamming distances."""

import numpy as np
from chromadb import EmbeddingFunction

from bitgaze import Encoder


class Codes(EmbeddingFunction):
    """Turns images (uint8 arrays) into vectors of 0 and 1; for a space "l2"."""

    def __init__(self):
        self._encoder = Encoder()

    @staticmethod
    def name():
        """As a collection remembers it."""
        return "bitgaze"

    def get_config(self):
        """Nothing to remember."""
        return {}

    @staticmethod
    def build_from_config(config):
        """The same again."""
        return Codes()

    def __call__(self, input):
        """The vectors of images."""
        return list(np.unpackbits(self._encoder.encode(input).codes, axis=1).astype(np.float32))
