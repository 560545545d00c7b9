import io
import linecache
import multiprocessing
import os
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from bitgaze import Encoder, ImageError
from bitgaze.cli.main import main
from bitgaze.encoding import images, memory
from bitgaze.encoding.costs import decoding_cost
from bitgaze.encoding.heatmap import thumbnail
from bitgaze.encoding.images import Preprocess, dimensions, fitted, load, upright
from bitgaze.encoding.memory import Budget, Reservation
from conftest import smooth_image

SMALL = Preprocess(size=32)


def give_back(reservation):
    reservation.budget.parts.pop(reservation, None)
    reservation.wake_others()


def saved(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def limit(monkeypatch):
    """A function that sets the budget of this process for one test."""
    monkeypatch.setattr(memory, "_budget", None)
    return memory.limit


def test_reservations_wait_for_one_another_in_turn():
    budget = Budget(100)
    held = Reservation(budget)
    held.take(60)
    order = []

    def reserve(name, cost):
        reservation = Reservation(budget)
        try:
            reservation.take(cost)
            order.append(name)
        finally:
            give_back(reservation)

    threads = []
    for name, cost in (("large", 100), ("small", 10)):
        threads.append(threading.Thread(target=reserve, args=(name, cost)))
        threads[-1].start()
        while len(budget.parts) <= len(threads):
            time.sleep(0.001)
    assert order == []  # the small one would fit, but does not overtake
    give_back(held)
    for thread in threads:
        thread.join(10)
    assert order == ["large", "small"]
    assert not budget.parts


def test_many_threads_never_hold_more_than_the_budget():
    budget = Budget(100)
    granted = {}
    most = []

    def reserve(cost):
        reservation = Reservation(budget)
        try:
            reservation.take(cost)
            granted[reservation] = cost
            most.append(sum(list(granted.values())))
        finally:
            granted.pop(reservation, None)
            give_back(reservation)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(reserve, np.random.default_rng(1).integers(0, 101, 2000).tolist()))
    assert len(most) == 2000
    assert 50 < max(most) <= 100
    assert not budget.parts


def test_a_reservation_is_given_back_wherever_it_is_interrupted(limit, encoder):
    """At each line of decoding an image, as Ctrl-C can; the exception is kept, as notebooks do."""
    content = saved(smooth_image(1), "png")
    files = {memory.__file__, images.__file__}
    kept = []

    def interrupted(after):
        lines = 0

        def trace(frame, event, argument):
            nonlocal lines
            code = frame.f_code
            if code.co_filename not in files:
                return None
            is_giving_back = code.co_name == "with_upright" and frame.f_lineno > first + 2
            if event == "line" and not is_giving_back:
                lines += 1
                if lines == after:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return trace

        first = next(
            line
            for _, _, line in images.with_upright.__code__.co_lines()
            if line and "Reservation" in linecache.getline(images.__file__, line)
        )
        sys.settrace(trace)
        try:
            load(content, SMALL)
        except (KeyboardInterrupt, ImageError) as error:
            kept.append(error)
            return True
        finally:
            sys.settrace(None)
        return False

    limit(1_000_000)
    after = 1
    while interrupted(after):
        assert not memory.budget().parts, after
        after += 1
    assert after > 60


def test_an_image_above_the_whole_budget_is_refused_by_name(limit, tmp_path):
    path = tmp_path / "scan.png"
    Image.new("RGB", (1000, 1500)).save(path)
    limit(5_000_000)
    with pytest.raises(ImageError) as refusal:
        load(path, SMALL)
    for words in ("scan.png: 1000 x 1500 pixels", "6 MB", "limit is 5 MB", "--max-decoded-mb"):
        assert words in str(refusal.value)
    limit(7_000_000)
    assert load(path, SMALL).shape == (32, 32, 3)


@pytest.mark.parametrize("call", [thumbnail, lambda source: fitted(source, 32)])
def test_thumbnails_keep_to_the_budget(call, limit):
    content = saved(Image.new("RGB", (1000, 1500)), "png")
    limit(5_000_000)
    with pytest.raises(ImageError, match="--max-decoded-mb or"):
        call(content)
    limit(7_000_000)
    assert max(call(content).size) <= 320


@pytest.mark.parametrize("size", [(500, 300), (20, 10), (32, 32), (1, 700)])
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif"])
def test_a_fitted_image_is_the_thumbnail_of_the_whole_one(kind, size):
    content = saved(smooth_image(1, size), kind)
    expected = upright(content, 32)
    expected.thumbnail((32, 32))
    found = fitted(content, 32)
    assert type(found) is Image.Image
    assert np.array_equal(found, expected)
    source = smooth_image(1, size)
    fitted(source, 32)
    assert source.size == size  # the caller's own


