"""Scenes of scattered objects: correct boxes, reproducible from the seed."""

import numpy as np
import pytest
import torch
from PIL import Image

from attention_hashing.data import labelled, protocols
from attention_hashing.data.backgrounds import cropped, prepared, textured
from attention_hashing.data.scattered import Scattered
from attention_hashing.experiments import scattered_parts
from bitgaze import ImageError
from bitgaze.encoding.images import Preprocess
from conftest import smooth_image

CLASSES = ("red", "green", "blue", "white")
COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)], np.uint8)
LABELS = np.arange(12) % 4
OBJECTS = np.broadcast_to(COLOURS[LABELS][:, None, None], (12, 32, 32, 3))
BLACK = [np.zeros((200, 150, 3), np.uint8)]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_box_is_where_its_object_is():
    scenes = Scattered(OBJECTS, LABELS, CLASSES, BLACK, 60, seed=1)
    counts = set()
    for number in range(len(scenes)):
        image, labels, boxes, classes = scenes.scene(number)
        assert (image.dtype, image.shape) == (np.uint8, (128, 128, 3))
        assert (labels.dtype, boxes.dtype, classes.dtype) == (np.float32, np.float32, np.int64)
        assert len(set(classes)) == len(classes) == len(boxes)
        assert np.flatnonzero(labels).tolist() == sorted(classes)
        assert boxes.min() >= 0
        assert boxes.max() <= 1
        counts.add(len(classes))
        pure = [(image == COLOURS[label]).all(2) for label in classes]
        for box, seen in zip(boxes, pure, strict=True):
            left, top, right, bottom = (128 * box).astype(int)
            side = right - left
            assert side == bottom - top
            assert round(0.3 * 128) <= side <= round(0.5 * 128)
            rows, columns = np.nonzero(seen)
            assert left <= columns.min() <= columns.max() < right
            assert top <= rows.min() <= rows.max() < bottom
        # The last object is on top: opaque except for its border, which fades to 0 at the edge.
        left, top, right, bottom = (128 * boxes[-1]).astype(int)
        fade = int(np.ceil(0.1 * (right - left)))
        assert pure[-1][top + fade : bottom - fade, left + fade : right - fade].all()
        outside = np.ones((128, 128), bool)
        for box in (128 * boxes).astype(int):
            outside[box[1] : box[3], box[0] : box[2]] = False
        assert not image[outside].any()
        if len(boxes) == 1:
            assert image[top, left:right].max() < 50
    assert counts == {1, 2, 3}


def test_objects_overlap_little():
    scenes = Scattered(OBJECTS, LABELS, CLASSES, BLACK, 200, seed=2)
    overlaps = []
    for number in range(len(scenes)):
        boxes = scenes.scene(number).boxes.astype(float)
        for i in range(len(boxes)):
            for j in range(i):
                start = np.maximum(boxes[i, :2], boxes[j, :2])
                end = np.minimum(boxes[i, 2:], boxes[j, 2:])
                areas = [np.prod(box[2:] - box[:2]) for box in (boxes[i], boxes[j])]
                overlaps.append(np.prod(np.maximum(end - start, 0)) / min(areas))
    assert 0.1 < max(overlaps) <= 0.25 + 1e-9


@pytest.mark.parametrize("backgrounds", [None, "arrays"])
def test_a_scene_depends_on_seed_and_number_alone(backgrounds):
    if backgrounds:
        backgrounds = [np.asarray(smooth_image(seed, (150, 220))) for seed in range(3)]
    make = lambda seed: Scattered(OBJECTS, LABELS, CLASSES, backgrounds, 20, seed)  # noqa: E731
    scenes, again, other = make(1), make(1), make(2)
    backwards = {number: again.scene(number) for number in reversed(range(20))}
    for number in range(20):
        assert same(scenes.scene(number), backwards[number])
        assert not same(scenes.scene(number), other.scene(number))
        assert scenes.labels[number].tolist() == (backwards[number].labels > 0).tolist()
        assert np.array_equal(scenes.boxes[number], backwards[number].boxes)
    assert scenes.digest() == again.digest() != other.digest()


