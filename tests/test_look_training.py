"""Looks in training: where they are, their labels, and how images are compared by them."""

import numpy as np
import pytest
import torch
from PIL import Image

from attention_hashing.attention import AttentionBranch
from attention_hashing.data.annotations import Boxes
from attention_hashing.experiments import look_training as looks
from attention_hashing.looking import RULE, Evidence, Place, explicit, labels_of_looks
from attention_hashing.looking import evidence as evidence_of
from attention_hashing.network import HashLayer


def evidence(*peaks):
    """Class maps of one image, one per peak (row, column, height) of 8 x 8 cells."""
    maps = np.full((1, len(peaks), 8, 8), -1.0, np.float32)
    for number, (row, column, height) in enumerate(peaks):
        maps[0, number, row : row + 2, column : column + 2] = height
    return maps


def nowhere(images):
    return np.zeros((images, 8, 8), np.float32)


def nothing_known(images, classes):
    return np.zeros((images, classes), np.float32), np.zeros(0, np.intp)


def test_a_likely_class_is_looked_at_where_its_map_is_high():
    maps = evidence((0, 0, 40.0), (4, 6, 50.0), (2, 2, -1.0))
    seen = Evidence(maps, np.float32([[0.4, 0.9, 0.1]]), nowhere(1))
    (found,) = explicit(seen, *nothing_known(1, 3))
    assert [one.label for one in found] == [1, 0]
    left, top, right, bottom = found[0].box
    assert left <= 6 / 8
    assert right == 1
    assert top <= 4 / 8
    assert 6 / 8 <= bottom < 1
    assert found[1].box[:2] == (0, 0)


def test_known_labels_are_looked_for_however_unlikely():
    maps = evidence((0, 0, 40.0), (4, 6, 0.5), (2, 2, -1.0))
    seen = Evidence(maps, np.float32([[0.9, 0.01, 0.01]]), nowhere(1))
    (found,) = explicit(seen, np.array([[0, 1, 0]], np.float32), np.array([0]))
    assert [one.label for one in found] == [1]
    assert found[0].box[2] == 1


def test_the_attention_fills_the_places_that_labels_leave():
    attention = nowhere(1)
    attention[0, 7, 1] = 1
    seen = Evidence(evidence((0, 6, 40.0)), np.float32([[0.9]]), attention)
    (found,) = explicit(seen, *nothing_known(1, 1))
    assert [one.label for one in found[:2]] == [0, -1]
    assert found[1].box == (0, 1 - RULE.side, RULE.side, 1)
    assert len(found) == RULE.most


def test_looks_are_learned_under_their_own_label_and_those_seen_in_them():
    row = np.array([True, False, True])
    seen = np.zeros((4, 3), np.float32)
    seen[2] = 0.9
    seen[3, 0] = 0.9
    found = labels_of_looks([0, -1, 2, -1], row, seen)
    assert found.astype(int).tolist() == [[1, 0, 0], [1, 0, 1], [1, 0, 1], [1, 0, 0]]
    assert labels_of_looks([], row, seen[:0]).shape == (0, 3)
    assert labels_of_looks([1], row, seen[:1]).tolist() == [[False, True, False]]


def test_looks_anywhere_keep_number_and_size():
    like = [[Place((0.0, 0.25, 0.5, 1.0), 3)], [], [Place((0.0, 0.0, 1.0, 1.0), 0)]]
    found = looks.scattered(like, 0)
    assert [len(some) for some in found] == [1, 0, 1]
    left, top, right, bottom = found[0][0].box
    assert right - left == pytest.approx(0.5)
    assert bottom - top == pytest.approx(0.75)
    assert min(left, top) >= 0
    assert max(right, bottom) <= 1
    assert found[0][0].label == -1
    assert found[2][0].box == (0, 0, 1, 1)


