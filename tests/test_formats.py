"""HEIC, JPEG XL and RAW with the extras and without, images nobody reads, and truncated JPEGs."""

import io
import json
import struct

import numpy as np
import pytest
from PIL import ExifTags, Image

from bitgaze import Gallery, ImageError
from bitgaze.cli.main import main
from bitgaze.encoding import formats, memory
from bitgaze.encoding.formats import HEIC, JPEG_XL, RAW
from bitgaze.encoding.images import ImageFile, Preprocess, dimensions, load
from conftest import smooth_image

BASE = ExifTags.Base
SMALL = Preprocess(32)


def exif(orientation=1):
    made = Image.Exif()
    made[BASE.Make], made[BASE.Model], made[BASE.Orientation] = "Google", "Pixel 8", orientation
    made.get_ifd(ExifTags.IFD.Exif)[BASE.DateTimeOriginal] = "2024:05:17 18:30:00"
    return made


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def dng(preview, orientation=1, width=64, height=48):
    """A DNG file: a JPEG preview in the first directory, zeros of a sensor in another one."""
    entries = {}

    def tag(number, kind, *values):
        entries[number] = kind, values

    def directory(start):
        """The bytes of a directory at `start`, with its values behind it."""
        head, tail = b"", b""
        values_at = start + 2 + 12 * len(entries) + 4
        for number, (kind, values) in sorted(entries.items()):
            packed = (
                values[0]
                if kind in (1, 2)
                else struct.pack(f"<{len(values)}{'HI'[kind == 4]}", *values)
            )
            place = packed.ljust(4, b"\0")
            if len(packed) > 4:
                place = struct.pack("<I", values_at + len(tail))
                tail += packed + b"\0" * (len(packed) % 2)
            count = len(packed) // {1: 1, 2: 1, 3: 2, 4: 4}[kind]
            head += struct.pack("<HHI", number, kind, count) + place
        return struct.pack("<H", len(entries)) + head + struct.pack("<I", 0) + tail

    sensor = bytes(2 * width * height)
    sensor_at, preview_at = 8, 8 + len(sensor)
    second_at = preview_at + len(preview) + len(preview) % 2
    tag(254, 4, 0)
    tag(256, 4, width)
    tag(257, 4, height)
    tag(258, 3, 16)
    tag(259, 3, 1)
    tag(262, 3, 32803)
    tag(273, 4, sensor_at)
    tag(277, 3, 1)
    tag(278, 4, height)
    tag(279, 4, len(sensor))
    tag(33421, 3, 2, 2)
    tag(33422, 1, bytes([0, 1, 1, 2]))
    second = directory(second_at)
    entries.clear()
    with Image.open(io.BytesIO(preview)) as image:
        across, down = image.size
    tag(254, 4, 1)
    tag(256, 4, across)
    tag(257, 4, down)
    tag(258, 3, 8, 8, 8)
    tag(259, 3, 7)
    tag(262, 3, 6)
    tag(271, 2, b"Google\0")
    tag(272, 2, b"Pixel 8\0")
    tag(273, 4, preview_at)
    tag(274, 3, orientation)
    tag(277, 3, 3)
    tag(278, 4, down)
    tag(279, 4, len(preview))
    tag(306, 2, b"2024:05:17 18:30:00\0")
    tag(330, 4, second_at)
    tag(50706, 1, bytes([1, 4, 0, 0]))
    tag(50708, 2, b"Pixel 8\0")
    first_at = second_at + len(second) + len(second) % 2
    first = directory(first_at)
    body = (
        sensor
        + preview.ljust(second_at - preview_at, b"\0")
        + second.ljust(first_at - second_at, b"\0")
    )
    return b"II*\0" + struct.pack("<I", first_at) + body + first


def made(kind, image, orientation=1):
    """An image file of a format, by the package that reads it."""
    if kind == RAW:
        pytest.importorskip("rawpy")
        return dng(encoded(image, "JPEG", quality=95), orientation, *image.size)
    pytest.importorskip({HEIC: "pillow_heif", JPEG_XL: "pillow_jxl"}[kind])
    formats.prepare(kind)
    options = {HEIC: {"quality": 90}, JPEG_XL: {"quality": 95}}[kind]
    return encoded(
        image, {HEIC: "HEIF", JPEG_XL: "JXL"}[kind], exif=exif(orientation).tobytes(), **options
    )


