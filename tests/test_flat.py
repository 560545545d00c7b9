"""The flat file: what is in it, byte by byte; searches; damage."""

import hashlib
import json
import pickle
import struct
import zlib
from itertools import pairwise

import damage_flat
import numpy as np
import pytest
from quick import QuickEncoder

import oracle
from bitgaze import (
    FingerprintMismatch,
    FlatGallery,
    Gallery,
    GalleryCorrupt,
    GalleryError,
    HammingIndex,
    ViewIndex,
    hamming,
    views,
)
from bitgaze.cli.main import main
from bitgaze.encoding.contract import DEFAULT_MODEL, read_model
from bitgaze.gallery.adaptation import Adaptation, adapted
from bitgaze.gallery.flat.header import Header, Section, read_header
from bitgaze.gallery.flat.writer import BATCH_ITEMS, Batch, Origin, write_flat
from codes import random_codes
from conftest import PETS, smooth_image
from galleries import items

WHOLE = [0, 0, 65535, 65535]


def batches(codes, boxes=None):
    """Items whose keys are their slots, with every third without metadata."""
    count, places = len(codes), codes.shape[1] - 1
    boxes = np.broadcast_to(np.uint16(WHOLE), (count, places, 4)) if boxes is None else boxes
    for first in range(0, count, BATCH_ITEMS):
        part = slice(first, min(first + BATCH_ITEMS, count))
        slots = range(count)[part]
        metadata = [json.dumps({"i": i}) if i % 3 else "{}" for i in slots]
        yield Batch(codes[part], boxes[part], [f"item {i}" for i in slots], metadata)


def write(path, codes, boxes=None, **origin):
    write_flat(
        path,
        Origin(8 * codes.shape[2], codes.shape[1] - 1, **origin),
        len(codes),
        batches(codes, boxes),
    )
    return path


@pytest.fixture(scope="module")
def flat_pets(pets_gallery, tmp_path_factory):
    """A flat file of the gallery `pets`, with looks."""
    path = tmp_path_factory.mktemp("flat") / "pets.flat"
    assert pets_gallery.export_flat(path) == len(pets_gallery)
    return path


def without(hit):
    """What a flat file knows of a hit of its gallery."""
    return (hit.key, hit.distance, hit.same_kind, hit.metadata, hit.box, hit.query_box)


# The format


