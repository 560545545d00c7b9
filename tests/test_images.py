import contextlib
import hashlib
import io
import os
import stat
import struct
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import EpsImagePlugin, GifImagePlugin, Image, PngImagePlugin, WebPImagePlugin
from PIL import ImageFile as ImageFilePlugin

from bitgaze import ImageError
from bitgaze.encoding import images
from bitgaze.encoding.images import ImageFile, Preprocess, Region, load, upright
from conftest import smooth_image

SMALL = Preprocess(size=32)


def close(a, b, tolerance=3.0):
    """Compare mean grey levels; JPEG and filters change single pixels."""
    return np.abs(a.astype(float) - b.astype(float)).mean() < tolerance


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "bytearray", "file", "pil", "array"])
def test_every_kind_of_source_loads_the_same_pixels(kind, make_image):
    path = make_image("a.png", seed=1)
    sources = {
        "path": path,
        "str": str(path),
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "file": ImageFile(path),
        "pil": smooth_image(1),
        "array": np.asarray(smooth_image(1)),
    }
    pixels = load(sources[kind], SMALL)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert np.array_equal(pixels, load(path, SMALL))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1401, 40), "1781b5180fbbb540"),
        ((80, 40), "70c3f78e7bacd4c5"),
        ((40, 1401), "7c332795212212fb"),
        ((900, 449), "74d1180a1369428a"),
    ],
)
def test_every_version_of_pillow_resizes_to_the_same_pixels(shape, expected):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert hashlib.sha256(load(pixels, SMALL)).hexdigest()[:16] == expected


@pytest.mark.parametrize("shape", [(64, 256), (256, 64), (33, 31)])
def test_the_whole_image_becomes_a_square(shape):
    height, width = shape
    array = np.zeros((height, width, 3), np.uint8)
    array[: height // 2, : width // 2] = 255  # top left quarter
    pixels = load(array, SMALL)
    assert pixels.shape == (32, 32, 3)
    assert (pixels[:14, :14] > 240).all()
    assert (pixels[18:] < 15).all()
    assert (pixels[:, 18:] < 15).all()


def test_an_image_smaller_than_the_model_input_is_enlarged():
    assert load(np.full((1, 1), 77, np.uint8), SMALL).tolist() == np.full((32, 32, 3), 77).tolist()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation):
    image = smooth_image(3, (96, 64))
    stored = {
        1: image,
        2: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: image.transpose(Image.Transpose.ROTATE_180),
        4: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: image.transpose(Image.Transpose.TRANSPOSE),
        6: image.transpose(Image.Transpose.ROTATE_90),
        7: image.transpose(Image.Transpose.TRANSVERSE),
        8: image.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(stored, "jpeg", exif=exif, quality=95)
    assert upright(content, 32).size == image.size
    assert close(load(content, SMALL), load(image, SMALL))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns about the broken block
@pytest.mark.parametrize(
    "block",
    [b"Exif\x00\x00garbage", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"Exif\x00\x00MM\x00*\x00"],
)
def test_an_image_with_a_broken_exif_block_is_read(block):
    content = encoded(smooth_image(4), "jpeg", exif=block)
    assert load(content, SMALL).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("L", "png"),
        ("1", "png"),
        ("P", "gif"),
        ("LA", "png"),
        ("RGBA", "webp"),
        ("CMYK", "jpeg"),
        ("YCbCr", "tiff"),
        ("LAB", "tiff"),
        ("RGB", "bmp"),
        ("RGB", "ppm"),
        ("RGB", "avif"),
    ],
)
def test_every_mode_of_pillow_is_read(mode, kind):
    image = smooth_image(5, (40, 40))
    pixels = load(encoded(image.convert(mode), kind), SMALL)
    reference = load(image.convert(mode).convert("RGB"), SMALL)
    assert close(pixels, reference, tolerance=6)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_high_depth_greys_are_scaled_not_clipped(dtype):
    ramp = np.tile(np.linspace(0, 1, 64), (64, 1))
    top = {"uint16": 65535, "int32": 65535, "float32": 1.0}[dtype]
    kind = "png" if dtype == "uint16" else "tiff"
    pixels = load(encoded(Image.fromarray((ramp * top).astype(dtype)), kind), SMALL)
    assert close(pixels, load((ramp * 255).astype(np.uint8), SMALL))


