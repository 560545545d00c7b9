"""An image inside another one: on a screen, in a border."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from bitgaze.encoding.frames import inside_frame
from bitgaze.encoding.structure import structural_code
from bitgaze.gallery.distances import code_distances
from bitgaze.gallery.query import code_inside
from conftest import smooth_image


def on_screen(image, clock=True):
    """A photograph on a telephone's screen, with a clock and a symbol below."""
    screen = Image.new("RGB", (300, 600), (10, 10, 10))
    shown = ImageOps.contain(image, (300, 400))
    screen.paste(shown, ((300 - shown.width) // 2, 100 + (400 - shown.height) // 2))
    if clock:
        draw = ImageDraw.Draw(screen)
        draw.text((20, 10), "12:34", "white")
        draw.rectangle((140, 570, 160, 590), "white")
    return screen


def pixels(box, size):
    return np.rint(np.array(box) * (size * 2)).astype(int).tolist()


@pytest.mark.parametrize("clock", [True, False])
@pytest.mark.parametrize("size", [(300, 200), (120, 400), (300, 390)])
def test_a_photograph_on_a_screen_is_found(size, clock):
    screen = on_screen(smooth_image(1, size), clock)
    width, height = ImageOps.contain(Image.new("L", size), (300, 400)).size
    left, top = (300 - width) // 2, 100 + (400 - height) // 2
    box = pixels(inside_frame(screen), screen.size)
    assert np.abs(np.array(box) - [left, top, left + width, top + height]).max() <= 1


def test_a_border_is_a_frame_and_plain_rows_of_the_image_are_not():
    image = smooth_image(2, (200, 150))
    ImageDraw.Draw(image).rectangle((0, 0, 200, 30), "white")  # a sky
    ImageDraw.Draw(image).rectangle((0, 70, 200, 80), "white")
    framed = ImageOps.expand(image, 20, "black")
    assert pixels(inside_frame(framed), framed.size) == [20, 20, 220, 170]


@pytest.mark.parametrize(
    "image",
    [
        smooth_image(3, (200, 150)),  # no frame
        Image.new("RGB", (200, 150), "white"),  # nothing inside
        ImageOps.expand(smooth_image(4, (30, 30)), 200, "white"),  # hardly anything
        ImageOps.expand(smooth_image(5, (200, 150)), 1, "white"),  # a hair
        Image.new("L", (1, 1)),
    ],
)
def test_other_images_have_no_frame(image):
    assert inside_frame(image) is None
    assert code_inside(image.convert("RGB")) is None


def test_what_is_inside_has_the_structure_of_the_original(examples):
    image = Image.open(examples / "birds" / "owl.jpg").convert("RGB")
    code = code_inside(on_screen(image))
    assert code_distances(code, structural_code(image)) <= 8
    assert code_distances(structural_code(on_screen(image)), structural_code(image)) > 60
