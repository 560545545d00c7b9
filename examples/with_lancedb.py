"""Codes of images in LanceDB (pip install lancedb); its squared distances are Hamming distances."""

import numpy as np
from lancedb.embeddings import EmbeddingFunction, register

from bitgaze import Encoder


@register("bitgaze")
class Codes(EmbeddingFunction):
    """Turns paths of images into vectors of 0 and 1."""

    def ndims(self):
        """Length of a vector."""
        return Encoder().bits

    def compute_source_embeddings(self, images, *args, **kwargs):
        """The vectors of images."""
        codes = Encoder().encode(map(str, images)).codes  # str: they come from Arrow
        return list(np.unpackbits(codes, axis=1).astype(np.float32))

    def compute_query_embeddings(self, image, *args, **kwargs):
        """The vector of an image to search for, in a list."""
        return self.compute_source_embeddings([image])
