"""Codes of images in LanceDB (pip install lancedb); its squared distances are Hamming distances."""

from typing import Any

import numpy as np
from lancedb.embeddings import EmbeddingFunction, register

from bitgaze import Encoder


@register("bitgaze")
class Codes(EmbeddingFunction):
    """Turns paths of images into vectors of 0 and 1."""

    def ndims(self) -> int:
        """Length of a vector."""
        return Encoder().bits

    def compute_source_embeddings(self, *args: Any, **kwargs: Any) -> list[Any]:
        """The vectors of images, the first argument."""
        codes = Encoder().encode(map(str, args[0])).codes  # str: they come from Arrow
        return list(np.unpackbits(codes, axis=1).astype(np.float32))

    def compute_query_embeddings(self, *args: Any, **kwargs: Any) -> list[Any]:
        """The vector of an image to search for, the first argument, in a list."""
        return self.compute_source_embeddings(args[:1])
