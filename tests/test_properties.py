"""Properties of image files: what EXIF says, and what damaged EXIF must not do."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from bitgaze.encoding.images import ImageFile, Preprocess, load
from bitgaze.encoding.properties import properties_of

BASE, GPS = ExifTags.Base, ExifTags.GPS


def saved(
    main: dict[int, Any],
    camera: dict[int, Any] | None = None,
    place: dict[int, Any] | None = None,
    format: str = "JPEG",
) -> bytes:
    """An image file of 40 x 30 pixels with these tags."""
    exif = Image.Exif()
    exif.update(main)
    exif.get_ifd(ExifTags.IFD.Exif).update(camera or {})
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(place or {})
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, format, exif=exif)
    return file.getvalue()


def reopened(*tags: Any, format: str = "JPEG") -> Image.Image:
    return Image.open(io.BytesIO(saved(*tags, format=format)))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_size_date_camera_lens_and_place(format: str) -> None:
    image = reopened(
        {BASE.Make: "Canon", BASE.Model: "Canon EOS R5", BASE.DateTime: "2025:01:01 00:00:00"},
        {BASE.DateTimeOriginal: "2024:05:17 18:30:00", BASE.LensModel: "RF 50mm\0\0"},
        {
            GPS.GPSLatitudeRef: "S",
            GPS.GPSLatitude: (33.0, 51.0, 25.2),
            GPS.GPSLongitudeRef: "E",
            GPS.GPSLongitude: (151.0, 12.0, 55.44),
        },
        format=format,
    )
    assert properties_of(image) == {
        "width": 40,
        "height": 30,
        "format": format,
        "date": "2024-05-17T18:30:00",
        "camera": "Canon EOS R5",
        "lens": "RF 50mm",
        "latitude": -33.857,
        "longitude": 151.2154,
    }


def test_a_maker_whose_model_does_not_name_it() -> None:
    image = reopened({BASE.Make: "Google", BASE.Model: "Pixel 8"})
    assert properties_of(image)["camera"] == "Google Pixel 8"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_image(orientation: int) -> None:
    found = properties_of(reopened({BASE.Orientation: orientation}))
    expected = (30, 40) if orientation >= 5 else (40, 30)
    assert (found["width"], found["height"]) == expected


@pytest.mark.parametrize(
    "date", ["", "0000:00:00 00:00:00", "    :  :     :  :  ", "2024:13:01 00:00:00", "yesterday"]
)
def test_a_date_that_is_none_is_left_out(date: str) -> None:
    assert "date" not in properties_of(reopened({}, {BASE.DateTimeOriginal: date}))


def test_the_date_of_a_change_stands_in() -> None:
    image = reopened({BASE.DateTime: "2023:02:03 04:05:06"})
    assert properties_of(image)["date"] == "2023-02-03T04:05:06"


@pytest.mark.parametrize("latitude", [(0.0, 0.0, 0.0), (91.0, 0.0, 0.0), (1.0, 2.0)])
def test_a_place_that_is_none_is_left_out(latitude: tuple[float, ...]) -> None:
    place = {
        GPS.GPSLatitudeRef: "N",
        GPS.GPSLatitude: latitude,
        GPS.GPSLongitudeRef: "E",
        GPS.GPSLongitude: (0.0, 0.0, 0.0),
    }
    assert "latitude" not in properties_of(reopened({}, {}, place))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_leaves_the_size() -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(
        file, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\xff" * 60
    )
    found = properties_of(Image.open(file))
    assert found == {"width": 40, "height": 30, "format": "JPEG"}


def test_names_of_control_characters_or_endless_ones_are_left_out() -> None:
    image = reopened({BASE.Model: "x\x1b[2J"}, {BASE.LensModel: "y" * 5000})
    assert set(properties_of(image)) == {"width", "height", "format"}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_image_file_has_them_from_the_read_that_decodes(tmp_path: Path, format: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(saved({BASE.Orientation: 6, BASE.Model: "Pixel 8"}, format=format))
    source = ImageFile(path)
    assert source.properties == {}
    load(source, Preprocess(8))
    assert source.properties == {"width": 30, "height": 40, "format": format, "camera": "Pixel 8"}


def test_a_jpeg_that_is_decoded_at_a_reduced_scale_keeps_its_size(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.new("RGB", (1600, 800)).save(path)
    source = ImageFile(path)
    load(source, Preprocess(32))
    assert (source.properties["width"], source.properties["height"]) == (1600, 800)