SUFFIX = {HEIC: "heic", JPEG_XL: "jxl", RAW: "dng"}
KINDS = [HEIC, JPEG_XL, RAW]


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_and_properties(kind, tmp_path):
    image = smooth_image(3, (240, 160))
    path = tmp_path / f"a.{SUFFIX[kind]}"
    path.write_bytes(made(kind, image))
    source = ImageFile(path)
    difference = np.abs(load(source, SMALL).astype(int) - load(image, SMALL).astype(int))
    assert difference.mean() < 4
    assert difference.max() < 40
    expected = {"width": 240, "height": 160, "camera": "Google Pixel 8"}
    assert source.properties == expected | {
        "format": {HEIC: "HEIF", JPEG_XL: "JXL", RAW: "RAW"}[kind],
        "date": "2024-05-17T18:30:00",
    }
    assert np.array_equal(load(path.read_bytes(), SMALL), load(path, SMALL))
    assert dimensions(path) == (240, 160)


@pytest.mark.parametrize("kind", [HEIC, RAW])
def test_an_orientation_is_obeyed_once(kind, tmp_path):
    image = smooth_image(3, (240, 160))
    path = tmp_path / "a"
    path.write_bytes(made(kind, image, orientation=6))
    source = ImageFile(path)
    upright = image.transpose(Image.Transpose.ROTATE_270)
    difference = np.abs(load(source, SMALL).astype(int) - load(upright, SMALL).astype(int))
    assert difference.mean() < 4
    assert (source.properties["width"], source.properties["height"]) == (160, 240)


@pytest.mark.parametrize("size", [(8, 8), (40, 30), (257, 1), (300, 200), (3000, 17), (9000, 40)])
@pytest.mark.parametrize("container", [False, True])
def test_the_size_of_a_jpeg_xl_is_known_from_its_header(size, container):
    pytest.importorskip("pillow_jxl")
    formats.prepare(JPEG_XL)
    options = {"use_container": True, "exif": exif().tobytes()} if container else {}
    content = encoded(smooth_image(1, size), "JXL", **options)
    assert formats.jpeg_xl_size(io.BytesIO(content)) == size


def test_a_jpeg_xl_that_is_cut_is_an_image_error():
    content = made(JPEG_XL, smooth_image(1, (300, 200)))
    for length in (0, 1, 2, 5, 11, 12, 20, 40, len(content) // 2):
        with pytest.raises(ImageError):
            load(content[:length], SMALL)


@pytest.mark.parametrize("kind", KINDS)
def test_the_budget_of_decoded_bytes_holds(kind, monkeypatch):
    content = made(kind, smooth_image(1, (2400, 2000)))
    monkeypatch.setattr(memory, "_budget", memory.Budget(1_500_000))
    with pytest.raises(ImageError, match="2400 x 2000 pixels: decoding it takes"):
        load(content, Preprocess(2000))


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_extra_the_message_names_it(kind, monkeypatch):
    content = made(kind, smooth_image(1))
    monkeypatch.setattr(formats, "is_installed", lambda name: False)
    command = f"pip install 'bitgaze\\[{formats.EXTRAS[kind]}\\]'"
    with pytest.raises(ImageError, match=f"{kind} image: {command}"):
        load(content, SMALL)


HEADS = {
    HEIC: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40),
    JPEG_XL: b"\xff\x0a" + bytes(60),
    RAW: b"II*\0\x08\0\0\0CR\2\0" + bytes(60),
}


