"""Codes of images in Chroma (pip install chromadb); its squared distances are Hamming distances."""

from typing import Any

import numpy as np
from chromadb.api.types import EmbeddingFunction, Embeddings, Images

from bitgaze import Encoder


class Codes(EmbeddingFunction[Images]):
    """Turns images (uint8 arrays) into vectors of 0 and 1; for a space "l2"."""

    def __init__(self) -> None:
        self._encoder = Encoder()

    @staticmethod
    def name() -> str:
        """As a collection remembers it."""
        return "bitgaze"

    def get_config(self) -> dict[str, Any]:
        """Nothing to remember."""
        return {}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> "Codes":
        """The same again."""
        return Codes()

    def __call__(self, input: Images) -> Embeddings:
        """The vectors of images."""
        codes = self._encoder.encode([np.asarray(image, np.uint8) for image in input]).codes
        return list(np.unpackbits(codes, axis=1).astype(np.float32))
