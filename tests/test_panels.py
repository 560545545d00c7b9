"""Panels: parts of an image that may be images of their own, and searches for them."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from bitgaze import Gallery
from bitgaze.encoding.panels import MOST_PANELS, find_panels
from bitgaze.encoding.registration import reduced
from conftest import smooth_image


@pytest.fixture(scope="module")
def photographs(examples):
    """Six images of different things, 400 x 300 px."""
    return [
        ImageOps.fit(Image.open(path).convert("RGB"), (400, 300))
        for path in sorted(examples.rglob("*.jpg"))[::50][:6]
    ]


def collage(images, columns):
    width, height = images[0].size
    canvas = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        canvas.paste(image, (column * width, row * height))
    return canvas


def screenshot(image):
    screen = Image.new("RGB", (450, 900), "black")
    ImageDraw.Draw(screen).rectangle((0, 0, 450, 60), (40, 40, 40))
    screen.paste(image, (25, 250))
    return screen


def overlap(one, other):
    """Intersection over union of two boxes."""
    sides = [min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1)]
    both = max(sides[0], 0) * max(sides[1], 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def found(image, box):
    """The best overlap of a panel of the image with a box."""
    return max((overlap(panel, box) for panel in find_panels(reduced(image))), default=0)


def test_a_photograph_on_a_screen_is_found_to_the_pixel(photographs):
    box = (25 / 450, 250 / 900, 425 / 450, 550 / 900)
    assert min(found(screenshot(image), box) for image in photographs) > 0.95


def test_images_side_by_side_are_found(photographs):
    pairs = list(pairwise(photographs))
    beside = [found(collage(pair, 2), (0, 0, 0.5, 1)) for pair in pairs]
    above = [found(collage(pair, 1), (0, 0.5, 1, 1)) for pair in pairs]
    assert np.mean([share > 0.9 for share in beside + above]) >= 0.8


def test_a_collage_of_four_is_split_twice(photographs):
    image = collage(photographs[:4], 2)
    corners = [(x, y, x + 0.5, y + 0.5) for x in (0, 0.5) for y in (0, 0.5)]
    assert sum(found(image, corner) > 0.95 for corner in corners) >= 3


def test_panels_are_boxes_by_size_and_few(photographs):
    for image in [*photographs, collage(photographs, 3), screenshot(photographs[0])]:
        panels = find_panels(reduced(image))
        assert len(panels) <= MOST_PANELS
        sizes = [(right - left) * (bottom - top) for left, top, right, bottom in panels]
        assert sizes == sorted(sizes, reverse=True)
        assert all(0.1 <= size <= 0.92 for size in sizes)
        assert all(0 <= box[i] < box[i + 2] <= 1 for box in panels for i in (0, 1))
        assert find_panels(reduced(image)) == panels


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (31, 31), (40, 400)])
def test_small_and_plain_images_have_none(size):
    assert find_panels(Image.new("L", size, 200)) == []
    noise = np.random.default_rng(0).integers(0, 256, size[::-1], np.uint8)
    assert find_panels(Image.fromarray(noise)) == []


@pytest.fixture(scope="module")
def gallery(photographs, tmp_path_factory, examples):
    folder = tmp_path_factory.mktemp("panels")
    for number, image in enumerate(photographs):
        image.save(folder / f"{number}.png")
    for path in sorted(examples.rglob("*.jpg"))[7::30]:
        (folder / path.name).write_bytes(path.read_bytes())
    with Gallery(folder / "g.bitgaze") as made:
        made.sync(folder)
        yield made


def names(hits):
    return [hit.key.rpartition("/")[2] for hit in hits if hit.is_copy]


def test_a_screenshot_finds_the_image_it_shows(gallery, photographs):
    for number, image in enumerate(photographs):
        first, *others = gallery.search(screenshot(image), k=3)
        assert names([first]) == [f"{number}.png"]
        assert overlap(first.query_box, (25 / 450, 250 / 900, 425 / 450, 550 / 900)) > 0.9
        assert len(others) == 2
        assert first.key not in [hit.key for hit in others]


def test_a_collage_finds_both_of_its_images(gallery, photographs):
    both = [
        set(names(gallery.search(collage(pair, 2), k=5))) == {f"{n}.png", f"{n + 1}.png"}
        for n, pair in enumerate(pairwise(photographs))
    ]
    assert sum(both) >= 4


def test_a_query_that_is_encoded_finds_them_too(gallery, photographs):
    query = gallery.query(screenshot(photographs[0]))
    assert names(gallery.search(query, k=2)) == ["0.png"]
    assert names(gallery.search(query, k=2, where={"@key": {"!=": "x"}})) == ["0.png"]
    assert names(gallery.search(query, k=2, radius=0)) == []


def test_panels_obey_conditions_and_the_number_of_hits(gallery, photographs):
    image = collage(photographs[:2], 2)
    key = gallery.search(photographs[0], k=1)[0].key
    assert "0.png" not in names(gallery.search(image, k=5, where={"@key": {"!=": key}}))
    assert len(gallery.search(image, k=1)) == 1


def test_images_without_a_copy_find_none(gallery, examples):
    used = {hit.key.rpartition("/")[2] for hit in gallery.search(smooth_image(1), k=100)}
    others = [path for path in sorted(examples.rglob("*.jpg"))[3::25] if path.name not in used]
    for path in others:
        assert names(gallery.search(collage([Image.open(path).convert("RGB")], 1), k=3)) == []


def test_a_region_is_compared_as_an_image_of_its_own(gallery, photographs):
    box = (25 / 450, 250 / 900, 425 / 450, 550 / 900)
    hits = gallery.search(screenshot(photographs[1]), k=2, region=box)
    assert names(hits) == ["1.png"]
    assert names(gallery.search(photographs[1], k=2, region=(0.4, 0.4, 0.6, 0.6))) == []