def deep_grey(top, kind):
    """A ramp from 0 to `top` as a file, and the same ramp of 8 bits."""
    ramp = np.tile(np.linspace(0, 1, 64), (64, 1))
    values = (ramp * top).round()
    if kind == "float tiff":
        image, options = Image.fromarray(values.astype(np.float32)), {"tiffinfo": {341: float(top)}}
    elif kind == "I tiff":
        image, options = Image.fromarray(values.astype(np.int32)), {}
    elif kind == "I;16B tiff":
        big = values.astype(">u2")
        image, options = Image.frombytes("I;16B", (64, 64), big.tobytes()), {}
    else:
        image, options = Image.fromarray(values.astype(np.uint16)), {}
    return encoded(image, kind.split()[-1], **options), (ramp * 255).astype(np.uint8)


def with_significant_bits(png, bits):
    chunk = b"sBIT" + bytes([bits])
    chunk = struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:33] + chunk + png[33:]  # behind IHDR


@pytest.mark.parametrize("kind", ["I;16 png", "I;16 tiff", "I;16B tiff", "I tiff", "float tiff"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_greys_of_fewer_bits_are_scaled_by_the_bits_they_use(kind, bits):
    content, ramp = deep_grey((1 << bits) - 1, kind)
    assert close(load(content, SMALL), load(ramp, SMALL))
    with Image.open(io.BytesIO(content)) as image:
        assert close(load(image, SMALL), load(ramp, SMALL))
    if kind != "float tiff":
        stored = load(content, replace(SMALL, depth="stored")).astype(int)
        as_before = load((ramp * (((1 << bits) - 1) / 65535)).round().astype(np.uint8), SMALL)
        assert abs(stored - as_before).max() <= 1


@pytest.mark.parametrize(
    ("top", "bits", "white"),
    [
        (4095, 12, 4095),
        (1023, 12, 4095),  # dark
        (4095, 16, 65535),
        (65520, 12, 65535),  # shifted up, as the PNG specification says
        (255, None, 1023),
        (5000, None, 8191),
    ],
)
def test_a_png_may_say_how_many_bits_are_significant(top, bits, white):
    content, ramp = deep_grey(top, "I;16 png")
    content = with_significant_bits(content, bits) if bits else content
    assert close(load(content, SMALL), load((ramp * (top / white)).astype(np.uint8), SMALL))


@pytest.mark.parametrize(
    ("tag", "most", "white"), [(341, 16383, 16383), (341, 9000, 16383), (341, 65535, 65535)]
)
def test_a_tiff_file_may_say_which_sample_is_the_largest(tag, most, white):
    image = Image.fromarray(np.full((40, 40), 4095, np.uint16))
    pixels = load(encoded(image, "tiff", tiffinfo={tag: most}), SMALL)
    assert abs(int(pixels[0, 0, 0]) - 255 * 4095 / white) <= 1


def test_a_tiff_file_of_12_bit_samples_is_read_with_12_bits():
    samples = bytes.fromhex("0ff3ff") * 800  # 0x0ff and 0x3ff: 40 x 40
    entries = [
        (256, 40),
        (257, 40),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 122),
        (278, 40),
        (279, 2400),
    ]
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    content = (head + tags + bytes(4)).ljust(122, b"\0") + samples
    assert abs(load(content, Preprocess(size=40)).max() - 255 * 0x3FF / 4095) <= 1


@pytest.mark.parametrize("depth", ["stored", "used"])
def test_a_region_is_read_by_the_same_rule(depth):
    content, _ = deep_grey(4095, "I;16 png")
    preprocess = replace(SMALL, depth=depth)
    whole = load(Region(content, (0.0, 0.0, 1.0, 1.0)), preprocess)
    assert np.array_equal(whole, load(content, preprocess))


def test_the_transparent_value_tells_nothing_of_the_depth():
    samples = np.full((40, 40), 4095, np.uint16)
    samples[:20] = 1000
    samples[0] = 65535
    content = encoded(Image.fromarray(samples), "png", transparency=65535)
    pixels = load(content, Preprocess(size=40))
    assert (pixels[[0, -1]] == 255).all()
    assert abs(pixels[10].astype(int) - 1000 * 255 / 4095).max() <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.01, -0.01])
def test_a_float_sample_out_of_range_is_refused(value):
    samples = np.full((40, 40), 0.5, np.float32)
    samples[7, 8] = value
    with pytest.raises(ImageError, match=r"samples are in .*, expected 0\.\.1 in mode F"):
        load(encoded(Image.fromarray(samples), "tiff"), SMALL)


