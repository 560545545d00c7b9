"""Where to look again, and the codes of what is there."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin

from bitgaze import Contract, Encoder, ModelError, ProviderError
from bitgaze.encoding import encoder as encoding
from bitgaze.encoding import images
from bitgaze.encoding.contract import read_model
from bitgaze.encoding.images import Preprocess, Region, load, part, within
from bitgaze.encoding.looks import choose
from colours import CONTRACT, RULE, SIZE, scene, write_models

OUTPUTS = ("codes", "hashes", "attention", "looks", "look_hashes", "boxes", "look_classes")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(files):
    return Encoder(files / "looks.onnx", threads=2)


def content(image, kind="png", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


TWO = {"red": (0.05, 0.05, 0.45, 0.4), "blue": (0.55, 0.6, 0.95, 0.9)}


def some_scenes():
    generator = np.random.default_rng(0)
    found = []
    for _ in range(9):
        objects = {}
        for colour in ("red", "lime", "blue"):
            x, y = generator.uniform(0, 0.7, 2)
            objects[colour] = (x, y, x + 0.3, y + 0.25)
        found.append(scene(objects, (320, 240)))
    return found


def assert_equal(one, other, rows=slice(None)):
    for name in OUTPUTS:
        assert np.array_equal(getattr(one, name), getattr(other, name)[rows]), name


def iou(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return common / (sum(areas) - common)


def test_there_is_a_look_at_each_object(encoder):
    found = encoder.encode([scene(TWO)], looks=2)
    boxes = dict(zip(found.look_classes[0].tolist(), found.boxes[0], strict=True))
    assert boxes.keys() == {0, 2}
    assert iou(boxes[0], TWO["red"]) > 0.5
    assert iou(boxes[2], TWO["blue"]) > 0.5


def test_a_larger_object_gets_a_larger_look(encoder):
    sides = []
    for side in (0.1, 0.4, 0.6, 0.75, 1.0):
        found = encoder.encode([scene({"red": (0, 0, side, 0.5)})], looks=1)
        left, top, right, bottom = found.boxes[0, 0]
        assert found.look_classes[0, 0] == 0
        assert bottom - top < 0.75
        sides.append(right - left)
    assert sides == sorted(sides)
    assert sides[0] == pytest.approx(RULE.smallest, abs=0.05)
    assert sides[-1] == pytest.approx(RULE.largest, abs=0.05)


def test_places_left_by_the_classes_go_to_the_attention(encoder):
    found = encoder.encode([scene(TWO)], looks=3)
    assert sorted(found.look_classes[0]) == [-1, 0, 2]
    left, top, right, bottom = found.boxes[0, found.look_classes[0] == -1][0]
    assert (right - left, bottom - top) == (RULE.side, RULE.side)


def test_where_there_is_nothing_to_see_the_whole_image_is_repeated(encoder):
    found = encoder.encode([Image.new("RGB", (50, 40), (127, 127, 127))], looks=3)
    assert np.array_equal(found.boxes[0], [(0, 0, 1, 1)] * 3)
    assert (found.look_classes == -1).all()
    for name, whole in (("looks", found.codes), ("look_hashes", found.hashes)):
        assert np.array_equal(getattr(found, name)[0], np.repeat(whole, 3, axis=0))


def test_without_looks_nothing_changes(encoder, files):
    sources = some_scenes()
    with Encoder(files / "plain.onnx", threads=2) as plain:
        expected = plain.encode(sources)
        assert_equal(encoder.encode(sources), expected)
        assert_equal(plain.encode(sources, looks=None), expected)
        with pytest.raises(ValueError, match=r"plain\.onnx has no maps to choose them by"):
            plain.encode(sources, looks=1)
    assert expected.looks.shape == (9, 0, 4)
    assert expected.look_hashes.shape == (9, 0, 32)
    assert expected.boxes.shape == (9, 0, 4)
    looked = encoder.encode(sources, looks=3)
    assert np.array_equal(looked.hashes, expected.hashes)
    assert looked.stable.shape == expected.stable.shape


@pytest.mark.parametrize("looks", [0, 1])
@pytest.mark.parametrize("depth", ["stored", "used"])
def test_deep_greys_are_read_by_the_models_rule(files, monkeypatch, depth, looks):
    image = Image.frombytes("I;16", (64, 64), np.full((64, 64), 4095, np.uint16).tobytes())
    means = []
    prepared = images.prepared

    def noted(image, preprocess):
        means.append(np.asarray(image).mean())
        return prepared(image, preprocess)

    for module in (images, encoding):
        monkeypatch.setattr(module, "prepared", noted)
    with Encoder(files / "looks.onnx") as encoder:
        contract = encoder.contract
        preprocess = replace(contract.preprocess, depth=depth)
        encoder._model = replace(encoder.model, contract=replace(contract, preprocess=preprocess))
        assert not encoder.encode([content(image)], looks=looks).errors
    assert set(means) == {255 if depth == "used" else 4095 // 257 + 1}


def test_fewer_looks_are_the_first_ones(encoder):
    sources = some_scenes()
    most = encoder.encode(sources, looks=None)
    assert most.looks.shape == (9, RULE.most, 4)
    for count in range(RULE.most):
        found = encoder.encode(sources, looks=count)
        for name in OUTPUTS[3:]:
            assert np.array_equal(getattr(found, name), getattr(most, name)[:, :count])


def test_looks_depend_neither_on_the_batch_nor_on_threads(encoder, files):
    sources = some_scenes()
    together = encoder.encode(sources, looks=3)
    for row, source in enumerate(sources):
        assert_equal(encoder.encode([source], looks=3), together, slice(row, row + 1))
    for threads in (1, 4):
        with Encoder(files / "looks.onnx", threads=threads) as other:
            assert_equal(other.encode(sources, looks=3), together)


def test_a_region_has_the_code_of_a_look_there(encoder):
    sources = some_scenes()
    found = encoder.encode(sources, looks=2)
    for place in range(2):
        regions = [
            Region(source, tuple(map(float, box)))
            for source, box in zip(sources, found.boxes[:, place], strict=True)
        ]
        again = encoder.encode(regions)
        assert np.array_equal(again.hashes, found.look_hashes[:, place])


def test_looks_within_a_region_are_in_the_whole_image(encoder):
    region = Region(scene(TWO), (0.5, 0.5, 1.0, 1.0))
    found = encoder.encode([region], looks=1)
    assert found.look_classes[0, 0] == 2
    assert iou(found.boxes[0, 0], TWO["blue"]) > 0.5
    assert found.boxes[0, 0, :2].min() >= 0.5
    plain = encoder.encode([part(region.source, region.box)], looks=1)
    assert np.array_equal(found.look_hashes, plain.look_hashes)
    assert np.allclose(found.boxes[0, 0], within(region.box, tuple(plain.boxes[0, 0])))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_of_the_upright_image(encoder, orientation):
    upright = scene(TWO, (320, 160))
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    turned = upright.transpose(stored[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert_equal(
        encoder.encode([content(turned, exif=exif)], looks=3), encoder.encode([upright], looks=3)
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (2, 3), (3000, 3), (37, 4000)])
def test_any_shape_of_image(encoder, size):
    found = encoder.encode([scene({"red": (0.2, 0.2, 0.9, 0.9)}, size)], looks=3)
    assert found.errors == {}
    left, top, right, bottom = found.boxes[0].T
    assert (left < right).all()
    assert (top < bottom).all()
    assert found.boxes.min() >= 0
    assert found.boxes.max() <= 1
    code = encoder.encode([Region(scene({"red": (0, 0, 1, 1)}, size), (0.4, 0.4, 0.5, 0.5))])
    assert code.errors == {}


def test_a_large_jpeg_is_decoded_once_at_a_scale_that_serves_the_looks(encoder, monkeypatch):
    image = scene(TWO, (4000, 3000))
    drafts = []
    draft = JpegImagePlugin.JpegImageFile.draft

    def recorded(self, mode, size):
        found = draft(self, mode, size)
        drafts.append(self.size)
        return found

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", recorded)
    jpeg = content(image, "jpeg", quality=95)
    found = encoder.encode([jpeg], looks=2)
    # The smallest look has at least as many pixels as the input, but the photograph is not decoded
    # in full.
    assert len(drafts) == 1
    assert SIZE / RULE.smallest <= drafts[0][1] < 3000
    whole = encoder.encode([jpeg])
    assert drafts[1][1] < drafts[0][1]
    expected = encoder.encode([image], looks=2)
    assert np.array_equal(found.boxes, expected.boxes)
    assert np.abs(found.hashes - whole.hashes).max() < 0.05
    assert np.abs(found.look_hashes - expected.look_hashes).max() < 0.05


def test_images_that_cannot_be_read_have_blank_rows(encoder):
    found = encoder.encode([b"broken", scene(TWO), Region(b"broken", (0, 0, 0.5, 1))], looks=2)
    assert found.errors.keys() == {0, 2}
    for name in OUTPUTS:
        assert not getattr(found, name)[[0, 2]].any()
    assert found.looks[1].any()


def test_a_provider_that_fails_is_not_the_images_fault(files, monkeypatch):
    class Failing:
        def run(self, *_):
            raise RuntimeError("lost")

    encoder = Encoder(files / "looks.onnx", threads=1)
    blank = encoder._blank(1)
    monkeypatch.setattr(encoder, "_blank", lambda _: blank)
    monkeypatch.setattr(encoder, "_session", lambda _: Failing())
    for looks in (0, 1):
        with pytest.raises(ProviderError, match="failed: lost"):
            encoder.encode([content(scene(TWO))], looks=looks)


@pytest.mark.parametrize(
    ("looks", "error"), [(4, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_a_wrong_number_of_looks_is_refused(encoder, looks, error):
    with pytest.raises(error, match="expected"):
        encoder.encode([scene(TWO)], looks=looks)


def test_a_single_region_is_no_list(encoder):
    with pytest.raises(TypeError, match="put a single one into a list"):
        encoder.encode(Region(scene(TWO), (0, 0, 1, 1)))


@pytest.mark.parametrize(
    ("box", "error"),
    [
        ((0.5, 0, 0.5, 1), ValueError),
        ((0, 0.6, 1, 0.5), ValueError),
        ((-0.1, 0, 1, 1), ValueError),
        ((0, 0, 1, 1.01), ValueError),
        ((float("nan"), 0, 1, 1), ValueError),
        ((0, 0, 1), TypeError),
        ("abcd", TypeError),
        (None, TypeError),
    ],
)
def test_a_region_needs_a_box_within_the_image(box, error):
    with pytest.raises(error, match="box is"):
        Region(scene(TWO), box)


def test_a_region_of_a_region_is_refused():
    with pytest.raises(TypeError, match="source of a region is a region"):
        Region(Region(scene(TWO), (0, 0, 1, 1)), (0, 0, 1, 1))


def test_a_region_contains_its_box_in_whole_pixels():
    image = Image.fromarray(np.arange(280, dtype=np.uint8).reshape(10, 28))
    for low in range(27):
        for high in range(low + 1, 29):
            assert part(image, (low / 28, 0, high / 28, 1)).width == high - low
    assert part(image, (0.999, 0.999, 1, 1)).size == (1, 1)
    assert part(image, (0.05, 0, 0.1, 1)).width == 2  # pixels 1.4 to 2.8
    preprocess = Preprocess(8)
    assert np.array_equal(
        load(Region(image, (0, 0, 0.5, 0.5)), preprocess),
        load(image.crop((0, 0, 14, 5)), preprocess),
    )


maps = st.integers(0, 2**31).map(
    lambda seed: np.random.default_rng(seed).normal(0, 5, (4, 7, 5)).astype(np.float32)
)


@given(maps, st.integers(1, 3), st.floats(0.3, 0.9))
def test_looks_are_within_bounds_and_apart(class_maps, count, largest):
    rule = replace(RULE, largest=max(largest, RULE.smallest))
    probability = np.array([0.4, 0.3, 0.001, 0.2], np.float32)
    found = choose(class_maps, probability, np.maximum(class_maps[0], 0), rule, count)
    assert len(found) <= count
    assert found[0].row == 0
    assert 2 not in [look.row for look in found]  # too unlikely
    for look in found:
        left, top, right, bottom = look.box
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1
        if look.row >= 0:
            step = 1 / 20
            assert rule.smallest - step <= min(right - left, bottom - top)
            assert max(right - left, bottom - top) <= rule.largest + step
    for one in found:
        for other in found:
            assert one is other or iou(one.box, other.box) < rule.overlap


@given(maps, st.integers(0, 2**31))
def test_what_differs_between_machines_moves_no_look(class_maps, seed):
    """Maps differ by a millionth of their values; a look moves if one lies between two levels."""
    noise = np.random.default_rng(seed).normal(1, 1e-6, class_maps.shape)
    probability = np.array([0.4, 0.3, 0.2, 0.1], np.float32)
    attention = np.maximum(class_maps[0], 0)
    expected = choose(class_maps, probability, attention, RULE, 3)
    near = choose((class_maps * noise).astype(np.float32), probability, attention, RULE, 3)
    moved = [
        abs(a - b)
        for one, other in zip(expected, near, strict=True)
        for a, b in zip(one.box, other.box, strict=True)
    ]
    assert max(moved) <= 0.5


def test_ties_go_to_the_first_row_and_the_first_place():
    class_maps = np.zeros((2, 5, 5), np.float32)
    class_maps[0, 4, 4] = class_maps[1, 0, 4] = class_maps[1, 4, 0] = 1
    rule = replace(RULE, smallest=0.2)
    equal = np.array([0.25, 0.25], np.float32)
    first, second = choose(class_maps, equal, class_maps[0], rule, 2)
    assert (first.row, second.row) == (0, 1)
    assert first.box[0] > 0.5
    assert first.box[1] > 0.5
    assert second.box[0] > 0.5  # 0, 4 comes before 4, 0
    assert second.box[3] < 0.5


def test_places_of_much_evidence_against_a_class_are_taken_last_and_once():
    attention = np.full((5, 5), -50, np.float32)
    attention[2, 2] = 1
    found = choose(attention[None], np.array([0.001], np.float32), attention, RULE, 3)
    assert 1 <= len(found) <= 3
    assert len({look.box for look in found}) == len(found)


def test_maps_that_are_not_numbers_give_no_look():
    blank = np.full((1, 5, 5), np.nan, np.float32)
    assert choose(blank, np.array([np.nan], np.float32), blank[0], RULE, 3) == []
    assert choose(blank, np.array([0.5], np.float32), blank[0], RULE, 3) == []


def test_the_contract_holds_the_rule_and_the_fingerprint_covers_it(files):
    model, plain = (read_model(files / f"{name}.onnx") for name in ("looks", "plain"))
    assert model.contract.looks == RULE
    assert plain.contract.looks is None
    assert '"looks"' not in plain.contract.to_json()
    assert Contract.from_json(model.contract.to_json()) == model.contract
    data = (files / "looks.onnx").read_bytes()
    changed = data.replace(b'"largest":0.8', b'"largest":0.7')
    assert changed != data
    path = files / "changed.onnx"
    path.write_bytes(changed)
    assert read_model(path).fingerprint != model.fingerprint


def test_a_rule_without_maps_in_the_graph_is_refused(files):
    data = (files / "plain.onnx").read_bytes()
    text = read_model(files / "plain.onnx").contract.to_json()
    name = '"name":"colours"'
    assert text.count(name) == 1
    # As long as before, so that the file stays valid.
    short = text.replace('"training":{},', "").replace('"tolerance":0.001,', "")
    new = short.replace(name, name + ',"looks":{}')
    new += " " * (len(text) - len(new))
    assert len(new) == len(text)
    path = files / "claims.onnx"
    path.write_bytes(data.replace(text.encode(), new.encode()))
    with pytest.raises(ModelError, match="the graph has .*class_maps"):
        Encoder(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"most": 0}, "most is 0, expected 1 to 15"),
        ({"most": 16}, "most is 16"),
        ({"most": 2.0}, "most is 2.0, expected an integer"),
        ({"extent": 1.0}, "extent is 1.0"),
        ({"extent": 1}, "extent is 1, expected a float"),
        ({"probability": 0.0}, "probability is 0.0"),
        ({"overlap": float("nan")}, "overlap is nan"),
        ({"smallest": 0.9}, "smallest is 0.9, more than largest, 0.8"),
        ({"kind": "saliency"}, "kind is 'saliency', this version of bitgaze supports"),
        ({"new": 1}, "unexpected keyword"),
    ],
)
def test_a_wrong_rule_is_refused(change, message):
    document = json.loads(CONTRACT.to_json())
    document["looks"] |= change
    with pytest.raises(ValueError, match=f"looks cannot be read: .*{message}"):
        Contract.from_json(json.dumps(document))