def test_training_sees_new_scenes_in_each_epoch():
    scenes = Scattered(OBJECTS, LABELS, CLASSES, None, 6, seed=0)
    plain, first, again, second = (
        scenes.views(Preprocess(64), epoch_seed) for epoch_seed in (None, 0, 0, 1)
    )
    assert len(first) == 6
    for number in range(6):
        image, one_hot = first[number]
        assert (image.dtype, image.shape) == (torch.uint8, (64, 64, 3))
        assert (one_hot.dtype, one_hot.shape) == (torch.float32, (4,))
        assert torch.equal(image, again[number][0])
        assert torch.equal(one_hot, again[number][1])
        assert not torch.equal(image, second[number][0])
        assert not torch.equal(image, plain[number][0])
    whole = scenes.views(Preprocess(128), None)[3]
    assert np.array_equal(whole[0], scenes.scene(3).image)
    assert np.array_equal(whole[1], scenes.scene(3).labels)
    batches = list(torch.utils.data.DataLoader(first, 4))
    assert [tuple(one_hot.shape) for _, one_hot in batches] == [(4, 4), (2, 4)]


def test_objects_are_flipped_half_the_time():
    halves = np.zeros((12, 32, 32, 3), np.uint8)
    halves[:, :, 16:] = 255
    scenes = Scattered(halves, LABELS, CLASSES, BLACK, 60, seed=0)
    bright = []
    for number in range(60):
        scene = scenes.scene(number)
        left, top, right, bottom = (128 * scene.boxes[-1]).astype(int)
        bright.append(scene.image[(top + bottom) // 2, left + (right - left) // 4].max() > 127)
    assert 10 < sum(bright) < 50


def test_backgrounds():
    """Photographs are cropped and mirrored, never stretched."""
    texture = textured(128, np.random.default_rng(0))
    assert (texture.dtype, texture.shape) == (np.uint8, (128, 128, 3))
    assert texture.std() > 20
    background = prepared(np.asarray(smooth_image(1, (100, 300))))
    assert background.shape == (576, 192, 3)
    slope = np.zeros((192, 300, 3), np.uint8)
    slope[:] = np.linspace(0, 255, 300)[:, None]
    seen = [cropped([prepared(slope)], 128, np.random.default_rng(seed)) for seed in range(20)]
    assert {part.shape for part in seen} == {(128, 128, 3)}
    rises = [np.sign(int(part[64, 100, 0]) - int(part[64, 20, 0])) for part in seen]
    assert set(rises) == {-1, 1}
    # Between half and all of 192 of 300 px.
    spans = [np.ptp(part[64, :, 0].astype(int)) for part in seen]
    assert min(spans) >= 70
    assert max(spans) <= 170


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": OBJECTS[:5]}, r"objects are uint8 \(5, 32, 32, 3\), expected uint8 \(12, 32"),
        ({"images": OBJECTS.astype(float)}, "objects are float64"),
        ({"labels": LABELS + 1}, r"labels are int64 \(12,\), expected 0\.\.3 each"),
        ({"labels": np.ones((12, 4), bool)}, r"labels are bool \(12, 4\), expected"),
        ({"labels": LABELS % 2}, "objects of 2 classes, expected at least 3"),
        ({"backgrounds": []}, "no backgrounds; pass None for textures"),
        ({"count": 0}, "count is 0, expected at least 1"),
        ({"seed": -1}, r"seed is -1, expected 0\.\.4294967295"),
    ],
)
def test_invalid_arguments(changes, message):
    good = {"images": OBJECTS, "labels": LABELS, "backgrounds": BLACK, "count": 3, "seed": 0}
    with pytest.raises(ValueError, match=message):
        Scattered(classes=CLASSES, **good | changes)


def test_a_missing_scene_and_a_missing_background(tmp_path):
    scenes = Scattered(OBJECTS, LABELS, CLASSES, BLACK, 3, 0)
    for number in (-1, 3):
        with pytest.raises(IndexError, match=rf"scene {number}, expected 0\.\.2"):
            scenes.scene(number)
    (tmp_path / "broken.jpg").write_text("text")
    with pytest.raises(ImageError, match="broken.jpg"):
        Scattered(OBJECTS, LABELS, CLASSES, [tmp_path / "broken.jpg"], 3, 0)


def numbered_objects(count):
    """Images of different colours."""
    values = np.zeros((count, 32, 32, 3), np.uint8)
    values[..., 0] = 100 + np.arange(count)[:, None, None]
    return values


def protocol(queries, training, database, count=60):
    data = labelled.Labelled(numbered_objects(count), np.arange(count) % 4, CLASSES)
    return protocols.Protocol("cifar10", 0, data, *map(np.array, (queries, training, database)))


def test_parts_share_neither_objects_nor_backgrounds():
    positions = (np.arange(0, 20), np.arange(20, 40), np.arange(40, 60))
    backgrounds = [np.full((192, 192, 3), shade, np.uint8) for shade in range(10)]
    made = scattered_parts.parts(protocol(*positions), backgrounds, (30, 40, 50, 60), seed=5)
    assert list(map(len, made)) == [30, 40, 50, 60]
    shades, objects = [], []
    for scenes, some in zip(made, (*positions, positions[2]), strict=True):
        assert scenes.classes == CLASSES
        shades.append(set())
        objects.append(set())
        for number in range(len(scenes)):
            scene = scenes.scene(number)
            left, top, right, bottom = (128 * scene.boxes[-1]).astype(int)
            found = int(scene.image[(top + bottom) // 2, (left + right) // 2, 0]) - 100
            assert found in some
            objects[-1].add(found)
            assert scene.classes[-1] == found % 4
            outside = scene.image[..., 2].max()
            shades[-1].add(int(outside))
    assert list(map(len, shades)) == [2, 6, 1, 1]
    assert set.union(*shades) == set(range(10))
    assert not objects[2] & objects[3]
    assert len(objects[3]) <= 4 < len(objects[2])
    textures = scattered_parts.parts(protocol(*positions), None, (30, 30, 30, 30), seed=5)
    layouts = {scenes.scene(0).boxes.tobytes() for scenes in textures}
    assert len(layouts) == 4


def test_impossible_parts():
    shared = protocol(range(20), range(20, 40), range(20, 60))
    with pytest.raises(ValueError, match="the parts of cifar10 share images"):
        scattered_parts.parts(shared, None, (1, 1, 1, 1), 0)
    apart = protocol(range(20), range(20, 40), range(40, 60))
    with pytest.raises(ValueError, match="9 backgrounds, expected at least 10"):
        scattered_parts.parts(apart, BLACK * 9, (1, 1, 1, 1), 0)
    with pytest.raises(ValueError, match=r"seed is 1073741824, expected 0\.\.1073741823"):
        scattered_parts.parts(apart, None, (1, 1, 1, 1), 2**30)


def test_objects_in_files(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, values in zip(paths, numbered_objects(3), strict=True):
        Image.fromarray(values).save(path)
    data = labelled.Labelled(paths, np.arange(3), CLASSES)
    assert np.array_equal(scattered_parts.pixels(data), numbered_objects(3))
    smooth_image(0, (40, 32)).save(paths[1])
    with pytest.raises(ValueError, match="1.png: 40 x 32 px, expected 32 x 32"):
        scattered_parts.pixels(data)


def test_codes_of_scenes():
    from attention_hashing import training
    from attention_hashing.evaluation.neighbours import codes, neighbour_precision

    config = training.Config(bits=8, size=32, batch_size=4, hidden=8)
    network = training.new_network(config, 4).eval()
    scenes = Scattered(OBJECTS, LABELS, CLASSES, None, 6, seed=0)
    assert codes(network, config, scenes).shape == (6, 1)
    assert 0 < neighbour_precision(network, config, scenes, scenes, k=1) <= 1