def code_in(content, header, item, view):
    """A code, found by the formulas of docs/flat-file.md."""
    data = content[header.sections["codes"].offset :]
    bits, count = header.bits, header.views
    if count > 1:
        words = -(-bits // 16)
        places = [
            ((item // 32 * count + view) * words + w) * 64 + item % 32 * 2 for w in range(words)
        ]
        return b"".join(data[at : at + 2] for at in places)[: bits // 8]
    if bits > 64 and bits % 64 == 0:
        start = item // 4096 * 4096 * bits // 8
        places = [start + w * 32768 + item % 4096 * 8 for w in range(bits // 64)]
        return b"".join(data[at : at + 8] for at in places)
    return data[item * bits // 8 : (item + 1) * bits // 8]


@pytest.mark.parametrize(
    ("count", "bits", "view_count"),
    [(0, 128, 1), (0, 64, 3), (5, 64, 1), (33, 72, 2), (4097, 128, 1), (70, 8, 8), (9000, 256, 1)],
)
def test_a_reader_needs_only_the_document(tmp_path, count, bits, view_count):
    """Reads the file by nothing but docs/flat-file.md."""
    codes = random_codes((count, view_count, bits // 8))
    places = (count, view_count - 1, 4)
    boxes = np.arange(np.prod(places), dtype=np.uint16).reshape(places)
    content = write(tmp_path / "x.flat", codes, boxes).read_bytes()

    magic, version, crc, size, number, length, n, b, v, model, adaptation, reserved = struct.unpack(
        "<8s4I2Q2I32s32s16s", content[:128]
    )
    assert magic == b"\x89BGF\r\n\x1a\n"
    assert (version, size, length, n, b, v) == (
        *(1, 128 + 32 * number, len(content)),
        *(count, bits, view_count),
    )
    assert (model, adaptation, reserved) == (bytes(32), bytes(32), bytes(16))
    assert crc == zlib.crc32(content[:12] + bytes(4) + content[16:size])
    sections, end = {}, size
    for entry in range(number):
        name, offset, section_bytes, section_crc, zero = struct.unpack_from(
            "<8s2Q2I", content, 128 + 32 * entry
        )
        assert offset % 64 == 0
        assert zero == 0
        assert content[end:offset] == bytes(offset - end)
        end = offset + section_bytes
        section = content[offset:end]
        assert zlib.crc32(section) == section_crc
        sections[name.rstrip(b"\0").decode()] = section
    assert end == len(content)
    names = ["info", "codes", "boxes", "offsets", "lookup", "records"]
    assert list(sections) == [name for name in names if name != "boxes" or view_count > 1]

    header = Header(n, b, v, sections={"codes": Section(content.index(sections["codes"]), 0)})
    for item in range(count):
        for view in range(view_count):
            assert code_in(content, header, item, view) == codes[item, view].tobytes()
    assert sections.get("boxes", b"") == boxes.tobytes()
    offsets = np.frombuffer(sections["offsets"], "<u8")
    crcs, slots = np.frombuffer(sections["lookup"], "<u4").reshape(2, count)
    assert (offsets[0], offsets[-1]) == (0, len(sections["records"]))
    keys = []
    for start, end in pairwise(offsets):
        record = sections["records"][start:end]
        (key_bytes,) = struct.unpack_from("<I", record)
        keys.append(record[4 : 4 + key_bytes])
        i = len(keys) - 1
        assert keys[-1] == f"item {i}".encode()
        assert json.loads(record[4 + key_bytes :]) == ({"i": i} if i % 3 else {})
    assert sorted(slots) == list(range(count))
    assert [(zlib.crc32(keys[slot]), slot) for slot in slots] == sorted(
        zip(crcs, slots, strict=True)
    )
    info = json.loads(sections["info"])
    assert info.keys() == {"model", "calibration", "written_by"}
    with FlatGallery(tmp_path / "x.flat") as flat:
        assert flat.verify() == []
        assert list(flat) == [key.decode() for key in keys]
        assert len(flat) == count


def test_free_places_of_the_layout_are_zeros():
    """Places that are not filled would show what memory held before."""
    for laid_out, filled in [
        (hamming.laid_out(np.full((3, 16), 255, np.uint8)), 3 * 16),
        (views.laid_out(np.full((3, 2, 9), 255, np.uint8)), 3 * 2 * 9),
    ]:
        assert np.count_nonzero(laid_out) == filled


def test_only_bytes_are_laid_out():
    with pytest.raises(TypeError, match="codes must be a uint8 array"):
        hamming.laid_out(np.zeros((3, 8), np.int64))
    with pytest.raises(TypeError, match="items must be a uint8 array"):
        views.laid_out(np.zeros((3, 2, 8), np.int64))


def test_an_index_over_memory_is_the_index_and_cannot_be_changed():
    codes = random_codes((100, 16))
    memory = hamming.laid_out(codes)
    index = HammingIndex.over(memory, 128, 100)
    assert (index[:] == codes).all()
    assert (index[7] == codes[7]).all()
    with pytest.raises(ValueError, match="is a view"):
        index.remove(0)
    looks = codes.reshape(50, 2, 16)
    memory_of_views = views.laid_out(looks)
    of_views = ViewIndex.over(memory_of_views, 128, 2, 50)
    assert (of_views[:] == looks).all()
    for change in (
        lambda: of_views.add(looks),
        lambda: of_views.remove(0),
        lambda: of_views.replace(0, looks[0]),
        lambda: of_views.reserve(9),
    ):
        with pytest.raises(ValueError, match="is a view of memory"):
            change()
    with pytest.raises(ValueError, match=r"memory must have shape \(65536,\)"):
        HammingIndex.over(memory[:-1], 128, 100)
    with pytest.raises(ValueError, match="memory must be aligned to 8 bytes"):
        HammingIndex.over(np.append(memory, np.uint8(0))[1:], 128, 100)
    with pytest.raises(TypeError, match="memory must be a uint8 array"):
        ViewIndex.over(memory_of_views.view(np.uint16), 128, 2, 50)


# Searches


@pytest.mark.parametrize(("bits", "view_count"), [(64, 1), (128, 1), (72, 2), (128, 4)])
def test_search_is_exact(tmp_path, bits, view_count):
    codes = random_codes((5000, view_count, bits // 8)) & random_codes((5000, 1, bits // 8), 1)
    queries = random_codes((3, view_count, bits // 8), 2)
    filter = np.random.default_rng(3).random(5000) < 0.1
    flat = FlatGallery(write(tmp_path / "x.flat", codes))
    pair = (codes, queries) if view_count > 1 else (codes[:, 0], queries[:, 0])
    expected = oracle.range_search(*pair, 10**6, 20, filter)
    unit = 1 if view_count == 1 else 2 * view_count
    given_queries = queries if view_count > 1 else queries[:, 0]
    for found in (
        flat.search_codes(given_queries, 20, filter=filter),
        flat.search_codes(given_queries, 20, filter=np.packbits(filter, bitorder="little")),
    ):
        assert [[(h.distance * unit, h.key) for h in row] for row in found] == [
            [(distance, f"item {i}") for distance, i in row] for row in expected
        ]
    radius = int(np.ceil(expected[0][3][0] / unit))
    within = flat.search_code(queries[0] if view_count > 1 else queries[0, 0], 20, radius=radius)
    assert all(hit.distance <= radius for hit in within)
    assert len(within) >= 3
    assert flat.search_codes(given_queries[:0]) == []


def test_hits_are_those_of_the_gallery(pets, pets_gallery, flat_pets, encoder):
    with FlatGallery(flat_pets, encoder=encoder) as flat:
        assert list(flat) == list(pets_gallery)
        assert flat.verify() == []
        assert (flat.bits, flat.looks) == (pets_gallery.bits, pets_gallery.looks)
        assert flat.fingerprint == pets_gallery.fingerprint
        assert flat.model_name == pets_gallery.model_name
        assert flat.calibration == pets_gallery.calibration
        assert flat.adaptation is None
        key = str(pets / PETS[1])
        image = (pets / PETS[2]).read_bytes()
        for ask in (
            lambda g: g.search(key, k=3),
            lambda g: g.search(key, exclude_self=True),
            lambda g: g.search(image),
            lambda g: g.search(image, region=(0.1, 0.1, 0.8, 0.9)),
            lambda g: g.search(image, k=5, radius=40),
            lambda g: g.search(g.query(image), k=2),
            lambda g: g.search_code(g.encode([image]).views[0]),
            lambda g: g.search_code(g.encode([image]).codes[0]),
        ):
            expected = [without(hit) for hit in ask(pets_gallery)]
            assert [without(hit) for hit in ask(flat)] == expected
            assert expected
        item, original = flat.get(key), pets_gallery.get(key)
        assert (item.code == original.code).all()
        assert (item.looks == original.looks).all()
        assert (item.boxes == original.boxes).all()
        assert item.metadata == original.metadata == {"kind": "birds", "rank": 1}
        filter = np.array([i.metadata.get("kind") == "fish" for i in flat.items()])
        assert {hit.key for hit in flat.search(key, filter=filter)} == {
            str(pets / name) for name in PETS[2:]
        }
        assert (key in flat, "none" in flat, 3 in flat, "\ud800" in flat) == (True, *[False] * 3)
        assert repr(flat).endswith("pets.flat', 5 items, 128 bits)")
        with pickle.loads(pickle.dumps(flat)) as copy:
            assert [hit.key for hit in copy.search(key)] == [hit.key for hit in flat.search(key)]


def test_queries_are_adapted_like_the_gallery(tmp_path, make_image):
    """A flat file carries offset and rotation, by which its readers make codes."""
    random = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(random.standard_normal((128, 128)))
    adaptation = Adaptation(
        random.standard_normal(128).astype(np.float32), rotation.astype(np.float32)
    )
    quick = QuickEncoder()
    image = make_image("a.png", 1)
    encoded = quick.encode([image])
    fingerprint = quick.fingerprint
    path = tmp_path / "x.flat"
    codes = adapted(encoded, adaptation, quick).codes[None]
    write(path, codes, fingerprint=fingerprint, model="quick", adaptation=adaptation)
    content = path.read_bytes()
    offset = read_header(content, len(content), path).sections["adapt"].offset
    assert content[80:112] == hashlib.sha256(adaptation.to_bytes()).digest()
    numbers = np.frombuffer(content, "<f4", 128 * 129, offset).astype(np.float64)
    values = (encoded.hashes[0] - numbers[:128]) @ numbers[128:].reshape(128, 128)
    assert (np.packbits(values > 0) == codes[0, 0]).all()  # as the document has it
    flat = FlatGallery(path, encoder=quick)
    assert flat.adaptation == adaptation.fingerprint
    assert flat.search(image)[0].distance == 0
    assert (encoded.codes[0] != codes[0, 0]).any()
    with (
        Gallery(tmp_path / "g.bitgaze", encoder=quick) as gallery,
        pytest.raises(FingerprintMismatch, match="another adaptation"),
    ):
        flat.search(gallery.query(image))


def test_an_adapted_gallery_exports_its_adaptation(tmp_path):
    with Gallery(tmp_path / "g.bitgaze", encoder=QuickEncoder()) as gallery:
        images = {f"{seed}": smooth_image(seed) for seed in range(70)}
        for key, image in images.items():
            gallery.add(key, image)
        gallery.adapt(images.__getitem__)
        gallery.export_flat(tmp_path / "x.flat")
        flat = FlatGallery(tmp_path / "x.flat", encoder=QuickEncoder())
        assert flat.adaptation == gallery.adaptation
        assert flat.calibration == gallery.calibration
        for seed in (3, 99):
            image = smooth_image(seed)
            assert [without(hit) for hit in flat.search(image)] == [
                without(hit) for hit in gallery.search(image)
            ]


def test_mistakes_of_callers(tmp_path, flat_pets, make_image, encoder):
    own = FlatGallery(write(tmp_path / "own.flat", random_codes((3, 1, 8))))
    assert (own.fingerprint, own.model_name, own.calibration) == (None, None, None)
    image = make_image("a.png")
    flat = FlatGallery(flat_pets)
    for error, match, call in [
        (FingerprintMismatch, "holds your own codes", lambda: own.search(image)),
        (FingerprintMismatch, "codes are your own", lambda: FlatGallery(own.path, encoder=encoder)),
        (KeyError, "holds no item 'none'", lambda: own.slot("none")),
        (TypeError, "key must be a str, got int", lambda: own.get(3)),
        (ValueError, "k must be at least 1", lambda: own.search("item 1", k=0)),
        (ValueError, "radius must be at least 0", lambda: own.search("item 1", radius=-1)),
        (ValueError, "exclude_self requires the key", lambda: own.search(b"", exclude_self=True)),
        (ValueError, "a region requires", lambda: own.search("item 1", region=(0, 0, 1, 1))),
        (ValueError, "filter must have", lambda: own.search("item 1", filter=np.ones(4, bool))),
        (ValueError, "8-byte codes", lambda: own.search_code(random_codes(9))),
        (ValueError, r"codes must have shape \(q, 8\)", lambda: own.search_codes(random_codes(8))),
        (ValueError, "has 2 views", lambda: own.search_code(random_codes((2, 8)))),
        (ValueError, "8-byte codes", lambda: own.search_codes(random_codes((0, 9)))),
        (
            ValueError,
            "filter must",
            lambda: own.search_codes(random_codes((0, 8)), filter=np.ones(4, bool)),
        ),
        (TypeError, "code must be a uint8 array", lambda: flat.search_code([1])),
        (TypeError, "codes must be a uint8 array", lambda: flat.search_codes([1])),
    ]:
        with pytest.raises(error, match=match):
            call()
    flat.close()
    assert repr(flat).endswith("closed)")
    with pytest.raises(GalleryError, match="is closed"):
        flat.search("item 1")


def test_another_model_is_refused(tmp_path):
    path = write(tmp_path / "x.flat", random_codes((3, 1, 16)), fingerprint="1" * 64, model="cats")
    with pytest.raises(FingerprintMismatch, match="from model 'cats' .111111111111.*general"):
        _ = FlatGallery(path).encoder
    fingerprint = read_model(DEFAULT_MODEL).fingerprint
    write(path, random_codes((3, 1, 16)), fingerprint=fingerprint, model="general-128")
    assert FlatGallery(path).encoder.fingerprint == fingerprint


# Writing


def test_an_export_replaces_only_flat_files(tmp_path):
    with Gallery(tmp_path / "g.bitgaze", bits=128) as gallery:
        gallery.upsert(items(3))
        out = tmp_path / "x.flat"
        gallery.export_flat(out)
        before = FlatGallery(out)
        gallery.upsert(items(5))
        seen = []
        assert gallery.export_flat(out, on_progress=lambda *counts: seen.append(counts)) == 5
        assert seen == [(5, 5)]
        assert (len(before), len(FlatGallery(out))) == (3, 5)
        assert before.search("item 1")[0].key == "item 1"  # the old one stays mapped
        assert out.stat().st_mode & 0o777 == 0o600
        (tmp_path / "text").write_text("kept")
        (tmp_path / "folder").mkdir()
        for name, match in [
            ("text", "already exists and is not a flat file"),
            ("folder", "already exists and is not a flat file"),
            ("g.bitgaze", "is the gallery itself"),
            ("none/x.flat", "the folder .*none does not exist"),
        ]:
            with pytest.raises(GalleryError, match=match):
                gallery.export_flat(tmp_path / name)
        assert len(gallery) == 5
        assert (tmp_path / "text").read_text() == "kept"
    assert {p.name for p in tmp_path.iterdir()} == {"g.bitgaze", "x.flat", "text", "folder"}


def test_a_failed_export_leaves_the_old_file(tmp_path):
    path = write(tmp_path / "x.flat", random_codes((3, 1, 16)))
    content = path.read_bytes()

    def broken():
        yield from batches(random_codes((5, 1, 16)))
        raise RuntimeError("no more")

    codes = random_codes((5, 1, 16))
    (batch,) = batches(codes)
    twice = batch._replace(keys=[*batch.keys[:-1], "item 1"])
    for count, given_batches, error, match in [
        (5, broken(), RuntimeError, "no more"),
        (5, [twice], ValueError, "two items have the key 'item 1'"),
        (6, [batch], ValueError, "expected 6 items"),
        (5, [], ValueError, "the batches hold 0 items, expected 5"),
        (2**32, [], ValueError, "at most 4,294,967,295 items"),
    ]:
        with pytest.raises(error, match=match):
            write_flat(path, Origin(128, 0), count, given_batches)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_keys_with_equal_checksums_are_told_apart(tmp_path):
    """`plumless` and `buckeroo` are the shortest English words with one CRC-32."""
    keys = ["a", "plumless", "b", "buckeroo"]
    assert zlib.crc32(b"plumless") == zlib.crc32(b"buckeroo")
    (batch,) = batches(random_codes((4, 1, 16)))
    write_flat(tmp_path / "x.flat", Origin(128, 0), 4, [batch._replace(keys=keys)])
    with FlatGallery(tmp_path / "x.flat") as flat:
        assert [flat.slot(key) for key in keys] == [0, 1, 2, 3]
        assert flat.verify() == []


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with Gallery("g.bitgaze", bits=128) as gallery:
        gallery.upsert(items(5))
    assert main(["export-flat", "x.flat", "-g", "g.bitgaze"]) == 0
    size = (tmp_path / "x.flat").stat().st_size
    assert capsys.readouterr().out == f"x.flat: 5 images, {size:,} bytes\n"
    assert main(["export-flat", "x.flat", "-g", "g.bitgaze", "--json"]) == 0
    expected = {"flat_file": "x.flat", "items": 5, "file_bytes": size}
    assert json.loads(capsys.readouterr().out) == expected
    assert main(["verify", "-g", "x.flat"]) == 0
    assert capsys.readouterr().out == "sound: all 5 items and codes match their checksums\n"
    assert main(["info", "-g", "x.flat"]) == 2
    assert "is a flat file, which cannot be changed" in capsys.readouterr().err
    assert main(["verify", "-g", "x.flat", "--images"]) == 2
    content = bytearray((tmp_path / "x.flat").read_bytes())
    content[-1] ^= 1
    (tmp_path / "x.flat").write_bytes(content)
    assert main(["verify", "-g", "x.flat"]) == 1
    text = "damaged: section records: its bytes do not match their checksum\n"
    assert capsys.readouterr().out == text
    (tmp_path / "x.flat").write_bytes(content[:-1])
    assert main(["verify", "-g", "x.flat", "--json"]) == 1
    assert "was not copied completely" in json.loads(capsys.readouterr().out)["problems"][0]


# Damage


def sealed(content):
    """The bytes with a header whose checksum matches."""
    content = bytearray(content)
    (size,) = struct.unpack_from("<I", content, 16)
    content[12:16] = bytes(4)
    content[12:16] = zlib.crc32(content[:size]).to_bytes(4, "little")
    return content


def put(content, at, layout, *numbers):
    content = bytearray(content)
    struct.pack_into(layout, content, at, *numbers)
    return content


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "x.flat"
    codes = random_codes((40, 3, 16))
    return write(path, codes, np.full((40, 2, 4), 7, np.uint16)).read_bytes()


def entry(content, name):
    """Where the entry of a section is."""
    return content.index(name.encode().ljust(8, b"\0"), 128)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda c: b"", GalleryError, "is not a flat file"),
        (lambda c: b"\0" * 5000, GalleryError, "is not a flat file"),
        (lambda c: c[:8], GalleryCorrupt, "is cut off: it has 8 bytes"),
        (lambda c: c[:150], GalleryCorrupt, "has 150 bytes, expected"),
        (lambda c: c + b"\0", GalleryCorrupt, "it was not copied completely"),
        (lambda c: put(c, 8, "<I", 2), GalleryError, "has version 2.*reads up to 1; update"),
        (lambda c: put(c, 40, "<I", 64), GalleryCorrupt, "checksum does not match"),
        (lambda c: sealed(put(c, 8, "<I", 0)), GalleryCorrupt, "version 0, expected at least 1"),
        (lambda c: put(c, 16, "<2I", 2**31, 2**26), GalleryCorrupt, "2147483648 bytes, 67108864"),
        (lambda c: sealed(put(c, 32, "<Q", 2**40)), GalleryCorrupt, "1099511627776 items"),
        (
            lambda c: sealed(put(c, 32, "<Q", 41)),
            GalleryCorrupt,
            "boxes has 640 bytes, expected 656",
        ),
        (lambda c: sealed(put(c, 40, "<I", 0)), GalleryCorrupt, "codes of 0 bits"),
        (lambda c: sealed(put(c, 40, "<I", 129)), GalleryCorrupt, "codes of 129 bits"),
        (lambda c: sealed(put(c, 44, "<I", 0)), GalleryCorrupt, "0 views, expected 1 to 8"),
        (lambda c: sealed(put(c, 44, "<I", 9)), GalleryCorrupt, "9 views, expected 1 to 8"),
        (lambda c: sealed(put(c, 80, "32s", b"1" * 32)), GalleryCorrupt, "there is no section ada"),
        (
            lambda c: sealed(put(c, entry(c, "codes") + 8, "<Q", 2**64 - 64)),
            GalleryCorrupt,
            "sections overlap, or lie beyond",
        ),
        (
            lambda c: sealed(put(c, entry(c, "records") + 16, "<Q", 2**63)),
            GalleryCorrupt,
            "sections overlap, or lie beyond",
        ),
        (
            lambda c: sealed(put(c, entry(c, "info") + 16, "<Q", 2**20)),
            GalleryCorrupt,
            "sections overlap, or lie beyond",
        ),
        (
            lambda c: sealed(put(c, entry(c, "lookup"), "8s", b"offsets")),
            GalleryCorrupt,
            "two sections have the same name",
        ),
    ],
)
def test_a_wrong_header_is_an_error(tmp_path, sound, change, error, match):
    path = tmp_path / "x.flat"
    path.write_bytes(change(sound))
    with pytest.raises(error, match=match) as raised:
        FlatGallery(path)
    assert type(raised.value) is error


def test_a_misplaced_section_is_an_error(tmp_path, sound):
    at = entry(sound, "records") + 8
    (offset, length) = struct.unpack_from("<2Q", sound, at)
    path = tmp_path / "x.flat"
    path.write_bytes(sealed(put(sound, at, "<2Q", offset + 1, length - 1)))
    with pytest.raises(GalleryCorrupt, match="does not start at a multiple of 64"):
        FlatGallery(path)


def test_unknown_sections_are_ignored(tmp_path, sound):
    """So that a section can be added without a new version."""
    header = read_header(sound, len(sound), tmp_path)
    assert header.sections["info"].offset == 320
    moved = {n: s._replace(offset=s.offset + 64) for n, s in header.sections.items()}
    start = -(-len(sound) // 64) * 64 + 64
    moved["newer"] = Section(start, 4, zlib.crc32(b"more"))
    head = Header(40, 128, 3, sections=moved).to_bytes(start + 4).ljust(384, b"\0")
    path = tmp_path / "x.flat"
    path.write_bytes((head + sound[320:]).ljust(start, b"\0") + b"more")
    flat = FlatGallery(path)
    assert flat.verify() == []
    assert flat.search("item 3", k=1)[0].distance == 0


@pytest.mark.parametrize(
    ("name", "at", "layout", "numbers", "match"),
    [
        ("offsets", 8 * 5, "<Q", [2**64 - 1], "the record of item"),
        ("offsets", 8 * 5, "<Q", [0], "the record of item 4"),
        ("offsets", 8 * 40, "<Q", [7], "the record of item 39|offsets"),
        ("records", 0, "<I", [2**32 - 1], "a key of 4294967295 bytes in"),
        ("records", 4, "2s", [b"\xff\xff"], "the record of item 0"),
        ("records", 10, "2s", [b"[1"], "the record of item 0"),
        ("lookup", 4 * 40, "<I", [2**32 - 1], "section lookup|the lookup names item"),
        ("lookup", 4 * 41, "<2I", [1, 1], "section lookup: does not name each item once"),
        ("lookup", 0, "<I", [2**32 - 1], "section lookup: is not sorted"),
        ("info", 0, "8s", [b"[" * 8], "section info"),
        ("info", 2, "5s", [b"other"], "section info: KeyError"),
    ],
)
def test_made_up_contents_are_errors(tmp_path, sound, name, at, layout, numbers, match):
    """Every checksum matches, and still nothing wrong is believed."""
    section = read_header(sound, len(sound), tmp_path).sections[name]
    content = put(sound, section.offset + at, layout, *numbers)
    crc = zlib.crc32(content[section.offset : section.offset + section.length])
    content = sealed(put(content, entry(sound, name) + 24, "<I", crc))
    path = tmp_path / "x.flat"
    path.write_bytes(content)
    if name == "info":
        with pytest.raises(GalleryCorrupt, match=match):
            FlatGallery(path)
        return
    flat = FlatGallery(path)
    assert match.split("|")[0] in " ".join(flat.verify())
    damage_flat.use(flat)


def test_damage_is_an_error_and_never_a_crash():
    """tests/test_kernels_cross.py compares with C++."""
    words = damage_flat.damage_flat(range(300), jobs=1)
    assert words["damaged"] > 200
    assert words["sound"] > 5