def test_threads_that_decode_large_images_wait_for_one_another(limit, encoder, monkeypatch):
    content = saved(Image.new("RGB", (1000, 1000)), "png")
    limit(9_000_000)  # two at once
    take = Reservation.take
    granted, most = {}, []

    def recorded(self, cost_bytes):
        take(self, cost_bytes)
        granted[self] = cost_bytes
        alive = list(memory.budget().parts)
        most.append(sum(cost for part, cost in list(granted.items()) if part in alive))
        time.sleep(0.001)

    monkeypatch.setattr(Reservation, "take", recorded)
    with Encoder(threads=4) as four:
        encoded = four.encode([content] * 24)
    assert not encoded.errors
    assert len(most) == 24
    assert max(most) <= 9_000_000
    assert not memory.budget().parts


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "tiff", "avif", "jpeg2000", "bmp"])
def test_nothing_is_decoded_before_its_memory_is_reserved(kind, monkeypatch):
    content = saved(smooth_image(1, (640, 480)), kind)
    is_granted = False
    take, prepare = Reservation.take, ImageFile.ImageFile.load_prepare

    def taken(self, cost_bytes):
        nonlocal is_granted
        take(self, cost_bytes)
        is_granted = True

    def prepared(self):
        assert is_granted
        prepare(self)

    monkeypatch.setattr(Reservation, "take", taken)
    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", prepared)
    load(content, SMALL)
    assert is_granted


def test_images_that_cannot_be_read_give_their_memory_back(limit, encoder):
    limit(5_000_000)
    content = saved(smooth_image(1, (900, 900)), "png")
    sources = [content[: len(content) // 2]] * 8 + [content]
    encoded = encoder.encode(sources)
    assert set(encoded.errors) == set(range(8))
    assert not memory.budget().parts
    assert all(error.__traceback__ is None for error in encoded.errors.values())


def test_what_the_caller_holds_already_is_never_refused(limit):
    limit(1_000_000)
    image = Image.new("RGBA", (1000, 1000), (0, 0, 0, 0))
    assert (load(image, SMALL) == 255).all()
    assert (load(np.asarray(image), SMALL) == 255).all()


def test_the_cost_counts_rows_and_strips_and_coefficients():
    def cost(content, **facts):
        with Image.open(io.BytesIO(content)) as image:
            return decoding_cost(image, 0, **facts)

    tall = saved(Image.new("L", (1, 100_000)), "png")
    assert cost(tall) > 24 * 100_000  # two copies, each with a pointer and four bytes a row
    plain = saved(Image.new("RGB", (1000, 1000)), "tiff", compression="tiff_lzw")
    one_strip = saved(
        Image.new("RGB", (1000, 1000)), "tiff", compression="tiff_lzw", tiffinfo={278: 1000}
    )
    assert cost(plain) < 5_000_000 < 7_000_000 < cost(one_strip)
    jpeg = saved(Image.new("RGB", (1000, 1000)), "jpeg", progressive=True, subsampling=0)
    assert cost(jpeg, coefficients=1_000_000) - cost(jpeg) > 6_000_000


def strip(width, height):
    """A PNG of any size, RGBA, in a few kilobytes."""
    rows = zlib.compressobj(1)
    data = b"".join(rows.compress(bytes(1 + 4 * width)) for _ in range(height)) + rows.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1, 1_000_001), (1_000_001, 1)])
def test_a_longer_side_than_of_any_panorama_is_refused(size):
    with pytest.raises(ImageError, match="pixels, the maximum for a side is 1000000"):
        load(strip(*size), SMALL)


