"""Attention overlays, and drawings of why an item is a hit."""

import os

import numpy as np
import pytest
from PIL import Image

from bitgaze import Encoder, Gallery, ImageError, Item
from bitgaze.cli.main import main
from bitgaze.gallery import items
from bitgaze.gallery.explain import overlay
from bitgaze.gallery.items import FileState, content_digest
from conftest import smooth_image

GREY = Image.new("RGB", (120, 80), (128, 128, 128))


def test_heat_follows_attention():
    attention = np.zeros((4, 4), np.float32)
    attention[0, 3] = 1  # top right
    pixels = np.asarray(overlay(GREY, attention), int)
    assert pixels.shape == (80, 120, 3)
    assert pixels[5, 115, 0] - pixels[5, 115, 2] > 40  # warm
    assert (pixels[75, 5] == 128).all()  # nothing there


def test_heat_grows_with_attention():
    shades = [
        np.asarray(overlay(GREY, np.full((2, 2), strength, np.float32)), int)[40, 60]
        for strength in (0.0, 0.5, 1.0)
    ]
    assert (shades[0] == 128).all()
    change = [np.abs(shade - 128).sum() for shade in shades]
    assert change[0] < change[1] < change[2]


def test_overlay_does_not_change_its_input():
    image = GREY.copy()
    overlay(image, np.ones((2, 2), np.float32))
    assert image.tobytes() == GREY.tobytes()


def test_overlay_rejects_attention_of_another_shape():
    with pytest.raises(ValueError, match=r"shape \(1, 2, 2\), expected \(h, w\)"):
        overlay(GREY, np.ones((1, 2, 2), np.float32))


# A query and a hit


@pytest.fixture
def gallery(tmp_path, make_image):
    for n in range(3):
        make_image(f"photos/{n}.png", seed=n, size=(200, 150))
    with Gallery(tmp_path / "g.bitgaze") as gallery:
        gallery.sync(tmp_path / "photos")
        gallery.add("by hand", smooth_image(7), {"shelf": "A 3"})
        yield gallery


def key_of(gallery, n):
    return str(gallery.path.parent / "photos" / f"{n}.png")


def colours(drawing, box):
    return np.asarray(drawing.crop(box)).reshape(-1, 3)


LEFT, RIGHT = (24, 24, 424, 324), (448, 24, 848, 324)
RED, EMPTY = (181, 67, 47), (228, 225, 220)


def red_cells(drawing):
    """The number of bits drawn as different, by their red frames, whose top edge is 23 pixels."""
    pixels = np.asarray(drawing)[330:]
    is_red = (pixels == RED).all(axis=2)
    tops = is_red & ~np.roll(is_red, 1, axis=0)
    lengths = np.diff(np.flatnonzero(np.diff(np.pad(tops, ((0, 0), (1, 1))).ravel().astype(int))))
    return int((lengths[::2] == 23).sum())


def nearest_distance(gallery, query, key):
    """Bits that differ between the views of query and item that are nearest to each other."""
    item = gallery.get(key)
    codes = np.concatenate([item.code[None], item.looks.reshape(-1, 16)])
    views = gallery.query(query).views
    return np.unpackbits(views[:, None] ^ codes[None], axis=2).sum(axis=2).min()


def test_explain_draws_both_images_and_every_differing_bit(gallery):
    query = gallery.path.parent / "photos" / "0.png"
    for hit in gallery.search(query):
        drawing = gallery.explain(query, hit.key)
        assert (drawing.mode, drawing.width) == ("RGB", 872)
        assert red_cells(drawing) == nearest_distance(gallery, query, hit.key)
        assert len(np.unique(colours(drawing, LEFT), axis=0)) > 500  # an image
        if hit.path is not None:
            assert len(np.unique(colours(drawing, RIGHT), axis=0)) > 500
    drawing = gallery.explain(key_of(gallery, 0), key_of(gallery, 1))
    assert (np.asarray(drawing) == np.asarray(gallery.explain(query, key_of(gallery, 1)))).all()


def test_explain_reads_what_cannot_be_read_again(gallery):
    read, write = os.pipe()
    content = (gallery.path.parent / "photos" / "0.png").read_bytes()
    with os.fdopen(write, "wb") as pipe:
        pipe.write(content)
    with os.fdopen(read, "rb") as stream:
        drawing = gallery.explain(stream, key_of(gallery, 1))
    assert drawing.tobytes() == gallery.explain(content, key_of(gallery, 1)).tobytes()


def test_explain_draws_one_state_of_the_gallery(gallery, monkeypatch):
    """A change by another process between its reads starts the drawing again."""
    key, other = list(gallery)[:2]
    expected = None
    encode = Encoder.encode
    changes = iter([{"changed": 1}, {"changed": 2}])

    def changing(self, sources, **options):
        for metadata in changes:
            with Gallery(gallery.path) as writer:
                writer.set_metadata(key, metadata)
            break
        return encode(self, sources, **options)

    monkeypatch.setattr(Encoder, "encode", changing)
    drawn = gallery.explain(other, key)
    assert next(changes, None) is None
    monkeypatch.undo()
    assert gallery.get(key).metadata == {"changed": 2}
    expected = gallery.explain(other, key)
    assert drawn.tobytes() == expected.tobytes()


