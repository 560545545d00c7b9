"""Groups of near-duplicates, compared with joining all pairs naively, and the best copy of each."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bitgaze import Gallery, HammingIndex
from bitgaze.cli.main import main
from bitgaze.encoding.alterations import altered
from bitgaze.gallery.duplicates import near_groups


def joined(codes, radius):
    """Naive: compares every pair, and spreads the smallest name until nothing changes."""
    distances = np.unpackbits(codes[:, None] ^ codes[None], axis=2).sum(axis=2, dtype=int)
    names = np.arange(len(codes))
    while True:
        new = np.where(distances <= radius, names[None], len(codes)).min(axis=1, initial=len(codes))
        new = np.minimum(new, names)
        if (new == names).all():
            break
        names = new
    groups = [np.flatnonzero(names == name).tolist() for name in np.unique(names)]
    return [group for group in groups if len(group) > 1]


@given(
    st.integers(0, 60), st.sampled_from([8, 16, 72, 128]), st.integers(0, 30), st.integers(0, 2**32)
)
def test_groups_equal_those_of_all_pairs(count, bits, radius, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (count, bits // 8), np.uint8)
    index = HammingIndex(bits)
    index.add(codes)
    assert [group.tolist() for group in near_groups(index, radius)] == joined(codes, radius)


def test_groups_span_several_batches(monkeypatch):
    monkeypatch.setattr("bitgaze.gallery.duplicates._BLOCK", 7)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (200, 8), np.uint8)
    codes[100:150] = codes[:50] ^ (rng.random((50, 8)) < 0.1).astype(np.uint8)
    codes[150:] = codes[3]
    index = HammingIndex(64)
    index.add(codes)
    calls = []
    found = near_groups(index, 3, lambda done, total: calls.append((done, total)))
    assert [group.tolist() for group in found] == joined(codes, 3)
    assert len(found) >= 40
    different = len(np.unique(codes, axis=0))
    assert calls[-1] == (different, different)


def test_a_chain_is_one_group():
    codes = np.packbits(np.tri(17, 16, -1, dtype=bool), axis=1)  # each one bit from the next
    index = HammingIndex(16)
    index.add(codes)
    assert [group.tolist() for group in near_groups(index, 1)] == [list(range(17))]
    assert near_groups(index, 0) == []


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
    large.save(folder / "d-copy.png")
    (folder / "d-copy.png").write_bytes((folder / "b-large.png").read_bytes())
    os.utime(folder / "d-copy.png", (1, 1))  # older than b-large
    other.save(folder / "e.png")
    other.save(folder / "f.webp", quality=90)
    third.save(folder / "g.png")
    return folder


def names(group):
    return [Path(member.key).name for member in (group.best, *group.others)]


def test_the_best_copy_is_the_largest_then_the_oldest(album, tmp_path):
    with Gallery(tmp_path / "g.bitgaze") as gallery:
        gallery.sync(album)
        first, second = gallery.duplicates(radius=20)
        assert names(first) == ["d-copy.png", "b-large.png", *names(first)[2:]]
        assert set(names(first)[2:]) == {"a-small.png", "c-compressed.jpg"}
        assert names(second) == ["e.png", "f.webp"]
        best, same, *others = (first.best, *first.others)
        assert (best.distance, best.size, best.path) == (0, (320, 240), str(album / "d-copy.png"))
        assert best.file_bytes == (album / "d-copy.png").stat().st_size
        assert same.distance == 0
        assert [other.distance for other in others] == sorted(other.distance for other in others)

        (album / "d-copy.png").unlink()
        (album / "b-large.png").write_bytes(b"no longer an image")
        gone, *_ = gallery.duplicates(radius=20)
        assert names(gone)[0] == "c-compressed.jpg"
        sizes = {Path(m.key).name: (m.size, m.file_bytes) for m in gone.others}
        assert sizes["d-copy.png"] == (None, None)
        assert sizes["b-large.png"] == (None, len(b"no longer an image"))
        assert len(gallery) == 7  # nothing is deleted


def test_groups_respect_the_radius(tmp_path):
    with Gallery(tmp_path / "g.bitgaze", bits=16) as gallery:
        assert gallery.duplicates(radius=3) == []
        for key, code in [("a", [0, 0]), ("b", [0, 3]), ("c", [255, 255]), ("d", [255, 255])]:
            gallery.add_code(key, np.array(code, np.uint8))
        assert [names(group) for group in gallery.duplicates(radius=0)] == [["c", "d"]]
        assert [names(group) for group in gallery.duplicates(radius=2)] == [["a", "b"], ["c", "d"]]
        assert gallery.duplicates(radius=2)[0].others[0].distance == 2
        with pytest.raises(ValueError, match="radius must be at least 0, got -1"):
            gallery.duplicates(radius=-1)
        with pytest.raises(TypeError, match="radius must be an integer, got str"):
            gallery.duplicates(radius="3")
        assert gallery.duplicates() == gallery.duplicates(radius=1)


def test_altered_images_are_grouped_with_their_originals_only(tmp_path, examples):
    """With real images, mostly drawings, which change more than photographs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    originals = [next(iter(sorted(subject.iterdir()))) for subject in sorted(examples.iterdir())]
    for n, path in enumerate(originals[:12]):
        image = Image.open(path).convert("RGB")
        image.thumbnail((400, 400))
        image.save(folder / f"{n:02} original.png")
        versions = altered(image)
        for name in ("jpeg", "resized"):
            found = next(key for key in versions if name in key)
            versions[found].save(folder / f"{n:02} {name}.png")
    with Gallery(tmp_path / "g.bitgaze") as gallery:
        gallery.sync(folder)
        found = gallery.duplicates(radius=20)
        groups = [{name[:2] for name in names(group)} for group in found]
        sizes = [len(names(group)) for group in found]
    assert all(len(numbers) == 1 for numbers in groups)
    assert len(groups) == 12
    assert sizes == [3] * 12