_PEAK = """
import sys
from pathlib import Path
from bitgaze.encoding import images
def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])
costs, decoding_cost = [], images.decoding_cost
def noted(*arguments, **facts):
    costs.append(decoding_cost(*arguments, **facts))
    return costs[-1]
images.decoding_cost = noted
for path in [sys.argv[1], *sys.argv[1:]]:  # the first time with what Pillow loads
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    images.load(path, images.Preprocess(size=224))
    print(resident("VmHWM") - before, costs[-1])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux")  # noqa: PTH110
def test_strips_take_no_more_memory_than_their_cost(tmp_path):
    sizes = [(1, 1_000_000), (1_000_000, 1), (12, 1_000_000), (1_000_000, 12)]
    paths = []
    for size in sizes:
        paths.append(tmp_path / f"{size[0]} x {size[1]}.png")
        paths[-1].write_bytes(strip(*size))
    printed = subprocess.run(
        [sys.executable, "-c", _PEAK, *paths],
        env={**os.environ, "BITGAZE_MAX_DECODED_MB": "4000"},
        check=True,
        capture_output=True,
        text=True,
    )
    _, *lines = printed.stdout.splitlines()
    for size, line in zip(sizes, lines, strict=True):
        peak, cost = map(int, line.split())
        assert peak < cost + 4_000_000, size


def test_of_a_jpeg_only_decoded_pixels_count(limit):
    """A panorama of 204 megapixels, 13 of them decoded."""
    content = saved(Image.new("L", (60_000, 3_400), 77), "jpeg", quality=20)
    limit(70_000_000)
    assert dimensions(content) == (60_000, 3_400)
    assert np.ptp(load(content, Preprocess(size=224))) == 0
    progressive = saved(Image.new("L", (9_000, 3_400), 77), "jpeg", progressive=True)
    limit(30_000_000)
    with pytest.raises(ImageError, match=r"takes 6\d MB of memory, the limit is 30 MB"):
        load(progressive, SMALL)


def segment(code, content):
    return b"\xff" + bytes([code]) + struct.pack(">H", len(content) + 2) + content


def many_scans(count):
    content = saved(Image.new("L", (64, 64), 99), "jpeg", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + (count - content.count(b"\xff\xda")) * content[last:-2] + content[last:]


@pytest.mark.parametrize(
    ("insert", "message"),
    [
        (b"\xff" * 1_000_000, "65536 bytes between its segments"),
        (b"\0" * 1_000_000, "65536 bytes between its segments"),
        (b"\xff\x00" * 100_000, "65536 bytes between its segments"),
        (segment(0xE9, b"") * 100_000, "10000 segments"),
        (b"\xff\xd0" * 100_000, "10000 segments"),
    ],
)
def test_a_jpeg_that_keeps_pillow_busy_is_refused(insert, message):
    content = saved(smooth_image(1), "jpeg")
    started = time.process_time()
    with pytest.raises(ImageError, match=message):
        dimensions(content[:2] + segment(0xE9, b"") + insert + content[2:])
    assert time.process_time() - started < 1


def test_a_jpeg_of_absurdly_many_scans_is_refused():
    assert load(many_scans(90), SMALL).shape == (32, 32, 3)
    with pytest.raises(ImageError, match="a JPEG of more than 100 scans"):
        load(many_scans(1000), SMALL)


def test_only_the_scans_of_the_image_itself_count():
    """What phones append to a photograph, or keep in its segments, is no scan of it."""
    content = saved(smooth_image(1), "jpeg", progressive=True)
    film = b"\xff\xda\0\0" * 1000
    content = content[:2] + segment(0xEB, film) + content[2:] + film
    assert np.array_equal(load(content, SMALL), load(saved(smooth_image(1), "jpeg"), SMALL))


def chunk(kind, content):
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


LONG = zlib.compress(b"a" * 5_000_000)


@pytest.mark.parametrize(
    "insert",
    [
        chunk(b"iCCP", b"profile\0\0" + LONG),
        chunk(b"iTXt", b"key\0\1\0\0\0" + LONG),
        chunk(b"zTXt", b"key\0\0" + LONG),
        chunk(b"iTXt", b"key\0\1\0\0\0" + zlib.compress(b"a" * 900_000)) * 100,
        chunk(b"tEXt", b"key\0" + b"a" * 70_000_000),
        chunk(b"iTXt", b"key\0\0\0\0\0" + b"a" * 70_000_000),
        chunk(b"iCCP", b"profile\0\0" + LONG) + chunk(b"tEXt", b"key\0value"),
    ],
    ids=["iCCP", "iTXt", "zTXt", "many", "tEXt", "plain iTXt", "two"],
)
@pytest.mark.parametrize("place", [33, -12], ids=["before", "behind"])
def test_a_png_is_read_however_long_its_texts_and_profile(insert, place):
    content = saved(smooth_image(1), "png")
    assert np.array_equal(
        load(content[:place] + insert + content[place:], SMALL), load(content, SMALL)
    )


def test_texts_of_usual_length_are_kept():
    """Pillow finds the orientation there, too."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    content = saved(smooth_image(1, (64, 48)), "png")
    assert upright(content[:33] + text + content[33:], 8).size == (48, 64)


@pytest.mark.parametrize("kind", ["jpeg", "webp", "png"])
def test_what_follows_an_image_takes_no_memory(kind, tmp_path):
    content = saved(smooth_image(1), kind, **({"progressive": True} if kind == "jpeg" else {}))
    if kind == "png":
        content = content[:33] + chunk(b"iCCP", b"profile\0\0" + LONG) + content[33:]
    path = tmp_path / "a"
    path.write_bytes(content)
    os.truncate(path, 300_000_000)
    tracemalloc.start()
    try:
        if kind == "webp":
            with pytest.raises(ImageError, match="300000000 bytes, the maximum for WebP"):
                load(path, SMALL)
        else:
            assert np.array_equal(load(path, SMALL), load(content, SMALL))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_png_of_more_chunks_than_any_program_writes_is_refused():
    content = saved(smooth_image(1), "png")
    with pytest.raises(ImageError, match="more chunks"):
        dimensions(content[:33] + chunk(b"teSt", b"") * 20_000 + content[33:])


