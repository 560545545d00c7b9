"""Galleries of own codes; batch searches, exclude_self, edits, and waiting for other writers."""

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from inside import files

from bitgaze import FingerprintMismatch, Gallery, GalleryError, Item, verify_gallery
from bitgaze.gallery.items import FileState

CODES = np.random.default_rng(0).integers(0, 256, (40, 8), np.uint8)


@pytest.fixture
def hashes(tmp_path):
    with Gallery(tmp_path / "phash.bitgaze", bits=64) as gallery:
        for n, code in enumerate(CODES):
            gallery.add_code(f"{n:02}", code, {"n": n})
        yield gallery


def test_own_codes_are_stored_and_searched(hashes):
    assert (hashes.bits, hashes.fingerprint, hashes.model_name) == (64, None, None)
    assert hashes.calibration is None
    (first, second) = hashes.search_code(CODES[7], k=2)
    assert (first.key, first.distance, first.same_kind, first.same_image) == ("07", 0, None, None)
    assert first.metadata == {"n": 7}
    assert second.distance == min(
        int(np.unpackbits(CODES[7] ^ code).sum()) for n, code in enumerate(CODES) if n != 7
    )
    hashes.close()
    with Gallery(hashes.path) as again:
        assert len(again) == 40
        assert again.search("07", k=1)[0].key == "07"
    with Gallery(hashes.path, bits=64) as again:
        assert (again.get("07").code == CODES[7]).all()


def test_own_codes_and_images_do_not_mix(hashes, tmp_path, encoder, make_image):
    image = make_image("p.png")
    for use in (
        lambda: hashes.search(image),
        lambda: hashes.add("p", image),
        lambda: hashes.sync(image.parent),
        lambda: hashes.encode([image]),
        hashes.adapt,
    ):
        with pytest.raises(FingerprintMismatch, match="your own codes and has no model"):
            use()
    assert len(hashes) == 40
    with pytest.raises(
        FingerprintMismatch, match="its codes are your own, not from model 'general-128'"
    ):
        Gallery(hashes.path, encoder=encoder)
    with pytest.raises(
        FingerprintMismatch, match="are your own and have 64 bits, expected your own codes of 128"
    ):
        Gallery(hashes.path, bits=128)
    with Gallery(tmp_path / "images.bitgaze") as images:
        images.add("p", image)
    with pytest.raises(
        FingerprintMismatch, match=r"from model 'general-128' \(\w+\) and have 128 bits"
    ):
        Gallery(tmp_path / "images.bitgaze", bits=128)


def test_invalid_constructor_arguments_are_rejected(tmp_path, encoder):
    path = tmp_path / "g.bitgaze"
    with pytest.raises(ValueError, match="an encoder or bits, not both"):
        Gallery(path, encoder=encoder, bits=128)
    with pytest.raises(ValueError, match="multiple of 8 from 8 to 1024, got 12"):
        Gallery(path, bits=12)
    for timeout_s in (-1, float("nan"), 1e9):
        with pytest.raises(ValueError, match="timeout_s is"):
            Gallery(path, bits=64, timeout_s=timeout_s)
    assert not path.exists()


def test_codes_of_another_shape_or_dtype_are_rejected(hashes):
    for code, error, message in [
        (CODES[0][:4], ValueError, "4 bytes|8 bytes each"),
        (CODES[0].astype(np.int64), TypeError, "uint8"),
        (CODES[0].tobytes(), TypeError, "uint8"),
    ]:
        with pytest.raises(error, match=message):
            hashes.add_code("new", code)
        with pytest.raises(error, match=message):
            hashes.search_code(code)
    with pytest.raises(GalleryError, match="'07' is already in use"):
        hashes.add_code("07", CODES[0])
    assert len(hashes) == 40
    assert (hashes.get("07").code == CODES[7]).all()


def test_a_batch_search_equals_single_searches(hashes):
    queries = np.random.default_rng(1).integers(0, 256, (9, 8), np.uint8)
    assert hashes.search_codes(queries, k=4, radius=30) == [
        hashes.search_code(query, k=4, radius=30) for query in queries
    ]
    assert hashes.search_codes(queries[:0]) == []


def test_exclude_self_with_a_key(hashes):
    including = hashes.search("07", k=5)
    without = hashes.search("07", k=5, exclude_self=True)
    assert including[0].key == "07"
    assert without[:4] == including[1:]
    assert len(without) == 5


def test_exclude_self_finds_a_file_by_other_links(tmp_path, make_image):
    for n in range(3):
        make_image(f"real/{n}.png", seed=n)
    (tmp_path / "one").symlink_to(tmp_path / "real")
    (tmp_path / "two").symlink_to(tmp_path / "real")
    with Gallery(tmp_path / "g.bitgaze") as gallery:
        gallery.sync(tmp_path / "one")
        for ranking in ("hamming", "asymmetric"):
            for query in ("real/1.png", "one/1.png", "two/1.png", "two/../real/1.png"):
                hits = gallery.search(tmp_path / query, exclude_self=True, ranking=ranking)
                assert sorted(hit.path[-5:] for hit in hits) == ["0.png", "2.png"], query
        (tmp_path / "copy.png").write_bytes((tmp_path / "real/1.png").read_bytes())
        assert len(gallery.search(tmp_path / "copy.png", exclude_self=True)) == 3