def test_explain_overlays_attention(gallery, encoder):
    path = key_of(gallery, 1)
    drawing = gallery.explain(path, path)
    plain = Image.open(path).convert("RGB").resize((400, 300))
    shown = drawing.crop(RIGHT)
    change = np.abs(np.asarray(shown, int) - np.asarray(plain, int)).sum(axis=2)
    attention = encoder.encode([path]).attention[0]
    hot = np.asarray(Image.fromarray(attention).resize((400, 300))) > 0.7
    cold = np.asarray(Image.fromarray(attention).resize((400, 300))) < 0.1
    assert hot.any()
    assert cold.any()
    assert change[hot].mean() > 3 * change[cold].mean()


def test_explain_shows_stored_data_if_the_file_is_missing(gallery):
    for key in (key_of(gallery, 2), "by hand"):
        with_image = gallery.explain(key_of(gallery, 0), key_of(gallery, 2))
        (gallery.path.parent / "photos" / "2.png").unlink(missing_ok=True)
        drawing = gallery.explain(key_of(gallery, 0), key)
        query = gallery.path.parent / "photos" / "0.png"
        assert red_cells(drawing) == nearest_distance(gallery, query, key)
        panel = colours(drawing, RIGHT)
        assert ((panel == EMPTY).all(axis=1)).mean() > 0.95
        assert drawing.height > with_image.height - 1  # with a line that names the reason


def test_explain_notes_that_a_file_has_changed(gallery, make_image):
    before = gallery.explain(key_of(gallery, 0), key_of(gallery, 1))
    make_image("photos/1.png", seed=9, size=(200, 150))
    after = gallery.explain(key_of(gallery, 0), key_of(gallery, 1))
    assert red_cells(after) == red_cells(before)  # those of the stored code
    assert after.height == before.height + 20  # one more line of text


def test_explain_works_on_own_codes(tmp_path):
    with Gallery(tmp_path / "own.bitgaze", bits=64) as gallery:
        gallery.add_code("a", np.zeros(8, np.uint8))
        gallery.add_code("b", np.array([255, 1, 0, 0, 0, 0, 0, 0], np.uint8))
        assert red_cells(gallery.explain("a", "b")) == 9


def test_explain_rejects_unknown_keys_and_files(gallery, tmp_path):
    with pytest.raises(KeyError, match="no item 'nobody'"):
        gallery.explain(key_of(gallery, 0), "nobody")
    with pytest.raises(ImageError, match="No such file"):
        gallery.explain("nothing.png", "by hand")


def test_explain_on_the_command_line(gallery, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for key in (key_of(gallery, 1), "photos/1.png", "by hand"):
        command = ["explain", "photos/0.png", key, "-g", "g.bitgaze", "-o", "out.png"]
        assert main(command) == 0
        assert capsys.readouterr().out == "out.png\n"
        with Image.open("out.png") as drawing:
            assert drawing.width == 872
    (tmp_path / "photos" / "1.png").unlink()
    assert main(["explain", "photos/0.png", "photos/1.png", "-g", "g.bitgaze"]) == 0
    capsys.readouterr()
    assert main(["explain", "photos/0.png", "photos/8.png", "-g", "g.bitgaze"]) == 2
    assert (
        "has no image photos/8.png; use a path as printed by `bitgaze search`"
        in capsys.readouterr().err
    )
    assert main(["explain", "photos/0.png", "by hand", "-g", "g.bitgaze", "-o", "no/x.png"]) == 2
    assert "no/x.png: there is no folder" in capsys.readouterr().err


def test_explain_by_a_relative_path_reads_no_other_items(gallery, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(items, "_verified_rows", lambda *_: pytest.fail("reads all items"))
    assert main(["explain", "photos/0.png", "photos/1.png", "-g", "g.bitgaze"]) == 0


def test_explain_by_an_image_given_as_text_reads_no_other_items(gallery, make_image, monkeypatch):
    key = next(iter(gallery))
    monkeypatch.setattr(items, "_verified_rows", lambda *_: pytest.fail("reads all items"))
    gallery.explain(str(make_image("query.png", seed=50)), key)


def test_explain_works_on_own_codes_with_files(tmp_path, make_image):
    path = make_image("a.png")
    state = FileState(bytes(path), 1, 1, 1, content_digest(str(path)))
    with Gallery(tmp_path / "own.bitgaze", bits=64) as gallery:
        gallery.upsert([Item("a", np.zeros(8, np.uint8), {}, state)])
        assert red_cells(gallery.explain("a", "a")) == 0
