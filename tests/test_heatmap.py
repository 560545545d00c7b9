import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from bitgaze.encoding.heatmap import thumbnail
from bitgaze.encoding.images import Preprocess, load


def swapped_profile():
    """sRGB with red and green exchanged."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = content.index(b"rXYZ"), content.index(b"gXYZ")
    content[red : red + 1], content[green : green + 1] = b"g", b"r"
    return bytes(content)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_thumbnail_honours_the_colour_profile_and_a_code_does_not(mode):
    image = Image.new(mode, (64, 48), "red")
    stream = io.BytesIO()
    image.save(stream, "png", icc_profile=swapped_profile())
    shown = np.asarray(thumbnail(stream.getvalue()))[0, 0]
    assert shown[1] > 200
    assert shown[0] < 100
    assert load(stream.getvalue(), Preprocess(size=8))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("profile", [b"broken", b"\0" * 200])
def test_a_broken_profile_does_not_hide_an_image(profile):
    stream = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(stream, "png", icc_profile=profile)
    assert np.asarray(thumbnail(stream.getvalue()))[0, 0].tolist() == [255, 0, 0]