def test_exclude_self_with_a_path(tmp_path, make_image, monkeypatch):
    for seed in range(4):
        make_image(f"photos/{seed}.png", seed=seed)
    stranger = make_image("elsewhere.png", seed=9)
    monkeypatch.chdir(tmp_path)
    with Gallery("g.bitgaze") as gallery:
        gallery.sync("photos")
        own_key = str(tmp_path / "photos" / "2.png")
        for ranking in ("hamming", "asymmetric"):
            hits = gallery.search("photos/2.png", exclude_self=True, ranking=ranking)
            assert len(hits) == 3
            assert own_key not in {hit.key for hit in hits}
        assert len(gallery.search(stranger, exclude_self=True)) == 4
        with pytest.raises(ValueError, match="exclude_self requires a key or a path, got bytes"):
            gallery.search(stranger.read_bytes(), exclude_self=True)


def test_set_metadata_and_rename(hashes):
    hashes.set_metadata("03", {"shelf": "b"})
    hashes.rename("03", "three")
    item = hashes.get("three")
    assert (item.metadata, item.code.tolist()) == ({"shelf": "b"}, CODES[3].tolist())
    assert "03" not in hashes
    for use, error, message in [
        (lambda: hashes.rename("three", "04"), GalleryError, "'04' is already in use"),
        (lambda: hashes.rename("03", "x"), KeyError, "no item '03'"),
        (lambda: hashes.rename("three", 5), TypeError, "key must be a str, got int"),
        (lambda: hashes.rename("three", "\ud800"), ValueError, "surrogates"),
        (lambda: hashes.set_metadata("03", {}), KeyError, "no item '03'"),
        (lambda: hashes.set_metadata("three", {"x": {1, 2}}), TypeError, "JSON"),
        (lambda: hashes.set_metadata("three", []), TypeError, "metadata must be a dict, got list"),
        (
            lambda: hashes.add_code("new", CODES[0], ""),
            TypeError,
            "metadata must be a dict, got str",
        ),
        (lambda: hashes.set_metadata("three", {"x": float("nan")}), ValueError, "JSON"),
    ]:
        with pytest.raises(error, match=message):
            use()
    assert hashes.get("three").metadata == {"shelf": "b"}


def test_a_renamed_item_still_follows_its_file(tmp_path, make_image):
    path = make_image("photos/a.png", seed=1)
    with Gallery(tmp_path / "g.bitgaze") as gallery:
        gallery.sync(tmp_path / "photos")
        gallery.rename(str(path), "mine")
        path.rename(path.with_name("b.png"))
        gallery.sync(tmp_path / "photos")
        assert list(gallery) == ["mine"]
        assert gallery.get("mine").path == str(path.with_name("b.png"))


def test_a_second_writer_waits_up_to_timeout_s(hashes):
    script = (
        "import sys; from bitgaze import Gallery\n"
        f"g = Gallery({str(hashes.path)!r})\n"
        "with g.transaction():\n"
        "    g.set_metadata('01', {}); print('writing', flush=True); sys.stdin.readline()\n"
        "print('done', flush=True)"
    )
    with (
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as writer,
        Gallery(hashes.path, timeout_s=0.1) as impatient,
        Gallery(hashes.path, timeout_s=30) as patient,
    ):
        assert writer.stdout.readline() == "writing\n"
        started = time.monotonic()
        with pytest.raises(
            GalleryError, match=r"still writing after 0.1 s; try again, or wait longer"
        ):
            impatient.set_metadata("02", {"who": "impatient"})
        assert time.monotonic() - started < 25  # not the 30 s of the other connection
        assert len(impatient) == 40  # reading does not wait
        writer.stdin.write("\n")
        writer.stdin.flush()
        patient.set_metadata("02", {"who": "patient"})
        assert writer.wait() == 0
        assert impatient.get("02").metadata == {"who": "patient"}


def test_invalid_metadata_k_and_radius_are_rejected(tmp_path):
    code = np.zeros(8, np.uint8)
    with Gallery(tmp_path / "g.bitgaze", bits=64) as gallery:
        with pytest.raises(TypeError, match="metadata of 'a' cannot be represented in JSON: .*set"):
            gallery.add_code("a", code, {"tags": {1, 2}})
        with pytest.raises(
            ValueError, match="metadata of 'a' cannot be represented in JSON: Out of range"
        ):
            gallery.add_code("a", code, {"x": float("nan")})
        assert len(gallery) == 0
        with pytest.raises(TypeError, match="k must be an integer, got str"):
            gallery.search_code(code, k="3")
        with pytest.raises(TypeError, match="radius must be an integer, got float"):
            gallery.search_code(code, radius=1.5)
        with pytest.raises(
            GalleryError,
            match="your own codes have no calibration; choose a radius .* that you know",
        ):
            gallery.radius()