@pytest.mark.parametrize(
    "content",
    [
        b"P5 #" + b"a" * 2_000_000 + b"\n8 8 255\n" + bytes(64),
        b"P5 " + b"#\n" * 500_000 + b"8 8 255\n" + bytes(64),
        b"P3 8 8 255\n" + b"#a\n" * 500_000 + b"1 " * 192,
    ],
)
def test_a_pnm_of_comments_is_refused_at_once(content):
    started = time.process_time()
    with pytest.raises(ImageError, match="PNM"):
        load(content, SMALL)
    assert time.process_time() - started < 1


def test_what_pillow_decodes_in_python_has_a_limit_of_pixels_and_bytes():
    content = saved(smooth_image(1), "qoi")
    assert load(content, SMALL).shape == (32, 32, 3)
    with pytest.raises(ImageError, match="5000 x 5000 pixels in .* QOI is 16000000 of both"):
        load(b"qoif" + struct.pack(">II", 5000, 5000) + content[12:], SMALL)
    with pytest.raises(ImageError, match="64 x 48 pixels in 16"):
        load(content + bytes(16_000_000), SMALL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_wait_for_its_parents_threads(limit):
    limit(1_000_000)
    held = Reservation(memory.budget())
    held.take(1_000_000)
    try:
        child = multiprocessing.get_context("fork").Process(
            target=load, args=(np.zeros((100, 100), np.uint8), SMALL)
        )
        child.start()
        child.join(20)
        assert child.exitcode == 0
    finally:
        give_back(held)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_decodes_while_another_thread_of_its_parent_did():
    with images._PIL_LOCK:
        child = multiprocessing.get_context("fork").Process(
            target=load, args=(smooth_image(1), SMALL)
        )
        child.start()
        child.join(20)
    if child.is_alive():
        child.kill()
    assert child.exitcode == 0


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc": "0::/a/b", "memory.max": "max", "a/memory.max": "3000000"}, 3_000_000),
        ({"proc": "0::/a/b", "a/memory.max": "max", "a/b/memory.max": "2000000"}, 2_000_000),
        ({"proc": "0::/", "memory.max": "1000000"}, 1_000_000),
        ({"proc": "4:cpu,memory:/a", "memory/a/memory.limit_in_bytes": "5000000"}, 5_000_000),
        ({"proc": "4:memory:/gone", "memory/memory.limit_in_bytes": "6000000"}, 6_000_000),
    ],
)
def test_limits_of_both_versions_of_cgroups_are_found(files, expected, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    assert memory.available_bytes() == expected


@pytest.mark.parametrize(
    "files",
    [{}, {"proc": "4:memory:/", "memory/memory.limit_in_bytes": "9223372036854771712"}],
)
def test_without_a_cgroups_limit_the_machines_memory_counts(files, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    assert memory.available_bytes() > 100_000_000


@pytest.mark.parametrize("answer", [-1, ValueError("unrecognized configuration name")])
def test_a_system_that_does_not_tell_its_memory_has_4_gb(answer, tmp_path, monkeypatch):
    def sysconf(name):
        if isinstance(answer, Exception):
            raise answer
        return answer if name == "SC_PHYS_PAGES" else 4096

    monkeypatch.setattr(os, "sysconf", sysconf)
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    assert memory.available_bytes() == 4 << 30


def test_the_variable_sets_the_budget(limit, monkeypatch):
    monkeypatch.setenv("BITGAZE_MAX_DECODED_MB", "2.5")
    assert memory.budget().total_bytes == 2_500_000
    for text in ("many", "0", "-1", "inf", "nan"):
        monkeypatch.setattr(memory, "_budget", None)
        monkeypatch.setenv("BITGAZE_MAX_DECODED_MB", text)
        with pytest.raises(ValueError, match="BITGAZE_MAX_DECODED_MB is '.*', expected a number"):
            load(np.zeros((8, 8), np.uint8), SMALL)


def test_the_option_sets_the_budget(limit, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (1000, 1000)).save(folder / "scan.png")
    gallery = str(tmp_path / "g.bitgaze")
    arguments = ["index", str(folder), "-g", gallery, "--max-decoded-mb"]
    assert main([*arguments, "2"]) == 1
    assert "scan.png: 1000 x 1000 pixels: decoding it takes 4 MB" in capsys.readouterr().err
    assert main([*arguments, "5"]) == 0
    with pytest.raises(SystemExit):
        main([*arguments, "none"])
    assert "--max-decoded-mb is 'none', expected a number" in capsys.readouterr().err
    assert Path(gallery).exists()