@pytest.mark.parametrize("value", [-1, 65536])
def test_integer_samples_beyond_16_bits_are_refused(value):
    samples = np.full((40, 40), 1000, np.int32)
    samples[7, 8] = value
    with pytest.raises(ImageError, match=r"PIL image: samples are in .*, expected 0\.\.65535"):
        load(Image.fromarray(samples), SMALL)


def test_8_bit_samples_held_in_32_bits_keep_their_values():
    assert (load(Image.fromarray(np.full((40, 40), 200, np.int32)), SMALL) == 200).all()


def test_transparency_is_composited_on_white():
    array = np.zeros((40, 40, 4), np.uint8)
    assert (load(array, SMALL) == 255).all()
    palette = Image.new("P", (40, 40))
    palette.putpalette([10, 20, 30] * 256)
    assert (load(encoded(palette, "png", transparency=0), SMALL) == 255).all()


@pytest.mark.parametrize("mode", ["RGBa", "La"])
def test_premultiplied_modes_are_read(mode):
    image = smooth_image(5).convert("L")
    image.putalpha(smooth_image(6, image.size).convert("L"))
    image = image.convert("RGBA") if mode == "RGBa" else image
    pixels = load(image.convert(mode), SMALL)
    assert close(pixels, load(image, SMALL))


def test_a_large_transparent_image_is_composited_in_strips(monkeypatch):
    image = smooth_image(5, (1500, 1000))
    image.putalpha(smooth_image(6, image.size).convert("L"))
    white = Image.new("RGBA", image.size, "white")
    expected = Image.alpha_composite(white, image).convert("RGB")
    strips = []
    whole = Image.alpha_composite

    def recorded(below, above):
        strips.append(above.size)
        return whole(below, above)

    monkeypatch.setattr(Image, "alpha_composite", recorded)
    assert np.array_equal(upright(image, 32), expected)
    assert max(width * height for width, height in strips) < 1_100_000


def png(samples, transparent):
    """A PNG of 16-bit samples, (height, width) or (height, width, 3), with a tRNS chunk."""

    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    height, width = samples.shape[:2]
    colour_type = 0 if samples.ndim == 2 else 2
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"tRNS", np.array(transparent, ">u2").tobytes())
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("colour", [0x1234, (0x1234, 0x4321, 0x9999)])
def test_16_bit_samples_with_a_transparent_colour(colour):
    shape = (40, 40) if isinstance(colour, int) else (40, 40, 3)
    samples = np.full(shape, 0x8080, np.uint16)
    samples[:20] = colour
    pixels = load(png(samples, colour), SMALL)
    assert (pixels[:14] == 255).all()
    assert (pixels[18:] == 128).all()


def test_colours_of_16_bits_are_read_by_their_high_bytes():
    """Pillow gives no more of them, so that 12-bit values are dark, as documented."""
    samples = np.full((40, 40, 3), 4095, np.uint16)
    assert (load(png(samples, (1, 2, 3)), SMALL) == 15).all()
    assert (load(png(samples << 4, (1, 2, 3)), SMALL) == 255).all()


def test_the_first_frame_of_an_animation_is_read():
    first, second = smooth_image(6).convert("P"), smooth_image(7).convert("P")
    content = encoded(first, "gif", save_all=True, append_images=[second], duration=50)
    assert close(load(content, SMALL), load(first.convert("RGB"), SMALL))


