"""Generated look-alikes, altered copies, and what both codes say of them."""

import numpy as np
import pytest
from PIL import Image

from attention_hashing.data.screens import KINDS, screens
from attention_hashing.experiments.copies import Coded, chances, copies, distances
from bitgaze.encoding.structure import turned_codes


def structural_only(images):
    """Both codes, of which the semantic one is the same for all: the hardest case."""
    structural = np.stack([turned_codes(image) for image in images])
    return Coded(np.zeros((len(images), 16), np.uint8), structural)


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
    assert len(made) == 19
    assert all(version.mode == "RGB" for version in made.values())
    names = ["exact", "messenger", "JPEG 30", "half size", "grey", "filtered", "blur 2"]
    versions = structural_only([made[name] for name in names])
    said = chances(versions, structural_only([image, other]))
    assert (said[:, 0] > 0.99).all()
    assert (said[:, 1] < 0.1).all()
    turned = structural_only([made["turned 90 degrees"], made["mirrored"]]).structural
    to_image = distances(turned, structural_only([image]).structural[:, :1])
    assert (to_image.min(1) <= 8).all()


def test_distances_count_bits():
    codes = np.array([[0, 255], [1, 255]], np.uint8)
    np.testing.assert_array_equal(distances(codes, codes[0]), [0, 1])
    image = Image.new("RGB", (64, 64))
    assert not structural_only([image]).structural.any()
