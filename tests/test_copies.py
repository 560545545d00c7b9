"""Generated look-alikes, altered copies, and what both codes say of them."""

import numpy as np
import pytest
from PIL import Image

from attention_hashing.data.screens import KINDS, screens
from attention_hashing.experiments.copies import (
    COPIES,
    Coded,
    altered,
    chances,
    copies,
    distances,
    joined,
    owners,
)
from attention_hashing.experiments.likeness import reliability, searches
from bitgaze.encoding.registration import reduced
from bitgaze.encoding.structure import turned_codes


def structural_only(images):
    """Both codes, of which the semantic one is the same for all: the hardest case."""
    structural = np.stack([turned_codes(image) for image in images])
    small = tuple(reduced(image) for image in images)
    return Coded(np.zeros((len(images), 16), np.uint8), structural, small)


@pytest.mark.parametrize("kind", KINDS)
def test_screens_differ_and_are_made_again_from_their_seed(kind):
    made, again, others = screens(kind, 4), screens(kind, 4), screens(kind, 4, seed=1)
    assert [image.tobytes() for image in made] == [image.tobytes() for image in again]
    assert len({image.tobytes() for image in [*made, *others]}) == 8
    assert all(image.mode == "RGB" and min(image.size) >= 300 for image in made)


@pytest.mark.parametrize("kind", KINDS)
def test_different_screens_are_not_called_the_same_image(kind):
    gallery = structural_only(screens(kind, 12))
    said = chances(gallery, gallery, exclude_own=True)
    if kind in ("skies", "drawn gradients", "plain colours"):
        assert np.isnan(said).all()
    else:
        assert np.isnan(said).sum() == 12
        assert np.nanmax(said) < 0.9


def test_copies_leave_the_image_unchanged_and_settled_ones_are_found():
    image, other = screens("bar charts", 2)
    before = image.tobytes()
    made = copies(image, other, seed=3)
    assert image.tobytes() == before
    assert tuple(made) == COPIES
    assert all(version.mode == "RGB" for version in made.values())
    names = ["exact", "messenger", "JPEG 30", "half size", "grey", "filtered", "blur 2"]
    versions = structural_only([made[name] for name in names])
    said = chances(versions, structural_only([image, other]))
    assert (said[:, 0] > 0.99).all()
    assert (said[:, 1] < 0.1).all()
    turned = structural_only([made["turned 90 degrees"], made["mirrored"]]).structural
    to_image = distances(turned, structural_only([image]).structural[:, :1])
    assert (to_image.min(1) <= 8).all()
    parts = [name for name in COPIES if name.startswith(("crop", "border", "mirrored"))]
    found = chances(
        structural_only([made[name] for name in parts]), structural_only([image, other])
    )
    assert (found[:, 0] > 0.9).all()
    assert (found[:, 1] < 0.1).all()


def test_distances_count_bits():
    codes = np.array([[0, 255], [1, 255]], np.uint8)
    np.testing.assert_array_equal(distances(codes, codes[0]), [0, 1])
    image = Image.new("RGB", (64, 64))
    assert not structural_only([image]).structural.any()


def test_copies_know_their_owners(encoder):
    images = screens("bar charts", 2)
    found = altered(images, encoder)
    assert owners(2)[:, 0].tolist() == [0] * 19 + [1] * 19
    others = {(COPIES[row % 19], other - own) for row, (own, other) in enumerate(owners(3)[19:])}
    assert {name for name, step in others if step} == {"collage"}
    assert len(found.semantic) == 38
    exact = [0, 19]
    np.testing.assert_array_equal(found.structural[exact], structural_only(images).structural)
    assert len(joined([found, found]).structural) == 76


def test_searches_with_and_without_the_original():
    rng = np.random.default_rng(0)
    structural = np.packbits(rng.permuted(np.tile([1, 0], (30, 128)), axis=1), axis=1)[:, None]
    gallery = Coded(rng.integers(0, 256, (30, 16), np.uint8), structural)
    queries = Coded(gallery.semantic[[3, 7]], gallery.structural[[3, 7]])
    queries.structural[1] = 0  # left out
    own = np.array([[3, 3], [7, 7]])
    for items, rates in ((None, ()), (1_000_000, np.linspace(0, 1, 129))):
        chance, truth = searches(queries, own, gallery, items, rates, with_original=True)
        assert (chance.tolist(), truth.tolist()) == ([pytest.approx(1, abs=1e-3)], [True])
    chance, truth = searches(queries, own, gallery, with_original=False)
    assert (chance[0] < 0.1, truth.tolist()) == (True, [False])


def test_reliability_counts_tenths():
    chance = np.array([0.2, 0.55, 0.59, 0.95, 1.0])
    truth = np.array([True, True, False, True, True])
    rows = reliability(chance, truth)
    assert [(edge, number) for edge, number, _, _ in rows] == [(0.5, 2), (0.9, 2)]
    assert rows[0][2:] == pytest.approx((0.57, 0.5))
    assert rows[1][2:] == pytest.approx((0.975, 1))