def test_a_transaction_rejects_writes_after_a_failure(hashes):
    def two_more():
        with hashes.transaction():
            hashes.add_code("first", CODES[0])
            with pytest.raises(GalleryError, match="is already in use"):
                hashes.add_code("first", CODES[0])
            hashes.add_code("second", CODES[1])

    with pytest.raises(GalleryError, match="rolled back"):
        two_more()
    assert "first" not in hashes
    assert "second" not in hashes
    hashes.add_code("second", CODES[1])
    assert "second" in hashes


def test_close_compact_and_backup_are_rejected_in_a_transaction(hashes, tmp_path):
    def attempt(what):
        with hashes.transaction():
            hashes.add_code("new", CODES[0])
            what()

    for what in (hashes.close, hashes.compact, lambda: hashes.backup(tmp_path / "copy.bitgaze")):
        with pytest.raises(GalleryError, match="inside a transaction"):
            attempt(what)
        assert len(hashes) == 40
    assert not list(tmp_path.glob("copy*"))


def test_on_progress_of_duplicates_cannot_write(hashes):
    with pytest.raises(GalleryError, match="cannot be written during a read"):
        hashes.duplicates(on_progress=lambda done, total: hashes.add_code("new", CODES[0]))
    assert len(hashes) == 40
    hashes.close()
    assert verify_gallery(hashes.path).is_sound


def test_invalid_items_are_rejected_by_key(hashes):
    deep = {}
    for _ in range(100_000):
        deep = {"": deep}
    for key in ("new", "07"):
        for metadata, error in (({"x": object()}, TypeError), ([], TypeError), (deep, ValueError)):
            with pytest.raises(error, match=f"metadata of '{key}'"):
                hashes.upsert([Item(key, CODES[0], metadata)])
    file = FileState(b"/a", 1, 1, 1, bytes(16))
    with pytest.raises(GalleryError, match="file belongs to another item"):
        hashes.upsert([Item("one", CODES[0], {}, file), Item("two", CODES[1], {}, file)])
    assert len(hashes) == 40


def test_exclude_self_with_a_link(tmp_path, make_image):
    for seed in range(3):
        make_image(f"photos/{seed}.png", seed=seed)
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    with Gallery(tmp_path / "g.bitgaze") as gallery:
        gallery.sync(tmp_path / "photos")
        hits = gallery.search(tmp_path / "link" / "1.png", exclude_self=True)
        assert {hit.key[-5] for hit in hits} == {"0", "2"}


def test_a_folder_can_start_with_a_tilde(tmp_path, make_image, monkeypatch):
    make_image("photos/0.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    with Gallery(tmp_path / "g.bitgaze") as gallery:
        gallery.sync("~/photos")
        assert len(files(gallery, tmp_path / "photos")) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"mtime_ns": 1.5},
        {"size": True},
        {"size": 2**63},
        {"ctime_ns": None},
        {"content": None},
        {"path": "/text"},
    ],
)
def test_invalid_file_states_are_rejected(hashes, change):
    state = replace(FileState(b"/x", 10, 1, 3, b"0" * 16), **change)
    with pytest.raises(TypeError, match="file of 'x' is .* expected path and content as bytes"):
        hashes.upsert([Item("x", CODES[0], {}, state)])
    assert len(list(hashes)) == 40


def test_field_names_in_metadata_must_be_strings(hashes):
    for metadata in ({1: "a"}, {1: "a", "1": "b"}, {None: 1}):
        with pytest.raises(TypeError, match="field names in metadata of '03' must be str, got"):
            hashes.set_metadata("03", metadata)
    with pytest.raises(TypeError, match="got NoneType; pass {} to remove all metadata"):
        hashes.set_metadata("03", None)
    assert hashes.get("03").metadata == {"n": 3}


def test_upsert_of_a_changed_item_keeps_its_file(tmp_path, make_image):
    path = make_image("photos/0.png")
    with Gallery(tmp_path / "g.bitgaze") as gallery:
        gallery.sync(tmp_path / "photos")
        gallery.upsert([replace(gallery.get(str(path)), metadata={"a": 1})])
        assert gallery.sync(tmp_path / "photos").failed == {}
        assert gallery.get(str(path)).path == str(path)


def test_deprecated_names_of_probabilities_still_work(hashes):
    (hit,) = hashes.search("07", k=1)
    hit = replace(hit, same_kind=0.25, same_image=0.999)
    assert hit.chances == {"same kind": ">99%", "a copy": ">99%"}
    with pytest.warns(DeprecationWarning, match=r"use Hit\.same_kind"):
        assert hit.probability == 0.25
    with pytest.warns(DeprecationWarning, match=r"use Hit\.same_image"):
        assert hit.duplicate == 0.999
    assert replace(hit, same_kind=0.004, same_image=None).chances == {"same kind": "<1%"}
