"""Parts of images: found by structural codes, confirmed by pixels, in duplicates and searches."""

import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from bitgaze import Gallery
from bitgaze.cli.main import main
from bitgaze.encoding.likeness import SemanticEvidence, Surroundings, decided, same_part
from bitgaze.encoding.parts import agreements, agreements_with_parts, find_part
from bitgaze.encoding.registration import block_correlations, is_part, reduced
from bitgaze.encoding.structure import (
    orientations,
    signs,
    structural_code,
    turned_codes,
    turned_versions,
)
from bitgaze.gallery.overlap import Overlap

TURNS = {
    "mirrored": Image.Transpose.FLIP_LEFT_RIGHT,
    "turned": Image.Transpose.ROTATE_90,
    "upside down": Image.Transpose.ROTATE_180,
    "transversed": Image.Transpose.TRANSVERSE,
}


@pytest.fixture(scope="module")
def originals(examples):
    chosen = sorted(examples.glob("*/*.jpg"))[::40]
    return [ImageOps.contain(Image.open(path).convert("RGB"), (400, 400)) for path in chosen]


def cut(image, left, top, right, bottom):
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), round(right * width), round(bottom * height))
    )


def test_signs_and_turned_versions_are_those_of_the_image(originals):
    codes = np.stack([structural_code(image) for image in originals])
    assert signs(codes).shape == (len(codes), 16, 16)
    bits = np.packbits(signs(codes).reshape(-1, 256)[:, ::-1] > 0, axis=1)
    np.testing.assert_array_equal(bits, codes)
    versions = turned_versions(codes)
    np.testing.assert_array_equal(versions[:, 0], codes)
    true = np.stack([turned_codes(image) for image in originals])
    assert np.unpackbits(versions ^ true, axis=-1).sum(-1).max() <= 16
    again = orientations(orientations(signs(codes))[:, 5])[:, 7]  # a quarter turn and back
    np.testing.assert_array_equal(again, signs(codes))


@pytest.mark.parametrize("box", [(0.05, 0.05, 0.95, 0.95), (0.1, 0, 1, 0.8), (0.2, 0.15, 0.9, 1)])
def test_crops_are_found_where_they_are(originals, box):
    errors = []
    for image in originals:
        whole, part = structural_code(image), structural_code(cut(image, *box))
        found = find_part(whole, part, turned=False)
        assert found.agreement > 5.5
        assert found.orientation == 1
        errors.append(np.abs(np.subtract(found.box, box)).max())
        backward = find_part(part, whole, turned=False)
        both = max(found.agreement, backward.agreement)
        assert agreements(part, whole[None], turned=False)[0] == pytest.approx(both)
    assert np.median(errors) < 0.04


def test_an_agreement_is_16_at_most_and_the_same_in_any_order(originals):
    codes = np.stack([structural_code(image) for image in originals])
    assert agreements(codes[0], codes[:1], turned=True).tolist() == pytest.approx([16], abs=1e-4)
    assert agreements(codes[0], codes[:0], turned=True).shape == (0,)
    one_way = np.stack([agreements_with_parts(code, codes, turned=True) for code in codes])
    both = np.stack([agreements(code, codes, turned=True) for code in codes])
    np.testing.assert_allclose(both, np.maximum(one_way, one_way.T), atol=1e-4)
    assert (both[~np.eye(len(codes), dtype=bool)] < 6.5).all()
    given = agreements(codes[0], codes, turned=False)
    assert (given <= both[0] + 1e-4).all()


@pytest.mark.parametrize("name", TURNS)
def test_turned_and_mirrored_images_are_found_if_asked_for(originals, name):
    for image in originals[:3]:
        turned = cut(image, 0.05, 0.1, 1, 1).transpose(TURNS[name])
        codes = structural_code(image), structural_code(turned)
        images = reduced(image), reduced(turned)
        assert agreements(codes[0], codes[1][None], turned=True)[0] > 7
        assert is_part(*images, codes, turned=True)
        assert is_part(*images[::-1], codes[::-1], turned=True)
        assert not is_part(*images, codes, turned=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: ImageOps.expand(image, 20, "white"),
        lambda image: cut(image.rotate(3, Image.Resampling.BICUBIC), 0.08, 0.08, 0.92, 0.92),
        lambda image: ImageOps.grayscale(cut(image, 0.1, 0, 1, 0.9)).convert("RGB"),
        lambda image: cut(image, 0.2, 0.1, 1, 0.9).resize((90, 90)),
    ],
    ids=["bordered", "turned by 3 degrees", "grey", "small"],
)
def test_pixels_confirm_parts(originals, change):
    for image in originals[:4]:
        other = change(image)
        codes = structural_code(image), structural_code(other)
        assert is_part(reduced(image), reduced(other), codes, turned=False)


def test_pixels_refuse_other_products_in_the_same_packaging():
    cartons = []
    for seed in range(3):
        image = Image.new("RGB", (300, 400), "white")
        draw = ImageDraw.Draw(image)
        draw.polygon([(80, 60), (220, 60), (240, 380), (60, 380)], fill="#2a7")
        draw.rectangle((100, 20, 200, 60), fill="#ddd")
        draw.ellipse((90, 90, 210, 160), fill="#124")
        rng = np.random.default_rng(seed)
        for _ in range(30):  # what is in it
            x, y = rng.integers(85, 200), rng.integers(180, 350)
            draw.ellipse((x, y, x + 12, y + 12), fill=tuple(rng.integers(0, 256, 3).tolist()))
        cartons.append(image)
    codes = [structural_code(image) for image in cartons]
    images = [reduced(image) for image in cartons]
    for one, other in combinations(range(3), 2):
        assert agreements(codes[one], codes[other][None], turned=False)[0] > 5
        pair = codes[one], codes[other]
        assert not is_part(images[one], images[other], pair, turned=False)


