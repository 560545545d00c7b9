"""Galleries with looks: search by all views of an image, by a region, and where hits match."""

import numpy as np
import pytest
from PIL import Image

from bitgaze import FingerprintMismatch, Gallery, GalleryError, ImageError, Item
from bitgaze.cli.main import main
from bitgaze.encoding.images import Region
from bitgaze.gallery.distances import view_distances
from bitgaze.gallery.query import Query
from bitgaze.gallery.search import encode_one

RIGHT = (0.5, 0.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def scenes(pets, tmp_path_factory):
    """A folder with the four pets, and a scene that shows two of them side by side."""
    folder = tmp_path_factory.mktemp("scenes")
    for path in sorted(pets.rglob("*.jpg")):
        (folder / path.name).write_bytes(path.read_bytes())
    scene = Image.new("RGB", (480, 240))
    for left, name in ((0, "owl.jpg"), (240, "goldfish.jpg")):
        with Image.open(folder / name) as image:
            scene.paste(image.resize((240, 240)), (left, 0))
    scene.save(folder / "scene.png")
    return folder


@pytest.fixture(scope="module")
def gallery(scenes, encoder, tmp_path_factory):
    path = tmp_path_factory.mktemp("looks") / "looks.bitgaze"
    with Gallery(path, encoder=encoder) as gallery:
        gallery.sync(scenes)
        yield gallery


def names(hits):
    return [hit.key.rpartition("/")[2] for hit in hits]


def test_a_gallery_keeps_as_many_looks_as_its_model_was_made_for(gallery, scenes):
    assert gallery.looks == 3
    item = gallery.get(str(scenes / "scene.png"))
    assert 1 <= len(item.looks) <= 3
    assert item.boxes.shape == (len(item.looks), 4)
    assert item.structure.any()
    assert item.properties["width"] == 480


def test_distances_are_those_of_all_views(gallery, scenes, encoder):
    query = encoder.encode([scenes / "owl.jpg"], looks=3)
    hits = gallery.search(scenes / "owl.jpg")
    assert hits[0].distance == 0
    for hit in hits:
        views = encoder.encode([hit.path], looks=3).views
        assert hit.distance == view_distances(query.views, views)[0]
    assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
    near = gallery.search(scenes / "owl.jpg", radius=int(hits[2].distance))
    assert near == [hit for hit in hits if hit.distance <= int(hits[2].distance)]


def test_a_hit_says_where_it_matches(gallery, scenes):
    hit = next(h for h in gallery.search(scenes / "goldfish.jpg") if h.key.endswith("scene.png"))
    left, _, right, _ = hit.box
    assert (left + right) / 2 > 0.5  # the goldfish is on the right
    own = gallery.search(scenes / "goldfish.jpg", k=1)[0]
    assert (own.box, own.query_box) == (None, None)


def test_a_region_finds_what_it_shows(gallery, scenes):
    for query in (scenes / "scene.png", str(scenes / "scene.png")):  # a file, and a key
        hits = gallery.search(query, region=RIGHT, exclude_self=True)
        assert names(hits)[0] == "goldfish.jpg"
        assert hits[0].query_box == RIGHT
        assert hits[0].same_kind is None  # not calibrated for a single view
    other = gallery.search(scenes / "scene.png", region=(0, 0, 0.5, 1), exclude_self=True)
    assert names(other)[0] == "owl.jpg"


def test_regions_that_cannot_be_searched(gallery, scenes):
    with pytest.raises(ValueError, match="expected left < right"):
        gallery.search(scenes / "scene.png", region=(0.5, 0, 0.5, 1))
    with pytest.raises(TypeError, match="the source of a region is a region"):
        gallery.search(Region(scenes / "scene.png", RIGHT), region=RIGHT)
    with pytest.raises(ValueError, match=r"pass the region to Gallery\.query"):
        gallery.search(gallery.query(scenes / "owl.jpg"), region=RIGHT)


def test_a_region_of_an_item_requires_its_file(tmp_path, scenes, encoder):
    image = tmp_path / "images" / "scene.png"
    image.parent.mkdir()
    image.write_bytes((scenes / "scene.png").read_bytes())
    with Gallery(tmp_path / "g.bitgaze", encoder=encoder, looks=1) as gallery:
        gallery.add("by hand", scenes / "owl.jpg")
        gallery.sync(image.parent)
        with pytest.raises(ImageError, match="'by hand' was added by hand, without a file"):
            gallery.search("by hand", region=RIGHT)
        image.write_bytes((scenes / "owl.jpg").read_bytes())
        with pytest.raises(ImageError, match="changed since it was added; sync its folder"):
            gallery.search(str(image), region=RIGHT)


def test_queries_are_encoded_once_and_searched_often(gallery, scenes):
    query = gallery.query(scenes / "owl.jpg")
    assert gallery.search(query) == gallery.search(scenes / "owl.jpg")
    asymmetric = gallery.search(scenes / "owl.jpg", ranking="asymmetric")
    assert gallery.search(query, ranking="asymmetric") == asymmetric
    again = Query.from_bytes(query.to_bytes(), 128)
    for hit, expected in zip(gallery.search(again), gallery.search(query), strict=True):
        assert (hit.key, hit.distance, hit.box) == (expected.key, expected.distance, expected.box)
    with pytest.raises(ValueError, match="asymmetric' requires hash values"):
        gallery.search(again, ranking="asymmetric")
    with pytest.raises(ValueError, match="31 bytes are no query with codes of 128 bits"):
        Query.from_bytes(bytes(31), 128)


def test_many_codes_at_once(gallery, scenes):
    paths = [scenes / "owl.jpg", scenes / "scene.png"]
    encoded = gallery.encode(paths)
    for path, hits in zip(paths, gallery.search_codes(encoded.views), strict=True):
        expected = gallery.search(path)
        assert [(hit.key, hit.distance) for hit in hits] == [
            (hit.key, hit.distance) for hit in expected
        ]
    assert gallery.search_code(encoded.views[0], k=2) == gallery.search_codes(encoded.views, 2)[0]
    # A single code finds the images that show it in any view.
    assert gallery.search_code(encoded.codes[0], k=1)[0].key == str(paths[0])
    with pytest.raises(ValueError, match=r"have 16 bytes each: expected \(q, 16\) or \(q, v"):
        gallery.search_codes(encoded.views[..., :8])


def test_a_gallery_without_looks_compares_whole_images(tmp_path, scenes, encoder):
    with Gallery(tmp_path / "g.bitgaze", encoder=encoder, looks=0) as gallery:
        gallery.sync(scenes)
        assert gallery.looks == 0
        encoded = encode_one(encoder.encode, scenes / "owl.jpg")
        for hit in gallery.search(scenes / "owl.jpg"):
            code = encoder.encode([hit.path]).codes[0]
            assert hit.distance == np.unpackbits(code ^ encoded.codes[0]).sum()
            assert (hit.box, hit.query_box) == (None, None)
            assert hit.same_kind is not None
        hit = gallery.search(scenes / "scene.png", region=RIGHT, exclude_self=True)[0]
        assert (hit.box, hit.query_box) == (None, RIGHT)
        assert names([hit]) == ["goldfish.jpg"]
        views = encoder.encode([scenes / "owl.jpg"], looks=1).views
        with pytest.raises(ValueError, match="has 2 views, but the items of this gallery have one"):
            gallery.search_codes(views)


def test_a_gallery_keeps_its_number_of_looks(tmp_path, scenes, encoder):
    path = tmp_path / "g.bitgaze"
    Gallery(path, encoder=encoder, looks=1).close()
    with Gallery(path, encoder=encoder) as gallery:
        assert gallery.looks == 1
        gallery.add("owl", scenes / "owl.jpg")
        assert len(gallery.get("owl").looks) == 1
    with pytest.raises(GalleryError, match="its images have 1 looks, expected 3"):
        Gallery(path, encoder=encoder, looks=3)
    with pytest.raises(ValueError, match="looks is 4, expected 0 to 3 with this model"):
        Gallery(tmp_path / "new.bitgaze", encoder=encoder, looks=4)
    with pytest.raises(ValueError, match="pass looks or bits, not both"):
        Gallery(tmp_path / "new.bitgaze", bits=64, looks=1)
    assert not (tmp_path / "new.bitgaze").exists()


def test_items_without_looks_are_found_beside_others(tmp_path, scenes, encoder):
    with Gallery(tmp_path / "g.bitgaze", encoder=encoder) as gallery:
        encoded = gallery.encode([scenes / "owl.jpg", scenes / "duck.jpg"])
        gallery.upsert([Item("code", encoded.codes[0]), Item.of_image("whole", encoded, 1)])
        assert len(gallery.get("code").looks) == 0
        hits = gallery.search(scenes / "owl.jpg")
        assert [hit.key for hit in hits] == ["code", "whole"]
        assert hits[0].box is None
        assert gallery.search("code", k=1, exclude_self=True)[0].key == "whole"


def test_an_adapted_gallery_adapts_looks_too(tmp_path, scenes, encoder, monkeypatch):
    monkeypatch.setattr("bitgaze.gallery.reencode.min_images", lambda bits: 4)
    monkeypatch.setattr("bitgaze.gallery.adaptation._STEPS", 2)
    with Gallery(tmp_path / "g.bitgaze", encoder=encoder) as gallery:
        gallery.sync(scenes)
        before = gallery.query(scenes / "owl.jpg")
        plain = gallery.get(str(scenes / "owl.jpg")).looks
        gallery.adapt()
        item = gallery.get(str(scenes / "owl.jpg"))
        assert not np.array_equal(item.looks, plain)
        query = gallery.query(scenes / "owl.jpg")
        assert np.array_equal(query.views[1 : 1 + len(item.looks)], item.looks)
        assert gallery.search(query, k=1)[0].distance == 0
        with pytest.raises(FingerprintMismatch, match="adapted since the query was encoded"):
            gallery.search(before)
        gallery.adapt(reset=True)
        assert np.array_equal(gallery.get(str(scenes / "owl.jpg")).looks, plain)
        assert gallery.search(before, k=1)[0].distance == 0


def test_the_same_image_is_known_by_its_file_and_by_its_structure(gallery, scenes, tmp_path):
    assert gallery.search(scenes / "owl.jpg", k=1)[0].same_image == 1
    assert gallery.search((scenes / "owl.jpg").read_bytes(), k=1)[0].same_image == 1
    with Image.open(scenes / "owl.jpg") as image:
        image.resize((image.width // 2, image.height // 2)).save(tmp_path / "s.jpg", quality=60)
    found = gallery.search(tmp_path / "s.jpg")
    assert names(found)[0] == "owl.jpg"
    assert 0.99 < found[0].same_image < 1
    assert [hit.same_image for hit in found[1:]] == [None] * 4


def test_the_same_pixels_in_another_file_are_a_copy_but_not_the_file(gallery, scenes, tmp_path):
    with Image.open(scenes / "owl.jpg") as image:
        image.convert("RGB").save(tmp_path / "copy.png")
    hit = gallery.search(tmp_path / "copy.png", k=1)[0]
    assert 0.999 < hit.same_image < 1
    assert hit.chances["a copy"] == ">99%"


def test_a_region_of_no_width_to_speak_of_is_its_pixels(gallery, scenes):
    assert len(gallery.search(scenes / "owl.jpg", region=(0, 0, 5e-324, 1))) == 5


def test_explain_reads_an_image_once(gallery, scenes):
    with (scenes / "owl.jpg").open("rb") as stream:
        assert gallery.explain(stream, str(scenes / "duck.jpg")).width == 872


def test_an_item_and_its_query_are_of_one_adaptation(gallery, scenes):
    query = gallery.item_query(str(scenes / "owl.jpg"))
    assert gallery.search(query) == gallery.search(str(scenes / "owl.jpg"))
    with pytest.raises(KeyError):
        gallery.item_query("nobody")


def test_boxes_of_no_area_count_for_nothing(gallery, scenes):
    content = bytearray(gallery.query(scenes / "owl.jpg").to_bytes())
    content[-8:] = b"\xff\xff\0\0\0\0\0\0"
    assert Query.from_bytes(bytes(content), 128).boxes[-1] is None


def test_print0_prints_the_bytes_of_paths(gallery, scenes, capfdbinary):
    where = ["-g", str(gallery.path), "--print0", "-k", "1"]
    assert main(["search", str(scenes / "owl.jpg"), *where]) == 0
    assert capfdbinary.readouterr().out == bytes(scenes / "owl.jpg") + b"\0"
    assert main(["search", "owl", "--words", *where]) == 0
    assert capfdbinary.readouterr().out == bytes(scenes / "owl.jpg") + b"\0"
    assert main(["search", "owl", "--words", "--exclude-self", *where]) == 2


def test_the_command_line_searches_for_a_region(gallery, scenes, capsys):
    gallery_file = str(gallery.path)
    query = ["search", str(scenes / "scene.png"), "-g", gallery_file, "--region", "0.5,0,1,1"]
    assert main(query) == 0
    assert "goldfish.jpg" in capsys.readouterr().out.splitlines()[0]
    for wrong in ("0.5,0,1", "1,0,0.5,1", "a,b,c,d"):
        with pytest.raises(SystemExit):
            main([*query[:-1], wrong])
        assert "expected LEFT,TOP,RIGHT,BOTTOM" in capsys.readouterr().err
    assert main(["info", "-g", gallery_file]) == 0
    assert "looks        3" in capsys.readouterr().out