def animation(kind, frames, **options):
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_the_first_frame_that_is_not_plain_is_read(kind):
    black, image = Image.new("RGB", (64, 48)), smooth_image(6)
    dim = Image.blend(black, image, 0.5)
    content = animation(kind, [black, Image.new("RGB", (64, 48), (3, 3, 3)), dim, image])
    assert close(load(content, SMALL), load(dim, SMALL), 8)
    content = animation(kind, [image, black])
    assert close(load(content, SMALL), load(image, SMALL), 8)
    red = Image.new("RGB", (64, 48), "red")
    assert close(load(animation(kind, [black, red]), SMALL), load(black, SMALL), 8)


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_plain_frames_have_a_limit_of_pixels(kind, monkeypatch):
    """A fade of 10 megapixels is followed for 10 frames, the first included."""
    looked_at, is_plain = [], images._is_plain
    monkeypatch.setattr(images, "_is_plain", lambda image: looked_at.append(0) or is_plain(image))
    monkeypatch.setattr(images, "_MOST_FRAMES_PIXELS", images._MOST_FRAMES_PIXELS * 3072 // 10**7)
    frames = [Image.new("RGB", (64, 48), (level, 0, 0)) for level in range(0, 200, 10)]
    assert close(load(animation(kind, frames), SMALL), load(frames[0], SMALL), 8)
    assert len(looked_at) == 10


@pytest.mark.parametrize(
    ("kind", "decoder", "step"),
    [
        ("gif", GifImagePlugin.GifImageFile, "_seek"),
        ("png", PngImagePlugin.PngImageFile, "_seek"),
        ("webp", WebPImagePlugin.WebPImageFile, "_get_next"),
    ],
)
def test_of_thousands_of_plain_frames_a_hundred_are_decoded(kind, decoder, step, monkeypatch):
    decoded, decode = [], getattr(decoder, step)
    frames = [Image.new("RGB", (16, 16), (level % 200, level // 200, 0)) for level in range(2000)]
    content = animation(kind, frames, **({"lossless": True} if kind == "webp" else {}))

    def counted(*arguments, **options):
        decoded.append(0)
        return decode(*arguments, **options)

    monkeypatch.setattr(decoder, step, counted)
    assert close(load(content, SMALL), load(frames[0], SMALL))
    assert 90 < len(decoded) < 110


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_an_animation_that_is_plain_as_far_as_it_can_be_read_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (64, 48)), smooth_image(6), smooth_image(7)]
    content = bytearray(animation(kind, frames, **({"lossless": True} if kind == "webp" else {})))
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    with contextlib.suppress(ImageError):
        load(bytes(content), SMALL)


def test_a_large_jpeg_is_decoded_at_a_reduced_scale():
    content = encoded(smooth_image(8, (1600, 1200)), "jpeg")
    assert max(upright(content, 32).size) < 400
    assert close(load(content, SMALL), load(smooth_image(8, (1600, 1200)), SMALL))


@pytest.mark.parametrize("content", [b"", b"text, not an image", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_not_an_image_is_named(content, tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"broken\.jpg: not an image"):
        load(path, SMALL)


def test_a_program_named_like_an_image_is_not_run(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n"
    )
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("it was run"))
    with pytest.raises(ImageError, match=r"a\.jpg: not an image that bitgaze reads"):
        load(path, SMALL)


@pytest.mark.parametrize("kind", ["tga", "qoi", "jpeg2000", "dib", "mpo"])
def test_the_rarer_formats_are_read(kind):
    assert close(load(encoded(smooth_image(5), kind), SMALL), load(smooth_image(5), SMALL))


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "webp", "tiff"])
def test_a_truncated_image_is_refused(kind, tmp_path):
    content = encoded(smooth_image(9, (200, 200)), kind)
    path = tmp_path / "half.img"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=r"half\.img"):
        load(path, SMALL)


