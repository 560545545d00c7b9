"""Groups of duplicates: pairs compared with all pairs, tiers, the best copy, what is kept apart."""

import io
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from bitgaze import Gallery, GalleryError
from bitgaze.cli.main import main
from bitgaze.encoding.originals import coefficients, was_saved_from
from bitgaze.gallery.copies import near_pairs
from bitgaze.gallery.hits import semantic_evidence


@given(
    st.integers(0, 60), st.sampled_from([8, 16, 72, 128]), st.integers(0, 30), st.integers(0, 2**32)
)
def test_near_pairs_are_those_of_all_pairs_of_different_codes(count, bits, radius, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (count, bits // 8), np.uint8)
    found = {}
    for one, other, distances in near_pairs(codes, radius):
        pairs = zip(one.tolist(), other.tolist(), strict=True)
        found |= {tuple(sorted(p)): d for p, d in zip(pairs, distances.tolist(), strict=True)}
    all_distances = np.unpackbits(codes[:, None] ^ codes[None], axis=2).sum(axis=2, dtype=int)
    assert all(all_distances[pair] == distance for pair, distance in found.items())
    first = [
        codes[:n].tolist().index(code) if code in codes[:n].tolist() else n
        for n, code in enumerate(codes.tolist())
    ]
    firsts = sorted(set(first))
    expected = {(i, j) for i in firsts for j in firsts if i < j and all_distances[i, j] <= radius}
    assert {p for p in found if p[0] != p[1] and all_distances[p]} == expected
    assert {(f, n) for n, f in enumerate(first)} <= set(found)


def test_pairs_span_several_batches(monkeypatch):
    monkeypatch.setattr("bitgaze.gallery.copies._BLOCK", 7)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (100, 8), np.uint8)
    codes[50:] = codes[:50]
    codes[50:, 0] ^= 1
    calls = []
    batches = list(near_pairs(codes, 1, lambda done, total: calls.append((done, total))))
    found = {(i, j) for one, other, _ in batches[1:] for i, j in zip(one, other, strict=True)}
    assert {tuple(sorted(map(int, pair))) for pair in found} == {(n, n + 50) for n in range(50)}
    assert calls[-1] == (100, 100)


def picture(seed, size=(480, 360)):
    """A picture with structure: coloured ellipses."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y = rng.integers(0, size[0]), rng.integers(0, size[1])
        w, h = rng.integers(10, 160, 2)
        draw.ellipse((x, y, x + w, y + h), fill=tuple(rng.integers(0, 256, 3).tolist()))
    noise = rng.normal(0, 6, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def jpeg(image, quality):
    stream = io.BytesIO()
    image.save(stream, "jpeg", quality=quality)
    return Image.open(stream)


@pytest.mark.parametrize(("first", "second"), [(60, 95), (75, 90), (85, 90), (92, 98)])
def test_an_image_saved_again_is_recognised(first, second):
    image = picture(0)
    original, better = jpeg(image, first), jpeg(image, second)
    again = jpeg(original.convert("RGB"), second)
    steps = again.quantization[0]
    codes = [coefficients(found.convert("RGB")) for found in (again, better, original)]
    assert was_saved_from(codes[0], codes[2], steps)
    assert not was_saved_from(codes[1], codes[2], steps)
    assert was_saved_from(codes[2], codes[2], [1] * 64)  # a PNG of it
    assert not was_saved_from(coefficients(image), codes[2], [1] * 64)


def test_what_is_too_plain_or_small_was_not_saved_from_another():
    plain = coefficients(Image.new("RGB", (64, 64)))
    assert not was_saved_from(plain, plain, [1] * 64)
    assert coefficients(picture(0, (20, 9))).shape == (1, 2, 8, 8)


@pytest.fixture
def album(tmp_path, examples):
    """Three images: one in four versions, one in two."""
    folder = tmp_path / "album"
    folder.mkdir()
    large, other, third = (
        Image.open(examples / name).convert("RGB").resize((320, 240))
        for name in ("birds/pigeon-flying.png", "space/earth.png", "fish/clownfish.jpg")
    )
    large.save(folder / "b-large.png")
    large.resize((160, 120)).save(folder / "a-small.png")
    large.save(folder / "c-compressed.jpg", quality=40)
    shutil.copyfile(folder / "b-large.png", folder / "d-copy.png")
    os.utime(folder / "d-copy.png", (1, 1))  # older than b-large
    other.save(folder / "e.png")
    other.save(folder / "f.webp", quality=90)
    third.save(folder / "g.png")
    return folder


def names(group):
    return [Path(member.key).name for member in (group.best, *group.others)]


def tiers(group):
    return [member.tier for member in (group.best, *group.others)]


def test_tiers_and_the_best_copy(album, tmp_path):
    with Gallery(tmp_path / "g.bitgaze", looks=0) as gallery:
        gallery.sync(album)
        first, second = gallery.duplicates()
        assert names(first)[:2] == ["d-copy.png", "b-large.png"]
        assert set(names(first)[2:]) == {"a-small.png", "c-compressed.jpg"}
        assert tiers(first) == [None, "identical", "copy", "copy"]
        assert names(second) == ["e.png", "f.webp"]
        assert tiers(second) == [None, "copy"]
        best, same, *_ = (first.best, *first.others)
        assert (best.distance, best.size, best.path) == (0, (320, 240), str(album / "d-copy.png"))
        assert best.file_bytes == (album / "d-copy.png").stat().st_size
        assert same.distance == 0

        (album / "d-copy.png").unlink()
        (album / "b-large.png").write_bytes(b"no longer an image")
        gone, *_ = gallery.duplicates()
        assert names(gone)[0] == "c-compressed.jpg"
        sizes = {Path(m.key).name: (m.size, m.file_bytes) for m in gone.others}
        assert sizes["d-copy.png"] == (None, None)
        assert sizes["b-large.png"] == (None, len(b"no longer an image"))
        assert len(gallery) == 7  # nothing is deleted


def test_a_copy_that_was_saved_again_does_not_beat_its_original(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    picture(1).save(folder / "original.jpg", quality=80)
    original = Image.open(folder / "original.jpg")
    original.save(folder / "again.jpg", quality=97)
    original.save(folder / "converted.png")
    os.utime(folder / "original.jpg", (2e9, 2e9))  # the newest: copied late
    picture(2).save(folder / "lossless.png")
    Image.open(folder / "lossless.png").save(folder / "lossy.jpg", quality=97)
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    picture(3).save(folder / "a-stripped.jpg", quality=90)
    picture(3).save(folder / "b-camera.jpg", quality=90, exif=exif)
    exif[0x0112] = 3
    picture(4).rotate(180).save(folder / "a-turned.jpg", quality=90, exif=exif)
    del exif[0x0112]
    picture(4).save(folder / "b-upright.jpg", quality=90, exif=exif)
    with Gallery(tmp_path / "g.bitgaze", looks=0) as gallery:
        gallery.sync(folder)
        found = gallery.duplicates()
    assert {names(group)[0] for group in found} == {
        "original.jpg",
        "lossless.png",
        "b-camera.jpg",
        "b-upright.jpg",
    }
    assert [len(names(group)) for group in found if names(group)[0] == "original.jpg"] == [3]
    assert (folder / "again.jpg").stat().st_size > (folder / "original.jpg").stat().st_size


def text_page(seed):
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (620, 877), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for y in range(60, 825, 18):
        text = "".join(chr(97 + n) if n < 26 else " " for n in rng.integers(0, 31, 66))
        draw.text((55, y), text, "black", font)
    return image


def qr_code(seed):
    modules = np.random.default_rng(seed).integers(0, 2, (29, 29), np.uint8) * 255
    for y, x in ((0, 0), (0, 22), (22, 0)):
        modules[y : y + 7, x : x + 7] = 0
        modules[y + 1 : y + 6, x + 1 : x + 6] = 255
        modules[y + 2 : y + 5, x + 2 : x + 5] = 0
    image = Image.new("RGB", (370, 370), "white")
    image.paste(Image.fromarray(modules).resize((290, 290), Image.Resampling.NEAREST), (40, 40))
    return image


def sky(seed):
    one, other = np.random.default_rng(seed).integers(0, 256, (2, 3))
    height = np.linspace(0, 1, 200)[:, None, None]
    pixels = one * (1 - height) + other * height + np.zeros((200, 300, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def receipt(seed):
    rng = np.random.default_rng(seed)
    image, font = Image.new("RGB", (420, 900), "#f4f1ea"), ImageFont.load_default(18)
    draw = ImageDraw.Draw(image)
    draw.text((120, 30), f"SHOP {rng.integers(99)}", "black", font)
    for line in range(int(rng.integers(8, 22))):
        price = f"{rng.integers(1, 99)}.{rng.integers(0, 99):02}"
        text = f"item {rng.integers(9999):04}{' ' * 12}{price}"
        draw.text((30, 100 + 32 * line), text, "black", font)
    return image


def test_dull_images_that_differ_are_no_duplicates(tmp_path):
    folder = tmp_path / "dull"
    folder.mkdir()
    for make in (text_page, qr_code, sky, receipt):
        for seed in range(24 if make is receipt else 12):
            make(seed).save(folder / f"{make.__name__}{seed:02}.png")
    with Gallery(tmp_path / "g.bitgaze", looks=0) as gallery:
        gallery.sync(folder)
        assert gallery.duplicates() == []
        alike = gallery.duplicates(look_alikes=True)
        assert len(alike) >= 1
        assert {tier for group in alike for tier in tiers(group)} == {None, "look-alike"}
        shutil.copyfile(folder / "sky03.png", folder / "again.png")
        gallery.sync(folder)
        assert [tiers(group) for group in gallery.duplicates()] == [[None, "identical"]]


def test_messenger_copies_are_found_and_nothing_else(tmp_path, examples):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(5)
    files = sorted(examples.glob("*/*"))[::7][:40]
    for n, path in enumerate(files):
        image = Image.open(path).convert("RGB")
        image.save(folder / f"{n:02} original.png")
        side = int(rng.integers(160, 257))
        image.thumbnail((side, side))
        image.save(folder / f"{n:02} sent.jpg", quality=int(rng.integers(40, 71)))
    with Gallery(tmp_path / "g.bitgaze", looks=0) as gallery:
        gallery.sync(folder)
        found = gallery.duplicates()
    assert len(found) >= 39
    assert all(len({name[:2] for name in names(group)}) == 1 for group in found)
    assert all("original" in names(group)[0] for group in found)


def test_each_member_is_a_duplicate_of_the_best_itself(tmp_path):
    with Gallery(tmp_path / "g.bitgaze", bits=16) as gallery:
        assert gallery.duplicates(radius=3) == []
        codes = np.packbits(np.tri(5, 16, -1, dtype=bool), axis=1)  # each one bit from the next
        for key, code in zip("abcde", codes, strict=True):
            gallery.add_code(key, code)
        assert not gallery.has_structure
        assert [names(group) for group in gallery.duplicates(radius=0)] == []
        found = [names(group) for group in gallery.duplicates(radius=2)]
        assert found == [["a", "b", "c"], ["d", "e"]]
        assert gallery.duplicates(radius=2)[0].others[1].distance == 2
        assert gallery.duplicates() == gallery.duplicates(radius=1)
        with pytest.raises(ValueError, match="radius must be at least 0, got -1"):
            gallery.duplicates(radius=-1)
        with pytest.raises(TypeError, match="radius must be an integer, got str"):
            gallery.duplicates(radius="3")

        gallery.set_distinct("b", "a")
        found = [names(group) for group in gallery.duplicates(radius=2)]
        assert found == [["a", "c"], ["b", "d"]]
        gallery.set_distinct("a", "b", are_distinct=False)
        gallery.set_distinct("b", "c")
        found = [names(group) for group in gallery.duplicates(radius=2)]
        assert found == [["a", "b"], ["c", "d", "e"]]
        with pytest.raises(KeyError, match="holds no item 'z'"):
            gallery.set_distinct("a", "z")


@pytest.mark.parametrize(
    ("calibration", "adaptation", "is_known"),
    [("measured", None, True), (None, None, False), ("measured", "fitted", False)],
)
def test_other_models_than_the_general_one_use_structure_alone(calibration, adaptation, is_known):
    store = SimpleNamespace(info={"calibration": calibration, "adaptation": adaptation})
    assert (semantic_evidence(store).limit > 0) == is_known


def test_only_what_is_elsewhere_too(album, tmp_path):
    library = album / "library"
    library.mkdir()
    shutil.copyfile(album / "a-small.png", library / "small.png")
    shutil.copyfile(album / "g.png", library / "g.png")
    shutil.copyfile(album / "g.png", library / "g2.png")
    with Gallery(tmp_path / "g.bitgaze", looks=0) as gallery:
        gallery.sync(album, metadata=lambda path: {"album": "x"})
        first, second = gallery.duplicates(reference=library)
        assert names(first)[0] == "small.png"
        assert set(names(first)[1:]) == {
            "a-small.png",
            "b-large.png",
            "c-compressed.jpg",
            "d-copy.png",
        }
        assert first.others[0].tier == "identical"
        assert len(names(second)) == 2
        assert (second.best.path.startswith(str(library)), second.others[0].path) == (
            True,
            str(album / "g.png"),
        )
        assert gallery.duplicates(reference=tmp_path / "no") == []
        assert len(gallery.duplicates(where={"album": "x"})) == 3
        assert gallery.duplicates(where={"album": "y"}) == []
        inside = gallery.duplicates(where={"@key": {"like": f"{library}/%"}})
        assert [sorted(names(group)) for group in inside] == [["g.png", "g2.png"]]
        with pytest.raises(GalleryError, match="are identical files"):
            gallery.set_distinct(str(library / "g.png"), str(library / "g2.png"))


def test_duplicates_on_the_command_line(album, tmp_path, capsysbinary):
    path, page = str(tmp_path / "g.bitgaze"), tmp_path / "page.html"
    assert main(["index", str(album), "-g", path, "--looks", "0"]) == 0
    capsysbinary.readouterr()

    def run(*arguments):
        code = main([arguments[0], "-g", path, *arguments[1:]])
        out, err = capsysbinary.readouterr()
        return code, out.decode(), err.decode()

    _, out, err = run("duplicates", "--html", str(page))
    lines = out.splitlines()
    file_bytes = (album / "d-copy.png").stat().st_size
    best, other = f"{album}/d-copy.png", f"{album}/b-large.png"
    assert lines[0] == f"keep          0      320 x 240  {file_bytes:>13,}  {best}"
    assert lines[1] == f"identical     0      320 x 240  {file_bytes:>13,}  {other}"
    assert lines[4] == ""
    assert lines[-1] == "groups: 2, identical files: 1, copies: 3"
    text = page.read_text()
    assert text.count("<img") == 6
    assert text.count(">identical file<") == 1
    assert text.count(">best<") == 2
    assert "d-copy.png and 3 copies</h2>" in text
    assert "look-alike" not in text.partition("</style>")[2]
    assert f"page: {page}" in err

    _, out, _ = run("duplicates", "--json", "--radius", "0")
    found = json.loads(out)
    assert found["radius"] == 0
    (group,) = [g for g in found["groups"] if g["best"]["key"] == best]
    assert [o["tier"] for o in group["others"]] == ["identical", "copy", "copy"]
    assert group["best"]["size"] == [320, 240]
    assert json.loads(run("duplicates", "--json")[1])["radius"] is None

    _, out, _ = run("duplicates", "--print0")
    expected = {"b-large.png", "a-small.png", "c-compressed.jpg", "f.webp"}
    assert out.endswith("\0")
    assert set(out[:-1].split("\0")) == {str(album / name) for name in expected}
    code, _, err = run("duplicates", "--print0", "--look-alikes")
    assert (code, "look-alikes have to be looked at" in err) == (2, True)
    assert run("duplicates", "--print0", "--json")[0] == 2

    code, _, err = run("duplicates", "--where", "album=x")
    assert (code, "no item has a field 'album'" in err) == (2, True)

    one, two = str(album / "e.png"), str(album / "f.webp")
    code, out, _ = run("distinct", one, two)
    assert (code, out) == (0, f"distinct: {one} and {two}\n")
    assert run("duplicates")[1].splitlines()[-1] == "groups: 1, identical files: 1, copies: 2"
    assert json.loads(run("distinct", one, two, "--undo", "--json")[1]) == {
        "images": [one, two],
        "distinct": False,
    }
    assert len(json.loads(run("duplicates", "--json")[1])["groups"]) == 2
    code, _, err = run("distinct", one, "nothing.png")
    assert (code, "has no image nothing.png" in err) == (2, True)


def test_the_command_without_structural_codes(tmp_path, capsys):
    path = str(tmp_path / "own.bitgaze")
    with Gallery(path, bits=16) as gallery:
        gallery.add_code("a", np.zeros(2, np.uint8))
    assert main(["duplicates", "-g", path, "--radius", "2"]) == 0
    out, err = capsys.readouterr()
    assert out == "no duplicates (look-alikes within 2 bits)\n"
    assert "are your own, which do not tell copies from look-alikes" in err
    assert main(["duplicates", "-g", path, "--print0"]) == 2
    assert "are your own" in capsys.readouterr().err
    assert main(["duplicates", "-g", path, "--radius", "-2"]) == 2
    assert "radius must be at least 0, got -2" in capsys.readouterr().err
    assert main(["duplicates", "-g", str(tmp_path / "none.bitgaze")]) == 2
    assert "no such gallery" in capsys.readouterr().err