def test_the_largest_box_of_each_class():
    corners = [[0.1, 0.1, 0.2, 0.2], [0.5, 0.5, 1.0, 1.0], [0.2, 0.2, 0.5, 0.4]]
    one = Boxes(np.array([4, 2, 4]), np.array(corners, np.float32))
    none = Boxes(np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
    found = looks.true_boxes([one, none], 3)
    assert [place.label for place in found[0]] == [2, 4]
    assert found[0][0].box == pytest.approx((0.45, 0.45, 1, 1))
    assert found[0][1].box == pytest.approx((0.17, 0.18, 0.53, 0.42))
    assert found[1] == []
    assert len(looks.true_boxes([one], 1)[0]) == 1


def test_energy_needs_no_label():
    maps = np.ones((2, 3, 8, 8), np.float16)
    maps[0, :, 1, 6] = 9
    found = looks.energy(maps)
    left, top, right, bottom = found[0][0].box
    assert left < 6.5 / 8 < right
    assert top < 1.5 / 8 < bottom
    assert {one.label for some in found for one in some} == {-1}


def test_labels_of_views_are_those_that_the_branch_sees():
    branch = AttentionBranch.from_classifier(20 * torch.eye(3), torch.full((3,), -10.0), True)
    places = [Place((0, 0, 1, 1), 2), Place((0, 0, 0.5, 1), -1)]
    features = np.eye(3, dtype=np.float32)
    looked = looks.Looked(features[:1], [features[:2]], [places], branch.eval())
    rows = looked.labels(0, np.array([1, 0, 1], np.float32))
    assert rows.tolist() == [[1, 0, 1], [1, 0, 1], [1, 0, 1]]
    looked = looks.Looked(features[:1], [features[[1, 2]]], [places], branch)
    rows = looked.labels(0, np.array([1, 0, 1], np.float32))
    assert rows.tolist() == [[1, 0, 1], [0, 0, 1], [0, 0, 1]]
    assert looks.whole(features, branch).labels(1, features[2]).tolist() == [[0, 0, 1]]


def test_a_linear_branch_finds_what_its_means_say():
    rng = np.random.default_rng(0)
    one_hot = (rng.random((128, 3)) < 0.4).astype(np.float32)
    features = (one_hot @ rng.normal(size=(3, 10)) + rng.normal(size=(128, 10)) / 10).astype("f4")
    branch = looks.linear_branch(features, one_hot, 0)
    maps = np.broadcast_to(features[:, :, None, None], (128, 10, 2, 2)).astype(np.float16)
    probability = evidence_of(looks.batches(maps), branch).probability
    for label, row in enumerate(probability.T):
        assert row[one_hot[:, label] > 0].min() > row[one_hot[:, label] == 0].max()


@pytest.mark.parametrize(("count", "epochs"), [(0, 30), (3, 12)])
def test_one_code_is_learned_from_views_and_their_mean(monkeypatch, count, epochs):
    given = []
    monkeypatch.setattr(looks, "fit_layer", lambda *arguments: given.extend(arguments))
    rng = np.random.default_rng(3)
    branch = AttentionBranch.from_classifier(torch.zeros(2, 4), torch.full((2,), -9.0), True)
    own = rng.normal(size=(5, 4)).astype(np.float32)
    views = [rng.normal(size=(count, 4)).astype(np.float32) for _ in range(5)]
    places = [[Place((0, 0, 1, 1), 1)] * count] * 5
    looked = looks.Looked(own, views, places, branch.eval())
    one_hot = np.ones((5, 2), np.float32)
    looks.fit(looked, one_hot, np.array([1, 3]), "csq", 8, 0, 1e-3, is_fused=True)
    features, labels, _, steps, _ = given
    expected = [own[1:2], views[1], own[3:4], views[3]]
    means = [np.concatenate(some).mean(0, keepdims=True) for some in (expected[:2], expected[2:])]
    means = means if count else []  # without looks, the mean is the image itself
    assert np.array_equal(features, np.concatenate(expected + means))
    one_image = [[1, 1], *[[0, 1]] * count]
    assert labels.tolist() == [*one_image, *one_image, *[[1, 1]] * len(means)]
    assert steps == epochs


def by_hand(own, other):
    distances = (own[:, None] != other[None]).sum(2)
    return distances.min(1).mean() + distances.min(0).mean()


@pytest.mark.parametrize("is_fused", [False, True])
def test_images_are_compared_by_all_their_views(is_fused):
    """An image with fewer looks than others repeats its own code, as in a gallery."""
    rng = np.random.default_rng(1)
    bits, count = 8, 30
    views = [rng.normal(size=(rng.integers(0, 4), bits)).astype(np.float32) for _ in range(count)]
    most = max(map(len, views))
    branch = AttentionBranch(bits, 3, 0)
    own = rng.normal(size=(count, bits)).astype(np.float32)
    looked = looks.Looked(own, views, [[]] * count, branch)
    layer = HashLayer(np.eye(bits, dtype=np.float32), np.zeros(bits, np.float32))
    labels = rng.random((count, 3)) < 0.4
    labels[:, 0] |= ~labels.any(1)
    queries, database = np.arange(5), np.arange(5, count)
    found = looks.scores(looked, layer, labels, queries, database, is_fused)
    codes = []
    for image in range(count):
        own = looked.views(image)
        filled = np.concatenate([own, np.repeat(own[:1], 1 + most - len(own), axis=0)])
        codes.append((own.mean(0, keepdims=True) if is_fused else filled) > 0)
    for query in queries:
        distance = np.array([by_hand(codes[query], codes[image]) for image in database])
        right = (labels[database] & labels[query]).any(1)
        # The mean over many random orders of ties.
        tries = []
        for _ in range(300):
            order = np.lexsort((rng.random(len(database)), distance))
            hits = right[order]
            tries.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
        assert found[query] == pytest.approx(np.mean(tries), abs=0.02)


def test_pointing_is_counted_by_class():
    maps = evidence((0, 0, -0.5), (4, 6, 50.0))
    corners = np.array([[0, 0, 0.25, 0.25], [0, 0, 0.5, 0.5]], np.float32)
    boxes = [Boxes(np.array([0, 1]), corners)]
    assert looks.pointing_by_class(maps, boxes, np.array([0])) == 0.5


def test_the_published_game_enlarges_maps_and_allows_a_distance():
    maps = np.zeros((1, 1, 2, 2), np.float32)
    maps[0, 0, 0, 0] = 1  # enlarged, it is highest in the corner; its cell's middle is at 1/4
    for corner, cell, published in ((0.2, 0, 1), (0.02, 0, 1), (0.3, 1, 1)):
        boxes = [Boxes(np.array([0]), np.array([[0.0, 0.0, corner, corner]], np.float32))]
        assert looks.pointing_by_class(maps, boxes, np.array([0])) == cell
        assert looks.pointing_by_class(maps, boxes, np.array([0]), True) == published
    boxes = [Boxes(np.array([0]), np.array([[0.1, 0.1, 0.9, 0.9]], np.float32))]
    assert looks.pointing_by_class(maps, boxes, np.array([0]), True) == 0


def test_features_of_looks_are_those_of_the_parts(tmp_path):
    left, right = (np.full((20, 20, 3), value, np.uint8) for value in (10, 200))
    path = tmp_path / "both.png"
    Image.fromarray(np.concatenate([left, right], 1)).save(path)

    class Means:
        calls = 0

        def each(self, items, image):
            Means.calls += 1
            for item in items:
                with Image.open(item.source) as whole:
                    x0, y0, x1, y1 = (
                        round(v * s) for v, s in zip(item.box, (40, 20, 40, 20), strict=True)
                    )
                    pixels = np.asarray(whole)[y0:y1, x0:x1]
                yield pixels.transpose(2, 0, 1).astype(np.float32)

    places = [[Place((0.5, 0, 1, 1), 0), Place((0, 0, 0.5, 1), 1)], []]
    for _ in range(2):
        found = looks.look(Means(), [path, path], places, tmp_path)
        assert found[0].tolist() == [[200.0] * 3, [10.0] * 3]
        assert found[1].shape == (0, 3)
    assert Means.calls == 1
