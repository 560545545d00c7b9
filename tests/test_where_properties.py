"""Conditions on what image files say of themselves."""

import pytest
from PIL import ExifTags, Image

from bitgaze import Gallery, Item, verify_gallery
from bitgaze.cli.main import main
from bitgaze.errors import WhereError
from conftest import smooth_image

BASE = ExifTags.Base
DATES = ["2023:12:31 23:59:59", "2024:05:01 00:00:00", "2024:05:31 12:00:00", None]


@pytest.fixture(scope="module")
def photos(tmp_path_factory, encoder):
    folder = tmp_path_factory.mktemp("photos")
    for n, date in enumerate(DATES):
        exif = Image.Exif()
        exif[BASE.Make], exif[BASE.Model] = ("Google", "Pixel 8") if n % 2 else ("Canon", "R5")
        if date:
            exif.get_ifd(ExifTags.IFD.Exif)[BASE.DateTimeOriginal] = date
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(
            {1: "N", 2: (47.0, float(n), 0.0), 3: "E", 4: (8.0, 0.0, 0.0)}
        )
        smooth_image(n, (64 + n, 48)).save(folder / f"{n}.jpg", exif=exif)
    return folder


@pytest.fixture
def gallery(photos, tmp_path, encoder):
    with Gallery(tmp_path / "g.bitgaze", encoder=encoder, looks=0) as gallery:
        gallery.sync(photos)
        yield gallery


def found(gallery, photos, where):
    query = gallery.query(smooth_image(0))
    keys = {hit.key for hit in gallery.search(query, k=100, where=where)}
    return {n for n in range(len(DATES)) if str(photos / f"{n}.jpg") in keys}


CASES = [
    ({"date": {">=": "2024-05", "<": "2024-06"}}, {1, 2}),
    ({"date": {">=": "2024"}}, {1, 2}),
    ({"date": None}, {3}),
    ({"camera": {"like": "%pixel%"}}, {1, 3}),
    ({"camera": "Canon R5", "width": {">": 64}}, {2}),
    ({"latitude": {"<": 47.03}, "longitude": 8}, {0, 1}),
    ({"format": "JPEG"}, {0, 1, 2, 3}),
]


def test_conditions_on_properties(gallery, photos):
    for where, expected in CASES:
        assert found(gallery, photos, where) == expected, where
    assert gallery.fields() == [
        *("camera", "date", "format", "height", "latitude", "longitude", "width"),
    ]
    with Gallery(gallery.path, create=False) as again:
        assert found(again, photos, CASES[0][0]) == CASES[0][1]
    assert verify_gallery(gallery.path).is_sound


def test_metadata_of_the_same_name_go_first_item_by_item(gallery, photos):
    gallery.set_metadata(str(photos / "0.jpg"), {"date": "2024-05-20", "album": "a"})
    gallery.set_metadata(str(photos / "1.jpg"), {"date": None})
    assert found(gallery, photos, {"date": {">=": "2024-05", "<": "2024-06"}}) == {0, 2}
    assert found(gallery, photos, {"date": None}) == {1, 3}
    gallery.set_metadata(str(photos / "1.jpg"), {})
    assert found(gallery, photos, {"date": {">=": "2024-05", "<": "2024-06"}}) == {0, 1, 2}
    assert verify_gallery(gallery.path).is_sound


def test_columns_follow_an_image_that_becomes_another(gallery, photos, tmp_path):
    path = tmp_path / "more" / "a.png"
    path.parent.mkdir()
    for width, height in ((30, 20), (90, 20)):
        smooth_image(9, (width, height)).save(path)
        gallery.sync(path.parent)
        hits = gallery.search(smooth_image(9), k=9, where={"width": width, "format": "PNG"})
        assert [hit.key for hit in hits] == [str(path)]
        assert hits[0].metadata == {}
    assert gallery.search(smooth_image(9), where={"width": 30}) == []
    path.unlink()
    smooth_image(8).save(path.parent / "b.jpg")
    gallery.sync(path.parent)
    assert gallery.search(smooth_image(9), where={"width": 90}) == []
    assert verify_gallery(gallery.path).is_sound


def test_items_of_many_chunks_with_properties_and_without(tmp_path):
    with Gallery(tmp_path / "g.bitgaze", bits=8) as gallery:
        gallery.upsert(
            Item(
                f"{n}",
                bytes_code(n),
                {"n": n} if n % 3 else {"width": -n},
                properties={"width": n} if n % 2 else None,
            )
            for n in range(9000)
        )
        expected = {f"{n}" for n in range(9000) if n % 2 and n % 3 and n >= 8990}
        hits = gallery.search_code(bytes_code(0), k=9000, where={"width": {">=": 8990}})
        assert {hit.key for hit in hits} == expected
        assert gallery.fields() == ["n", "width"]
    assert verify_gallery(gallery.path).is_sound


def bytes_code(n):
    import numpy as np

    return np.array([n % 256], np.uint8)


def test_the_command_line_takes_a_year_for_a_date(gallery, photos, capsys):
    for condition, expected in (("date>=2024", {1, 2}), ("date<2024-05", {0})):
        image, file = str(photos / "0.jpg"), str(gallery.path)
        assert main(["search", image, "-g", file, "--where", condition]) == 0
        out = capsys.readouterr().out
        assert {n for n in range(4) if f"{n}.jpg" in out} == expected


def test_an_unknown_field_names_those_that_exist(tmp_path):
    with Gallery(tmp_path / "g.bitgaze", bits=8) as gallery:
        assert gallery.search_code(bytes_code(0), where={"albun": "x"}) == []  # nothing to tell
        gallery.add_code("a", bytes_code(1))
        with pytest.raises(WhereError, match="no item has a field 'albun'; no item has metadata"):
            gallery.search_code(bytes_code(0), where={"albun": "x"})
        gallery.set_metadata("a", {"album": "x", "year": 2024})
        message = "no item has a field 'albun'; fields are album, year"
        for condition in ("x", {"!=": "x"}, {"like": "x"}, {">": 1}):
            with pytest.raises(ValueError, match=message):
                gallery.search_code(bytes_code(0), where={"albun": condition, "year": 2024})
        for field in ("@key", "date", "camera", "truncated"):
            assert gallery.search_code(bytes_code(0), where={field: "x"}) == []
        assert len(gallery.search_code(bytes_code(0), where={"albun": None})) == 1


def test_types_compared_across(tmp_path):
    with Gallery(tmp_path / "g.bitgaze", bits=8) as gallery:
        gallery.add_code("a", bytes_code(1), {"price": 5, "name": "x", "mixed": 1, "on": True})
        gallery.add_code("b", bytes_code(2), {"price": 7.5, "mixed": "x"})
        message = r"where\['price'\] is compared with '5', a string, but its values are numbers"
        with pytest.raises(WhereError, match=message):
            gallery.search_code(bytes_code(0), where={"price": {"<": "5"}})
        message = r"where\['name'\] is compared with 5, a number, but its values are strings"
        with pytest.raises(WhereError, match=message):
            gallery.search_code(bytes_code(0), where={"name": {">=": 5}})
        for where in ({"mixed": {"<": "y"}}, {"mixed": {"<": 2}}, {"price": {"<": 6}}):
            assert len(gallery.search_code(bytes_code(0), where=where)) == 1
        assert gallery.search_code(bytes_code(0), where={"on": {"<": 2}}) == []
        gallery.remove("a")
        with pytest.raises(WhereError):
            gallery.search_code(bytes_code(0), where={"mixed": {"<": 2}})
