"""Random codes and indexes for the search tests."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from bitgaze import _hamming
from bitgaze.hamming import HammingIndex

FIXED = settings(derandomize=True, deadline=None, database=None, max_examples=150)


def random_codes(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def clustered_codes(n, code_bytes, seed=0, clusters=5):
    """Codes around a few centres, each bit flipped with probability 1/16: clusters, many ties."""
    random = np.random.default_rng(seed)
    centres = random.integers(0, 256, (clusters, code_bytes), dtype=np.uint8)
    flips = random.integers(0, 256, (4, n, code_bytes), dtype=np.uint8)
    return centres[random.integers(0, clusters, n)] ^ np.bitwise_and.reduce(flips)


def filled(bits, codes):
    index = HammingIndex(bits)
    index.add(codes)
    return index


def blocks_of(codes):
    """The layout by word, built in numpy: uint64, shape (blocks, words, BLOCK_CODES)."""
    n, code_bytes = codes.shape
    blocks = -(-n // _hamming.BLOCK_CODES)
    padded = np.zeros((blocks * _hamming.BLOCK_CODES, code_bytes), np.uint8)
    padded[:n] = codes
    words = padded.view(np.uint64).reshape(blocks, _hamming.BLOCK_CODES, code_bytes // 8)
    return np.ascontiguousarray(words.transpose(0, 2, 1))


@st.composite
def searches(draw):
    """Codes and queries of any width, and k; few distinct bytes, so that many distances tie."""
    code_bytes = draw(st.integers(1, 128))
    n = draw(st.one_of(st.integers(0, 40), st.integers(0, 300)))
    q = draw(st.integers(0, 4))
    k = draw(st.integers(1, 320))
    values = np.array(draw(st.lists(st.integers(0, 255), min_size=1, max_size=3)), np.uint8)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    alphabet = draw(st.sampled_from([values, np.arange(256, dtype=np.uint8)]))
    return random.choice(alphabet, (n, code_bytes)), random.choice(alphabet, (q, code_bytes)), k
