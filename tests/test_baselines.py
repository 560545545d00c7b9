"""Codes without training, on points with a known answer."""

import numpy as np
import pytest

from attention_hashing.evaluation.metrics import mean_by_code
from attention_hashing.experiments.baselines import class_id, lsh, pca_itq
from bitgaze.hamming import pack


def signs(projection, features):
    weight, threshold = projection
    return np.where(features @ weight - threshold > 0, 1, -1)


def test_lsh_measures_angles_about_the_mean():
    """The share of planes that separate two points is their angle / pi."""
    mean = np.array([100.0, 100.0, 100.0])
    around = np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]], np.float64)
    features = (mean + around).astype(np.float32)
    found = signs(lsh(features, 20_000, 0), features)
    parted = (found[0] != found).mean(1)
    assert parted == pytest.approx([0, 1 / 2, 1, 1 / 2], abs=0.02)
    assert np.array_equal(found, signs(lsh(features, 20_000, 0), features))
    assert not np.array_equal(found, signs(lsh(features, 20_000, 1), features))


def test_pca_itq_finds_a_rotated_square():
    """Corners of a square, rotated and shifted in more dimensions, with noise."""
    generator = np.random.default_rng(0)
    corners = generator.choice([-1.0, 1.0], (2000, 2))
    turn, _ = np.linalg.qr(generator.standard_normal((7, 7)))
    noise = 0.05 * generator.standard_normal((2000, 7))
    features = (corners @ turn[:2] + noise + 5).astype(np.float32)
    weight, threshold = pca_itq(features, 2)
    assert weight.T @ weight == pytest.approx(np.eye(2), abs=1e-5)
    values = features @ weight - threshold
    assert np.abs(np.abs(values) - 1).max() < 0.4
    agree = np.abs(np.where(values > 0, 1, -1).T @ corners) / 2000  # one bit per side
    assert np.sort(agree, 1)[:, -1] == pytest.approx(1)
    assert sorted(agree.argmax(1)) == [0, 1]
    centred = features - features.mean(0)
    _, principal = np.linalg.eigh(centred.T @ centred)
    assert np.abs(np.abs(centred @ principal[:, -2:]) - 1).max() > 0.4  # PCA alone does not


def test_class_id_by_hand():
    scores = np.array([[0, 0, 0, 0, 9], [0, 3, 1, 2, 0], [7, 7, 0, 0, 0]], np.float32)
    # Five classes need three bits: 4 = 100, 1 = 001; of two equal scores the first counts, 0 = 000.
    expected = [[1, -1, -1, -1], [-1, -1, 1, -1], [-1, -1, -1, -1]]
    found = class_id(scores, 4)
    assert found.tolist() == expected
    assert found.dtype == np.float32
    assert class_id(scores, 3).tolist() == [row[:3] for row in expected]
    assert class_id(scores[:, :1], 1).tolist() == [[-1]] * 3  # one class


def test_class_id_of_a_perfect_classifier_is_perfect():
    labels = np.arange(300) % 100
    scores = np.eye(100, dtype=np.float32)[labels]
    codes = pack(class_id(scores, 8))
    order = np.arange(300)
    assert len(np.unique(codes, axis=0)) == 100
    assert mean_by_code(codes, labels, order[:100], order[100:]) == 1


def test_arguments_out_of_range():
    features = np.ones((3, 4), np.float32)
    with pytest.raises(ValueError, match="5 bits, but features have 4 dimensions"):
        pca_itq(features, 5)
    for make in (lambda *given: lsh(*given, seed=0), pca_itq):
        with pytest.raises(ValueError, match="0 bits from 3 features, expected at least 1"):
            make(features, 0)
        with pytest.raises(ValueError, match="2 bits from 0 features"):
            make(features[:0], 2)
    with pytest.raises(ValueError, match="9 classes need 4 bits, got 3"):
        class_id(np.ones((1, 9), np.float32), 3)
