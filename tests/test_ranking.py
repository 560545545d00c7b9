"""Asymmetric ranking: the order of near codes by the query's hash values."""

import math

import numpy as np
import pytest

from bitgaze import Gallery, Item
from bitgaze.gallery.distances import asymmetric_scores
from codes import clustered_codes
from conftest import smooth_image

BITS = 128


def naive_score(values, code):
    bits = [(byte >> (7 - bit)) & 1 for byte in code.tolist() for bit in range(8)]
    return math.fsum(
        abs(float(value)) for value, bit in zip(values, bits, strict=True) if (value > 0) != bit
    )


@pytest.mark.parametrize("bits", [8, 64, 128, 1024])
def test_scores_match_their_definition(bits):
    random = np.random.default_rng(bits)
    values = random.standard_normal(bits).astype(np.float32)
    values[0] = 0
    codes = clustered_codes(300, bits // 8)
    scores = asymmetric_scores(values, codes)
    assert scores.shape == (300,)
    np.testing.assert_allclose(scores, [naive_score(values, code) for code in codes], rtol=1e-12)
    assert asymmetric_scores(values, np.packbits(values > 0)[None]) == [0]
    assert asymmetric_scores(values, codes[:0]).shape == (0,)


def test_equal_codes_have_equal_scores():
    values = np.random.default_rng(1).standard_normal(BITS).astype(np.float32)
    codes = clustered_codes(50, BITS // 8)[np.random.default_rng(2).integers(0, 50, 999)]
    scores = asymmetric_scores(values, codes)
    for code in np.unique(codes, axis=0):
        assert len(set(scores[(codes == code).all(axis=1)].tolist())) == 1


@pytest.fixture(scope="module")
def query(encoder):
    return encoder.encode([smooth_image(3)])


@pytest.fixture
def gallery(tmp_path, encoder, query):
    """400 items around the query, with many equal distances and some equal codes."""
    random = np.random.default_rng(7)
    flips = np.bitwise_and.reduce(random.integers(0, 256, (3, 380, BITS // 8), dtype=np.uint8))
    codes = query.codes ^ flips
    codes = np.concatenate([codes, codes[:20]])
    with Gallery(tmp_path / "test.bitgaze", encoder=encoder, looks=0) as opened:
        opened.upsert([Item(f"item {i}", code) for i, code in enumerate(codes)])
        yield opened


def naive_ranking(gallery, query, k, candidates=None, radius=BITS):
    items = [gallery.get(key) for key in gallery]
    distances = [int(np.unpackbits(item.code ^ query.codes[0]).sum()) for item in items]
    nearest = sorted(range(len(items)), key=lambda i: (distances[i], i))
    nearest = [i for i in nearest if distances[i] <= radius][:candidates]
    scores = {i: round(naive_score(query.hashes[0], items[i].code), 9) for i in nearest}
    best = sorted(nearest, key=lambda i: (scores[i], distances[i], i))[:k]
    return [(items[i].key, distances[i]) for i in best]


@pytest.mark.parametrize(("k", "candidates"), [(1, 100), (10, 100), (20, 200), (40, 400)])
def test_the_nearest_candidates_are_ordered_by_score(gallery, query, k, candidates):
    hits = gallery.search(smooth_image(3), k, ranking="asymmetric")
    expected = naive_ranking(gallery, query, k, candidates)
    assert [(hit.key, hit.distance) for hit in hits] == expected
    if k > 1:
        assert hits != gallery.search(smooth_image(3), k)


def test_all_items_within_the_radius_are_candidates(gallery, query):
    distances = [hit.distance for hit in gallery.search(smooth_image(3), 400)]
    radius = distances[250]
    hits = gallery.search(smooth_image(3), 5, radius=radius, ranking="asymmetric")
    assert [(hit.key, hit.distance) for hit in hits] == naive_ranking(
        gallery, query, 5, radius=radius
    )
    assert gallery.search(smooth_image(3), radius=0, ranking="asymmetric") == []
    few = gallery.search(smooth_image(3), 400, radius=distances[3], ranking="asymmetric")
    assert {hit.key for hit in few} == {
        hit.key for hit in gallery.search(smooth_image(3), 400, radius=distances[3])
    }


def test_invalid_rankings_are_rejected(gallery):
    with pytest.raises(ValueError, match="requires hash values.*: pass the image, not a key"):
        gallery.search("item 3", ranking="asymmetric")
    with pytest.raises(ValueError, match=r"ranking is 'cosine', expected one of \('hamming', 'asy"):
        gallery.search(smooth_image(3), ranking="cosine")
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        gallery.search(smooth_image(3), 0, ranking="asymmetric")
    with pytest.raises(ValueError, match="radius must be at least 0, got -1"):
        gallery.search(smooth_image(3), radius=-1, ranking="asymmetric")
    gallery.remove(*gallery)
    assert gallery.search(smooth_image(3), ranking="asymmetric") == []