def test_duplicates_on_the_command_line(album, tmp_path, capsys):
    path, page = str(tmp_path / "g.bitgaze"), tmp_path / "page.html"
    assert main(["index", str(album), "-g", path]) == 0
    capsys.readouterr()
    assert main(["duplicates", "-g", path, "--radius", "20", "--html", str(page)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    file_bytes = (album / "d-copy.png").stat().st_size
    assert lines[0] == f"keep    0      320 x 240  {file_bytes:>13,}  {album}/d-copy.png"
    assert lines[1] == f"        0      320 x 240  {file_bytes:>13,}  {album}/b-large.png"
    assert lines[4] == ""
    assert lines[-1] == "groups: 2, duplicates: 4 (within 20 bits)"
    text = page.read_text()
    assert text.count("<img") == 6
    assert "d-copy.png" in text
    assert f"page: {page}" in err

    assert main(["duplicates", "-g", path, "--json", "--radius", "0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["radius"] == 0
    (group,) = [g for g in found["groups"] if g["best"]["key"] == str(album / "d-copy.png")]
    assert str(album / "b-large.png") in {other["key"] for other in group["others"]}
    assert group["best"]["size"] == [320, 240]


def test_the_command_without_duplicates(tmp_path, capsys):
    path = str(tmp_path / "own.bitgaze")
    with Gallery(path, bits=16) as gallery:
        gallery.add_code("a", np.zeros(2, np.uint8))
    assert main(["duplicates", "-g", path, "--radius", "2"]) == 0
    assert capsys.readouterr().out == "no duplicates within 2 bits\n"
    assert main(["duplicates", "-g", path, "--radius", "-2"]) == 2
    assert "radius must be at least 0, got -2" in capsys.readouterr().err
    assert main(["duplicates", "-g", str(tmp_path / "none.bitgaze")]) == 2
    assert "no such gallery" in capsys.readouterr().err