def test_a_truncated_image_opened_lazily_is_refused():
    content = encoded(smooth_image(9, (200, 200)), "jpeg")
    with (
        Image.open(io.BytesIO(content[: len(content) // 2])) as lazy,
        pytest.raises(ImageError, match="PIL image: .*truncated"),
    ):
        load(lazy, SMALL)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ImageError, match=r"none\.jpg: No such file"):
        load(tmp_path / "none.jpg", SMALL)
    with pytest.raises(ImageError, match="a folder; name an image in it"):
        load(tmp_path, SMALL)


def test_a_name_that_is_not_utf8_can_be_read_and_printed(tmp_path, make_image):
    path = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    os.rename(make_image("a.png"), path)
    assert load(os.fsdecode(path), SMALL).shape == (32, 32, 3)
    with pytest.raises(ImageError, match=r"\\xff\\xfe\.gif"):
        load(os.fsdecode(path[:-3] + b"gif"), SMALL)


def test_a_decompression_bomb_is_refused_before_decoding(monkeypatch):
    content = encoded(smooth_image(1, (300, 300)), "png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300 * 300 // 2 - 1)
    with pytest.raises(ImageError, match="exceeds limit"):
        load(content, SMALL)


def test_a_decompression_bomb_is_refused_even_without_pillows_limit(monkeypatch):
    content = bytearray(encoded(smooth_image(1), "bmp"))
    content[18:26] = struct.pack("<ii", 60_000, 60_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageError, match="bytes: 60000 x 60000 pixels, the maximum is 178956970"):
        load(bytes(content), SMALL)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "tiff", "bmp", "avif", "ppm"])
def test_a_damaged_image_is_read_or_raises_an_image_error(kind):
    content = encoded(smooth_image(2), kind)
    random = np.random.default_rng(7)
    for _ in range(60):
        damaged = bytearray(content)
        for position in random.integers(0, min(len(damaged), 300), 3):
            damaged[position] ^= 1 << random.integers(8)
        with contextlib.suppress(ImageError):
            assert load(bytes(damaged), SMALL).shape == (32, 32, 3)


def test_arguments_that_are_not_images_are_rejected():
    with pytest.raises(TypeError, match="path, bytes, PIL.Image or numpy array, not int"):
        load(3, SMALL)
    with pytest.raises(TypeError, match="uint8, not float32"):
        load(np.zeros((8, 8, 3), np.float32), SMALL)
    for shape in [(8,), (8, 8, 2), (0, 8, 3), (1, 8, 8, 3)]:
        with pytest.raises(ValueError, match="shape"):
            load(np.zeros(shape, np.uint8), SMALL)


def test_preprocess_rejects_bad_values():
    with pytest.raises(ValueError, match="size is 0"):
        Preprocess(size=0)
    for name in ("filter", "exif", "alpha", "resize"):
        with pytest.raises(ValueError, match=f"{name} is 'other', this version .* supports"):
            Preprocess(size=32, **{name: "other"})


def test_the_limit_for_webp_is_a_quarter():
    """Two small frames on a canvas of 94 million pixels took 1.4 GB."""
    frames = [smooth_image(seed, (64, 48)) for seed in range(2)]
    stream = io.BytesIO()
    frames[0].save(stream, "webp", save_all=True, append_images=frames[1:])
    content = bytearray(stream.getvalue())
    canvas = content.index(b"VP8X") + 12  # width and height, less one, 3 bytes each
    content[canvas : canvas + 6] = (16382).to_bytes(3, "little") + (3699).to_bytes(3, "little")
    with pytest.raises(ImageError, match="16383 x 3700 pixels, the maximum is 44739242 in total"):
        load(bytes(content), Preprocess(size=32))


@pytest.fixture(params=[1 << 20, 0], ids=["in memory", "from its descriptor"])
def in_memory_bytes(request, monkeypatch):
    monkeypatch.setattr(images, "_IN_MEMORY_BYTES", request.param)


@pytest.mark.usefixtures("in_memory_bytes")
class TestImageFile:
    @pytest.mark.parametrize("kind", [str, os.fsencode])
    def test_it_knows_the_file_that_it_read(self, kind, make_image):
        path = make_image("a.png")
        source = ImageFile(kind(path))
        assert np.array_equal(load(source, SMALL), load(path, SMALL))
        status = path.stat()
        assert source.content == hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
        assert (source.size, source.mtime_ns) == (status.st_size, status.st_mtime_ns)
        assert source.ctime_ns == status.st_ctime_ns
        assert not source.has_changed

    def test_it_has_the_digest_of_a_file_that_is_no_image(self, tmp_path):
        path = tmp_path / "a.jpg"
        path.write_bytes(b"text")
        source = ImageFile(path)
        with pytest.raises(ImageError, match=r"a\.jpg: not an image that bitgaze reads"):
            load(source, SMALL)
        assert source.content == hashlib.blake2b(b"text", digest_size=16).digest()
        assert not source.has_changed

    @pytest.mark.parametrize(
        "change", ["replaced", "renamed", "removed", "written", "grown", "shortened", "restored"]
    )
    def test_a_change_during_the_read_is_seen(self, change, make_image, monkeypatch):
        path, other = make_image("a.png", seed=1), make_image("b.png", seed=2)
        content, status = path.read_bytes(), path.stat()

        def moved():
            if change == "replaced":
                os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
                other.replace(path)
            elif change == "renamed":
                path.rename(path.with_name("c.png"))
            elif change == "removed":
                path.unlink()
            elif change == "shortened":
                os.truncate(path, 100)
            elif change == "grown":
                path.write_bytes(content + b" ")
            else:
                path.write_bytes(content[:-1] + b" ")
            if change == "restored":
                path.write_bytes(content)
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

        open_image = Image.open

        def opened(*arguments, **named):
            moved()
            return open_image(*arguments, **named)

        monkeypatch.setattr(Image, "open", opened)
        source = ImageFile(path)
        with pytest.raises(ImageError, match=r"a\.png: changed while it was being read"):
            load(source, SMALL)
        assert source.has_changed

    def test_a_change_after_the_read_does_not_matter(self, make_image):
        path, other = make_image("a.png", seed=1), make_image("b.png", seed=2)
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
        source = ImageFile(path)
        load(source, SMALL)
        other.replace(path)
        assert source.content == digest
        assert not source.has_changed

    def test_inode_numbers_that_change_do_not_refuse_a_file(self, make_image, monkeypatch):
        monkeypatch.setattr(os.path, "samestat", lambda *_: False)
        source = ImageFile(make_image("a.png"))
        load(source, SMALL)
        assert not source.has_changed

    def test_what_is_no_regular_file_is_refused_at_once(self, tmp_path):
        with pytest.raises(ImageError, match="a folder"):
            load(ImageFile(tmp_path), SMALL)
        with pytest.raises(ImageError, match=r"none\.png: No such file"):
            load(ImageFile(tmp_path / "none.png"), SMALL)
        if hasattr(os, "mkfifo"):
            os.mkfifo(tmp_path / "pipe.png")
            with pytest.raises(ImageError, match=r"pipe\.png: not a regular file"):
                load(ImageFile(tmp_path / "pipe.png"), SMALL)


@pytest.mark.parametrize("source", [str, ImageFile])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("tiff", {}), ("tiff", {"compression": "tiff_lzw"}), ("bmp", {}), ("ppm", {}), ("tga", {})],
)
@pytest.mark.usefixtures("in_memory_bytes")
def test_a_file_that_is_shortened_while_it_is_decoded_is_refused(
    source, kind, options, tmp_path, monkeypatch
):
    """Mapped into memory, by Pillow or by libtiff, it would end the process: SIGBUS."""
    path = tmp_path / "scan"
    noise = np.random.default_rng(1).integers(0, 256, (700, 700), np.uint8)
    Image.fromarray(noise).save(path, kind, **options)
    decode = ImageFilePlugin.ImageFile.load_prepare
    mapped = []

    def shorten(image):
        os.truncate(path, 1000)
        if (maps := Path("/proc/self/maps")).exists():
            mapped.append(str(path) in maps.read_text())
        return decode(image)

    monkeypatch.setattr(ImageFilePlugin.ImageFile, "load_prepare", shorten)
    with pytest.raises(ImageError, match="scan: "):
        load(source(path), SMALL)
    assert not any(mapped)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_read_and_a_device_that_never_ends_is_refused(tmp_path, make_image, monkeypatch):
    content = make_image("a.png").read_bytes()
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[content])
    writer.start()
    assert np.array_equal(load(tmp_path / "pipe", SMALL), load(content, SMALL))
    writer.join()
    monkeypatch.setattr(images, "_STREAM_BYTES", 1_000_000)
    with pytest.raises(ImageError, match="/dev/zero: not a regular file, and more than 1000000"):
        load("/dev/zero", SMALL)


def test_a_file_just_written_is_read_once_its_times_can_show_a_change(make_image):
    path = make_image("a.png")
    os.utime(path)
    source = ImageFile(path)
    load(source, SMALL)
    assert path.stat().st_mtime_ns + 10_000_000 < time.time_ns()


@pytest.mark.parametrize(
    ("times_ns", "waited"),
    [
        ((99_000_000_000, 98_000_000_000), [0.5]),
        ((98_000_000_000, 98_000_000_000), []),
        ((99_000_000_000, 98_000_000_001), []),
        ((100_490_000_000, 98_000_000_000), [0.01]),
    ],
)
def test_times_in_whole_seconds_are_waited_for_longer(times_ns, waited, monkeypatch):
    waits = []
    status = SimpleNamespace(st_mode=stat.S_IFREG, st_mtime_ns=times_ns[0], st_ctime_ns=times_ns[1])
    monkeypatch.setattr(time, "time_ns", lambda: 100_500_000_000)
    monkeypatch.setattr(time, "sleep", waits.append)
    assert images._settled(SimpleNamespace(status=lambda: status)) is status
    assert waits == pytest.approx(waited)