def test_what_a_file_begins_with():
    assert [formats.format_of(HEADS[kind]) for kind in KINDS] == [HEIC, JPEG_XL, None]
    assert formats.is_raw(io.BytesIO(HEADS[RAW]))
    assert formats.format_of(b"\0\0\0\x18ftypcrx \0\0\0\0crx isom") == RAW
    assert formats.format_of(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf") is None
    for format in ("AVIF", "JPEG", "PNG", "TIFF", "WEBP", "JPEG2000"):
        content = encoded(smooth_image(0), format)
        assert formats.format_of(content[:64]) is None
        assert not formats.is_raw(io.BytesIO(content))
    assert not formats.is_raw(io.BytesIO(b"II*\0"))


def test_index_groups_what_cannot_be_read(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(formats, "is_installed", lambda name: False)
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(3):
        (folder / f"{n}.HEIC").write_bytes(HEADS[HEIC])
    (folder / "a.jxl").write_bytes(HEADS[JPEG_XL])
    (folder / "a.cr2").write_bytes(HEADS[RAW])
    (folder / "in truth.heic").write_bytes(encoded(smooth_image(1), "JPEG"))
    for name in ("a.psd", "b.PSD", "c.svg", ".hidden.psd", "x.txt"):
        (folder / name).write_bytes(b"")
    assert main(["index", "photos"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("1 added, 0 updated, 0 moved, 0 removed, 0 unchanged, 0 refused")
    assert err.splitlines() == [
        "bitgaze: 3 HEIC images: pip install 'bitgaze[heic]'",
        "bitgaze: 1 JPEG XL image: pip install 'bitgaze[jxl]'",
        "bitgaze: 1 RAW image: pip install 'bitgaze[raw]'",
        "bitgaze: 2 .psd, 1 .svg: not read",
    ]
    assert main(["index", "photos", "--exclude", "*.psd", "--json"]) == 0
    unread = json.loads(capsys.readouterr().out)["unread"]
    assert unread[str(folder / "0.HEIC")] == HEIC
    assert unread[str(folder / "c.svg")] == ".svg"
    assert len(unread) == 6


def test_items_stay_when_an_extra_is_gone(tmp_path, encoder, monkeypatch):
    path = tmp_path / "photos" / "a.heic"
    path.parent.mkdir()
    path.write_bytes(made(HEIC, smooth_image(3, (240, 160))))
    with Gallery(tmp_path / "g.bitgaze", encoder=encoder) as gallery:
        assert gallery.sync(path.parent).added == [str(path)]
        monkeypatch.setattr(formats, "is_installed", lambda name: False)
        assert gallery.sync(path.parent).unchanged == 1
        path.write_bytes(HEADS[HEIC])
        report = gallery.sync(path.parent)
        assert report.unread == {str(path): HEIC}
        assert not report.removed
        assert not report.failed
        assert str(path) in gallery


def test_tolerant_takes_a_truncated_jpeg_and_marks_it(tmp_path, encoder, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    whole = smooth_image(5, (800, 600))
    content = encoded(whole, "JPEG", quality=90)
    (folder / "cut.jpg").write_bytes(content[: len(content) * 2 // 3])
    (folder / "whole.jpg").write_bytes(content)
    (folder / "no image.jpg").write_bytes(content[:100])
    gallery_file = str(tmp_path / "g.bitgaze")
    assert main(["index", str(folder), "-g", gallery_file]) == 1
    assert "cut.jpg: image file is truncated" in capsys.readouterr().err
    assert main(["index", str(folder), "-g", gallery_file, "--tolerant"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("1 added, 0 updated, 0 moved, 0 removed, 1 unchanged, 1 refused")
    assert "no image.jpg" in err
    with Gallery(gallery_file, encoder=encoder) as gallery:
        cut, other = (gallery.get(str(folder / name)) for name in ("cut.jpg", "whole.jpg"))
        assert cut.properties == {
            "width": 800,
            "height": 600,
            "format": "JPEG",
            "truncated": True,
        }
        assert "truncated" not in other.properties
        found = gallery.search(str(folder / "cut.jpg"), k=1, region=(0, 0, 1, 0.5))
        assert len(found) == 1  # the item's file is read again, as it was indexed


def test_what_a_truncated_jpeg_still_holds_is_decoded(tmp_path):
    image = smooth_image(5, (800, 600))
    content = encoded(image, "JPEG", quality=90)
    path = tmp_path / "cut.jpg"
    path.write_bytes(content[: len(content) * 2 // 3])
    found = load(ImageFile(path, is_tolerant=True), SMALL).astype(int)
    wanted = load(image, SMALL).astype(int)
    assert np.abs(found - wanted)[:16].mean() < 4
    assert np.abs(found - wanted)[-4:].mean() > 10
