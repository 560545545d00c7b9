"""Variants of the attention, and the pointing game."""

import numpy as np
import pytest
import torch

from attention_hashing import heads
from attention_hashing.attention import AttentionBranch
from attention_hashing.experiments import ablations
from attention_hashing.experiments.pointing_game import covered, energy_inside, pointing_game
from attention_hashing.methods import DEFAULT, METHODS

CLASSES, CHANNELS, COUNT = 3, 8, 120


@pytest.fixture(scope="module")
def data():
    """Maps with one channel per class that is high in one cell; all others are noise."""
    random = np.random.default_rng(0)
    labels = np.arange(COUNT) % CLASSES
    maps = random.random((COUNT, CHANNELS, 4, 4))
    inside = np.zeros((COUNT, 4, 4), np.float32)
    for one, label in enumerate(labels):
        y, x = random.integers(4, size=2)
        maps[one, label, y, x] += 6
        inside[one, y, x] = 1
    one_hot = np.eye(CLASSES, dtype=np.float32)[labels]
    return ablations.Data(maps.astype(np.float16), one_hot, np.arange(80), inside)


@pytest.fixture(scope="module")
def branch(data):
    return heads.fit_branch(data.maps[:80], data.one_hot[:80], epochs=30, seed=0)


@pytest.mark.parametrize("variant", ablations.VARIANTS)
def test_every_variant_learns(variant, data, branch):
    method = METHODS[DEFAULT](CLASSES, 16, 0)
    before = {name: value.clone() for name, value in branch.state_dict().items()}
    values = ablations.learner(variant, data, branch, 0)(method, epochs=15, rate=1e-2)
    assert values.shape == (COUNT, 16)
    signs = np.where(values[80:] > 0, 1, -1)
    likeness = signs @ signs.T / 16
    alike = (data.one_hot[80:] @ data.one_hot[80:].T) > 0
    assert likeness[alike].mean() > likeness[~alike].mean() + 0.1
    for name, value in branch.state_dict().items():
        assert torch.equal(value, before[name]), name
    again = ablations.learner(variant, data, branch, 0)(method, epochs=15, rate=1e-2)
    np.testing.assert_array_equal(values, again)


@pytest.mark.parametrize("variant", ["explicit", "implicit"])
def test_the_scale_of_a_channel_does_not_matter(variant, data):
    """The branch has no convolution and ignores the channel, so only features change."""
    torch.manual_seed(0)
    blind = AttentionBranch(CHANNELS, CLASSES, 0).eval()
    blind.classify.weight.data[:, -1] = 0
    larger = data.maps.astype(np.float32)
    larger[:, -1] *= 1000
    values = [
        ablations.learner(variant, data._replace(maps=maps), blind, 0)(
            METHODS[DEFAULT](CLASSES, 16, 0), 1, 1e-9
        )
        for maps in (data.maps.astype(np.float32), larger)
    ]
    if variant == "explicit":  # it uses the given branch
        np.testing.assert_allclose(values[1], values[0], atol=0.05)
    else:  # its new branch sees the channel, but values must still depend on other channels
        assert np.corrcoef(values[0].ravel(), values[1].ravel())[0, 1] > 0.7


@pytest.mark.parametrize("variant", ["joint", "implicit"])
def test_a_branch_without_a_convolution_can_be_trained_along(variant, data):
    bare = heads.fit_branch(data.maps[:80], data.one_hot[:80], epochs=1, seed=0, hidden=0)
    method = METHODS[DEFAULT](CLASSES, 16, 0)
    values = ablations.learner(variant, data, bare, 0)(method, epochs=1, rate=1e-2)
    assert values.shape == (COUNT, 16)


def test_wide_has_at_least_the_parameters_of_explicit(branch):
    bits = 16
    count = sum(one.numel() for one in ablations.Wide(branch, CHANNELS, bits).parameters())
    explicit = sum(one.numel() for one in branch.parameters()) + 2 * CHANNELS * bits + 2 * bits
    assert explicit <= count < explicit + 9 * CHANNELS + 2 + bits


def test_no_image_keeps_its_attention_when_shuffled(data, branch):
    own = ablations.attention_of(data.maps, branch)
    features = ablations.FEATURES["shuffled"](data, branch, 0)
    explicit = ablations.FEATURES["explicit"](data, branch, 0)
    assert own.shape == (COUNT, 4, 4)
    assert (np.abs(features - explicit)[:, CHANNELS:].max(1) > 0).all()
    np.testing.assert_array_equal(features[:, :CHANNELS], explicit[:, :CHANNELS])


def test_a_perfect_map_sees_the_objects_alone(data, branch):
    found = ablations.FEATURES["boxes"](data, branch, 0)[:, CHANNELS:]
    one, y, x = np.nonzero(data.inside)  # the only cell of each image
    np.testing.assert_allclose(found, data.maps[one, :, y, x], rtol=1e-3)


def test_simam_against_its_formula(data, branch):
    found = ablations.FEATURES["simam"](data, branch, 0)[0, CHANNELS:]
    for channel in range(CHANNELS):
        x = data.maps[0, channel].astype(np.float64)
        square = (x - x.mean()) ** 2
        weight = 1 / (1 + np.exp(-(square / (4 * (x.var(ddof=1) + 1e-4)) + 0.5)))
        assert found[channel] == pytest.approx((weight * x).sum() / weight.sum(), abs=1e-4)


BOX = np.array([[0.5, 0.0, 1.0, 0.25]], np.float32)


def test_pointing():
    maps = np.zeros((3, 4, 4))
    maps[0, 0, 2] = maps[0, 0, 3] = 1  # in the box
    maps[1, 0, 3], maps[1, 3, 0] = 1, 3  # a quarter is in the box, the peak is outside
    assert pointing_game(maps[:2], [BOX, BOX]) == 0.5
    everywhere = np.array([[0, 0, 1, 1]], np.float32)
    assert pointing_game(maps, [everywhere] * 3) == pytest.approx(2 / 3)  # the last map is all 0
    assert energy_inside(maps, [BOX] * 3) == pytest.approx((1 + 0.25 + 0) / 3)
    two = np.concatenate([BOX, [[0.0, 0.75, 0.25, 1.0]]]).astype(np.float32)
    assert pointing_game(maps[1:2], [two]) == 1


def test_pointing_with_a_tolerance():
    maps = np.zeros((1, 4, 4))
    maps[0, 2, 0] = 1  # at (0.125, 0.625): 0.375 left of the box and 0.375 below it
    corner = np.hypot(0.375, 0.375)
    assert pointing_game(maps, [BOX], corner + 1e-6) == 1
    assert pointing_game(maps, [BOX], corner - 1e-6) == 0
    near = covered(BOX, (4, 4), tolerance=0.25)
    assert near[0, 1] == near[1, 2] == 1  # next to it and below it
    assert 0.7 < near[1, 1] < 0.85  # a quarter of a disc: pi / 4
    assert not near[2:].any()
    assert not near[:, 0].any()


def test_a_cell_counts_by_the_area_that_boxes_cover():
    half = np.array([[0.0, 0.0, 0.125, 1.0], [0.0625, 0.0, 0.125, 1.0]], np.float32)
    share = covered(half, (4, 4))
    np.testing.assert_allclose(share[:, 0], 0.5)
    np.testing.assert_allclose(share[:, 1:], 0)
