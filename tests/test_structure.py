"""Structural codes: PDQ's of 64 x 64 pixels, and how they bear decoding, altering and turning."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from attention_hashing.data.alterations import altered
from bitgaze.encoding.images import upright
from bitgaze.encoding.structure import STRUCTURE_BITS, structural_code, turned_codes
from conftest import ROOT

X, Y = np.meshgrid(np.arange(64), np.arange(64))
# By the package pdqhash 0.2.8 (`pdqhash.compute`, packed).
REFERENCE = {
    "disc": "9a66966979a659661a669e6969a6696679678796a586a5a61e1a1e1e1e16e169",
    "blocks": "5e1bed90be04166fe991027fa0ede1f429954a5328f7cdb80a5e027e526a6727",
    "waves": "2a4faab0556ffd58aaa7576c5553aaa7caa8555362348aab75565555aaab2202",
}
# Transpositions by EXIF orientation, 2 to 8.
TURNS = [
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
]


def generated(name):
    """An image of 64 x 64 pixels, computed in integers."""
    grey = {
        "disc": ((Y - 20) ** 2 + (X - 30) ** 2 < 300) * 200 + X // 8 * 5,
        "blocks": ((X // 7 + 3) * (Y // 5 + 2) * 37 + X // 7 * (Y // 5) ** 2) % 251,
        "waves": (X * X + 3 * Y * Y + X * Y) // 40 % 256,
    }[name]
    return Image.fromarray(np.stack([grey, grey // 2, grey // 3], -1).astype(np.uint8))


def photographs():
    paths = sorted((ROOT / "examples" / "pictures").rglob("*.jpg"))[::30]
    assert len(paths) > 5
    return [upright(path, 10_000) for path in paths]


def distance(one, other):
    return int(np.unpackbits(one ^ other).sum())


def recompressed(image, **options):
    stream = io.BytesIO()
    image.save(stream, "jpeg", **options)
    return stream.getvalue()


@pytest.mark.parametrize("name", REFERENCE)
def test_a_code_of_64_by_64_pixels_is_pdqs(name):
    code = structural_code(generated(name))
    assert code.tobytes().hex() == REFERENCE[name]
    assert (code.dtype, code.shape) == (np.uint8, (STRUCTURE_BITS // 8,))


def test_codes_agree_with_the_package_pdqhash():
    pdqhash = pytest.importorskip("pdqhash")
    for image in photographs():
        small = image.resize((64, 64), Image.Resampling.BILINEAR, reducing_gap=2.0)
        bits, _ = pdqhash.compute(np.asarray(small))
        assert distance(structural_code(image), np.packbits(bits)) == 0


@pytest.mark.parametrize("name", REFERENCE)
def test_turned_codes_are_the_codes_of_turned_images(name):
    image = generated(name)
    codes = turned_codes(image)
    assert (codes.dtype, codes.shape) == (np.uint8, (8, STRUCTURE_BITS // 8))
    turned = [image, *map(image.transpose, TURNS)]
    np.testing.assert_array_equal(codes, [structural_code(one) for one in turned])
    assert len({code.tobytes() for code in codes}) == 8


def test_photographs_differ_and_altered_ones_do_not():
    images = photographs()
    codes = [structural_code(image) for image in images]
    for i, image in enumerate(images):
        assert all(distance(codes[i], other) > 75 for other in codes[i + 1 :])
        versions = altered(image)
        for name in ("resized", "jpeg", "grey", "blurred"):
            assert distance(codes[i], structural_code(versions[name])) <= 31, name
        # What is brighter than white is lost.
        assert distance(codes[i], structural_code(versions["brighter"])) <= 40


def test_a_code_hardly_depends_on_the_scale_of_decoding():
    for image in photographs():
        content = recompressed(image.resize((2000, 1500)), quality=90)
        whole, drafted = upright(content, 1500), upright(content, 224)
        assert drafted.width < whole.width
        assert distance(structural_code(whole), structural_code(drafted)) <= 6


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 5), (64, 64), (640, 480)])
def test_a_plain_image_has_no_structure(size):
    for colour in ("black", "white", "teal"):
        assert not structural_code(Image.new("RGB", size, colour)).any()


def test_skies_and_gradients_have_no_structure_and_a_blurred_photograph_has():
    rows = np.linspace(0, 255, 300)[:, None, None]
    noise = np.random.default_rng(0).normal(0, 2, (300, 400, 3))
    for pixels in (rows + 0 * noise, 0.5 * rows + 60 + noise):
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        assert not turned_codes(image).any()
    for image in photographs():
        blurred = image.filter(ImageFilter.GaussianBlur(max(image.size) / 100))
        assert np.unpackbits(structural_code(blurred)).sum() == STRUCTURE_BITS // 2


def test_only_rgb_is_taken():
    with pytest.raises(ValueError, match="mode L, expected RGB"):
        structural_code(Image.new("L", (64, 64)))
