import numpy as np
import pytest
from PIL import Image

from bitgaze.explain import overlay

GREY = Image.new("RGB", (120, 80), (128, 128, 128))


def test_heat_lies_where_the_attention_is():
    attention = np.zeros((4, 4), np.float32)
    attention[0, 3] = 1  # top right
    pixels = np.asarray(overlay(GREY, attention), int)
    assert pixels.shape == (80, 120, 3)
    assert pixels[5, 115, 0] - pixels[5, 115, 2] > 40  # warm
    assert (pixels[75, 5] == 128).all()  # nothing there


def test_strength_grows_with_attention():
    shades = [
        np.asarray(overlay(GREY, np.full((2, 2), strength, np.float32)), int)[40, 60]
        for strength in (0.0, 0.5, 1.0)
    ]
    assert (shades[0] == 128).all()
    change = [np.abs(shade - 128).sum() for shade in shades]
    assert change[0] < change[1] < change[2]


def test_a_picture_is_not_changed_in_place():
    image = GREY.copy()
    overlay(image, np.ones((2, 2), np.float32))
    assert image.tobytes() == GREY.tobytes()


def test_attention_of_a_wrong_shape():
    with pytest.raises(ValueError, match=r"shape \(1, 2, 2\), expected \(h, w\)"):
        overlay(GREY, np.ones((1, 2, 2), np.float32))