def test_plain_blocks_say_nothing():
    image = Image.new("L", (300, 300), 128)
    ImageDraw.Draw(image).rectangle((0, 0, 40, 40), fill=0)
    code = structural_code(image.convert("RGB"))
    part = find_part(code, code, turned=False)
    assert len(block_correlations(image, image, part)) < 8
    assert not is_part(image, image, (code, code), turned=False)


def test_the_chance_of_a_part_never_rises_with_meaning_or_rank():
    agreement = np.linspace(0, 16, 50)
    for around in (Surroundings(), Surroundings(agreement=7)):
        assert (np.diff(same_part(agreement, 10, 128, 0, around)) >= 0).all()
    assert (np.diff(same_part(9, np.arange(129), 128, 0)) <= 0).all()
    assert (np.diff(same_part(9, 10, 128, np.arange(50))) <= 0).all()
    assert same_part(9, 10, 128, 0) > 0.9
    assert same_part(9, 10, 128, 0, Surroundings(agreement=6.5)) < 0.5
    unknown = SemanticEvidence(limit=0)
    assert same_part(8, 0, 128, 0, evidence=unknown) < same_part(8, 0, 128, 0)
    assert same_part(15, 0, 128, 0, evidence=unknown) > 0.9


def test_only_likely_parts_are_compared_and_those_unread_are_no_copies():
    whole = np.array([0.95, 0.3, 0.0, 0.0, 0.6, 0.0, 0.0, 0.0])
    part = np.array([0.99, 0.99, 0.05, 0.8, 0.2, 0.97, 0.96, 0.95])
    asked = []

    def is_part_of(number):
        asked.append(number)
        return {1: True, 5: False, 6: None}.get(number, True)

    found = decided(whole, part, is_part_of)
    assert asked == [1, 5, 6, 7]  # the likeliest four
    assert found.tolist() == [0.95, 0.99, 0.0, 0.8, 0.6, 0.0, 0.89, 0.99]


@pytest.fixture(scope="module")
def library(examples, tmp_path_factory):
    """Images, and a crop, a border, a mirrored and a turned version of the first four."""
    folder = tmp_path_factory.mktemp("library")
    files = sorted(examples.glob("*/*.jpg"))[3::30][:9]
    changes = {
        "crop": lambda image: cut(image, 0, 0.1, 0.85, 1),
        "border": lambda image: ImageOps.expand(image, 24, "white"),
        "mirrored": ImageOps.mirror,
        "turned": lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }
    for number, path in enumerate(files):
        image = ImageOps.contain(Image.open(path).convert("RGB"), (360, 360))
        image.save(folder / f"{number} original.png")
        if number < 4:
            name, change = list(changes.items())[number]
            change(image).save(folder / f"{number} {name}.jpg", quality=85)
    return folder


def grouped(groups):
    return sorted(
        sorted(Path(member.key).stem for member in (group.best, *group.others)) for group in groups
    )


def test_parts_are_duplicates_and_searches_find_them(library, tmp_path, encoder, capsys):
    path = tmp_path / "g.bitgaze"
    with Gallery(path, encoder=encoder, looks=0) as gallery:
        gallery.sync(library)
        parts = [["0 crop", "0 original"], ["1 border", "1 original"]]
        turned = [["2 mirrored", "2 original"], ["3 original", "3 turned"]]
        done = []
        found = gallery.duplicates(on_progress=lambda *counts: done.append(counts))
        assert grouped(found) == parts
        assert done[-1][0] == done[-1][1]
        ended = [now for now, total in done if now == total]
        assert len(ended) == 4  # pairs, neighbours, their parts, groups
        assert {other.tier for group in found for other in group.others} == {"copy"}
        assert grouped(gallery.duplicates(rotated=True)) == parts + turned
        for one, other in parts + turned:
            query = next(library.glob(f"{one}.*"))
            hits = gallery.search(query, exclude_self=True)
            said = {Path(hit.key).stem: hit.same_image for hit in hits}
            assert said.pop(other) >= 0.9
            assert set(said.values()) == {None}
        crop = gallery.query(library / "0 crop.jpg")
        unread = type(crop).from_bytes(crop.to_bytes(), gallery.bits)
        said = {Path(hit.key).stem: hit.same_image for hit in gallery.search(unread)}
        assert 0.5 <= said["0 original"] < 0.9
    arguments = ["duplicates", "-g", str(path)]
    assert main([*arguments, "--rotated"]) == 0
    assert "groups: 4, copies: 4" in capsys.readouterr().out


def test_pixels_of_a_pair_are_compared_once(library, tmp_path, encoder, monkeypatch):
    compared = []

    def refuse(self, one, other, codes):
        compared.append(frozenset(code.tobytes() for code in codes))
        return False

    monkeypatch.setattr(Overlap, "is_part", refuse)
    with Gallery(tmp_path / "g.bitgaze", encoder=encoder, looks=0) as gallery:
        gallery.sync(library)
        assert gallery.duplicates(rotated=True) == []
    assert len(compared) == len(set(compared)) >= 2


def test_files_that_changed_are_not_compared(library, tmp_path, encoder):
    folder = tmp_path / "changed"
    shutil.copytree(library, folder)
    with Gallery(tmp_path / "g.bitgaze", encoder=encoder, looks=0) as gallery:
        gallery.sync(folder)
        (folder / "0 original.png").unlink()
        shutil.copyfile(folder / "7 original.png", folder / "1 original.png")
        assert grouped(gallery.duplicates()) == []
        (hit,) = gallery.search(folder / "0 crop.jpg", k=1, exclude_self=True)
        assert 0.5 <= hit.same_image < 0.9
