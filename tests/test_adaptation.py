"""Adaptations: fitting them to hash values, and `Gallery.adapt`."""

import os
import sqlite3
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inside import move
from PIL import Image
from quick import QuickEncoder

from bitgaze import Gallery, GalleryCorrupt, GalleryError, Item
from bitgaze.encoding.calibration import at_odds
from bitgaze.gallery import adaptation, chunks, info, reencode
from bitgaze.gallery.adaptation import Adaptation, carried_over, fit
from bitgaze.gallery.items import content_digest
from bitgaze.gallery.maintenance import verify_gallery
from bitgaze.hamming import pack
from conftest import smooth_image
from galleries import BITS, calibrate, execute, run_processes

COUNT = 70


def lopsided(count, seed=0, bits=BITS):
    """Hash values as of images from another domain: few directions, most signs constant."""
    random = np.random.default_rng(seed)
    directions = np.random.default_rng(99).standard_normal((24, bits))
    bias = np.random.default_rng(98).standard_normal(bits) * 6
    return (random.standard_normal((count, 24)) @ directions + bias).astype(np.float32)


def entropy(codes):
    """Entropy of each bit of the codes, (bits,)."""
    share = np.clip(np.unpackbits(codes, axis=1).mean(axis=0), 1e-9, 1 - 1e-9)
    return -share * np.log2(share) - (1 - share) * np.log2(1 - share)


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(adaptation, "_STEPS", 10)


@pytest.mark.usefixtures("few_steps")
class TestFit:
    def test_fitting_balances_bits(self):
        hashes = lopsided(1000)
        assert entropy(pack(hashes)).mean() < 0.7
        adaptation = fit(hashes)
        assert entropy(pack(adaptation.apply(hashes))).mean() > 0.99
        # Also for other images of the domain.
        assert entropy(pack(adaptation.apply(lopsided(1000, seed=1)))).mean() > 0.98

    def test_the_rotation_reduces_the_loss_of_signs(self):
        hashes = lopsided(1000)
        adaptation = fit(hashes)

        def lost(values):
            return np.square(np.abs(values) - np.abs(values).mean()).mean() / np.var(values)

        assert lost(adaptation.apply(hashes)) < 0.9 * lost(hashes - adaptation.offset)

    def test_distances_between_hash_values_are_preserved(self):
        hashes = lopsided(50)
        values = fit(hashes).apply(hashes)
        before = np.linalg.norm(hashes[:, None] - hashes[None], axis=2)
        after = np.linalg.norm(values[:, None] - values[None], axis=2)
        np.testing.assert_allclose(after, before, atol=1e-3)

    def test_codes_do_not_depend_on_the_batch(self):
        hashes = lopsided(400)
        adaptation = fit(hashes)
        together = pack(adaptation.apply(hashes))
        for row in range(400):
            assert np.array_equal(pack(adaptation.apply(hashes[row : row + 1]))[0], together[row])

    @pytest.mark.parametrize("bits", [8, 128])
    def test_round_trip_through_bytes(self, bits):
        adaptation = fit(lopsided(60, bits=bits))
        again = Adaptation.from_bytes(adaptation.to_bytes(), bits)
        assert np.array_equal(again.offset, adaptation.offset)
        assert np.array_equal(again.rotation, adaptation.rotation)
        assert (
            again.fingerprint == adaptation.fingerprint == fit(lopsided(60, bits=bits)).fingerprint
        )
        assert again.fingerprint != fit(lopsided(60, seed=1, bits=bits)).fingerprint

    def test_invalid_adaptations_are_rejected(self):
        zero, one = np.zeros(8, np.float32), np.eye(8, dtype=np.float32)
        with pytest.raises(ValueError, match=r"rotation is float32 \(4, 8\), expected .* \(8, 8\)"):
            Adaptation(zero, one[:4])
        with pytest.raises(ValueError, match="offset is float64"):
            Adaptation(zero.astype(float), one)
        for rotation in (2 * one, 0 * one, 1e30 * one, one + np.float32(1e-3)):
            with pytest.raises(ValueError, match="not orthogonal"):
                Adaptation(zero, rotation)
        for bad in (np.nan, np.inf):
            with pytest.raises(ValueError, match="offset holds values that are not finite"):
                Adaptation(zero + np.float32(bad), one)
        with pytest.raises(ValueError, match="288 bytes, expected 1088"):
            Adaptation.from_bytes(bytes(288), 16)
        for rows in (lopsided(0), lopsided(3) * np.float32(np.nan)):
            with pytest.raises(ValueError, match="at least one row of finite"):
                fit(rows)

    def test_codes_are_packed_as_by_the_model(self, encoder):
        encoded = encoder.encode([smooth_image(seed) for seed in range(4)])
        assert np.array_equal(pack(encoded.hashes), encoded.codes)

    @given(
        st.lists(st.floats(0, 1), min_size=9, max_size=9),
        st.lists(st.floats(0, 1), min_size=9, max_size=9),
        st.lists(st.floats(0, 1), min_size=9, max_size=9),
    )
    def test_probabilities_are_carried_over_by_false_match_rate(self, kind, old, new):
        kind, old, new = sorted(kind, reverse=True), sorted(old), sorted(new)
        carried = carried_over(kind, old, new)
        for distance in range(9):
            as_near = [d for d in range(9) if old[d] >= new[distance]]
            assert carried[distance] == kind[as_near[0] if as_near else 8]
        assert list(carried) == sorted(carried, reverse=True)


class Synthetic(QuickEncoder):
    """A quick encoder that counts images, and calls the next of `hooks` before `encode` returns."""

    def __init__(self):
        super().__init__()
        self.encoded = 0
        self.hooks = []

    def encode(self, sources, *, looks=0, on_progress=None):
        encoded = super().encode(sources, looks=looks, on_progress=on_progress)
        self.encoded += len(encoded.codes)
        if self.hooks:
            self.hooks.pop(0)()
        return encoded


@pytest.fixture
def quick(monkeypatch):
    """Few steps, for tests that do not depend on the quality of the adaptation."""
    monkeypatch.setattr(adaptation, "_STEPS", 2)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    for seed in range(COUNT):
        smooth_image(seed).save(root / f"p{seed}.png")
    return root


@pytest.fixture
def path(tmp_path, quick):
    return tmp_path / "test.bitgaze"


@pytest.fixture
def gallery(path, folder):
    with Gallery(path, encoder=Synthetic()) as opened:
        opened.sync(folder)
        yield opened


def state(gallery):
    return {key: gallery.get(key).code.tobytes() for key in gallery}, gallery.adaptation


def is_consistent(gallery, folder):
    """Whether every stored code is the one that the gallery computes now."""
    return all(
        np.array_equal(gallery.get(str(file)).code, gallery.encode([file]).codes[0])
        for file in folder.iterdir()
    )


def files_with(path, code):
    return [file.name for file in path.parent.glob(f"{path.name}*") if code in file.read_bytes()]


class Structural(Synthetic):
    """With structural codes: twice the code."""

    def encode(self, sources, *, looks=0, on_progress=None):
        encoded = super().encode(sources, looks=looks, on_progress=on_progress)
        return replace(encoded, structure=np.tile(encoded.codes, 2))


def test_adapt_gives_structural_codes_to_an_older_gallery(path, folder, monkeypatch):
    key = str(folder / "p3.png")
    with monkeypatch.context() as older:
        older.setattr("bitgaze.gallery.gallery.STRUCTURE_BITS", 0)
        with Gallery(path, encoder=Structural()) as gallery:
            gallery.sync(folder)
            assert not gallery.has_structure
            before, _ = state(gallery)
    with Gallery(path, encoder=Structural()) as gallery:
        with pytest.raises(RuntimeError), gallery.transaction():
            adapt_and_fail(gallery)
        assert not gallery.has_structure
        assert state(gallery) == (before, None)
        gallery.adapt()
        assert gallery.has_structure
    with Gallery(path, encoder=Structural()) as gallery:
        expected = np.tile(np.frombuffer(before[key], np.uint8), 2)
        np.testing.assert_array_equal(gallery.get(key).structure, expected)
        gallery.adapt(reset=True)
        np.testing.assert_array_equal(gallery.get(key).structure, expected)
        assert state(gallery) == (before, None)
    assert verify_gallery(path).is_sound


def adapt_and_fail(gallery):
    gallery.adapt()
    assert gallery.has_structure
    raise RuntimeError


def test_adapt_recomputes_every_code(gallery, folder):
    plain = gallery.encoder.encode([folder / "p3.png"])
    before, _ = state(gallery)
    assert gallery.adapt() == COUNT
    after, fingerprint = state(gallery)
    assert set(after) == set(before)
    assert sum(after[key] != before[key] for key in after) == COUNT
    codes = np.array([list(code) for code in after.values()], np.uint8)
    old_codes = np.array([list(code) for code in before.values()], np.uint8)
    assert entropy(codes).mean() > entropy(old_codes).mean() + 0.2
    assert is_consistent(gallery, folder)
    hit = gallery.search(folder / "p3.png", k=1)[0]
    assert (hit.key, hit.distance) == (str(folder / "p3.png"), 0)
    # The file holds the adaptation that made these codes.
    adaptation = info.read_info(gallery._store._db, gallery.path)["adaptation"]
    assert adaptation.fingerprint == fingerprint
    assert np.array_equal(pack(adaptation.apply(plain.hashes))[0], gallery.get(hit.key).code)


def test_stable_bits_survive_deviations_within_the_tolerance(gallery, folder):
    gallery.adapt()
    encoded = gallery.encoder.encode(sorted(folder.iterdir()))
    adapted = gallery._adapted(encoded)
    assert 0.9 < adapted.stable.mean() < 1
    tolerance = gallery.encoder.contract.tolerance
    for seed in range(20):
        signs = np.random.default_rng(seed).choice([-1, 1], encoded.hashes.shape)
        elsewhere = (encoded.hashes + tolerance * signs).astype(np.float32)
        there = gallery._adapted(replace(encoded, hashes=elsewhere))
        differs = np.unpackbits(there.codes ^ adapted.codes, axis=1).astype(bool)
        assert not (differs & adapted.stable).any()


def test_reset_restores_every_code(gallery, folder, path):
    before = state(gallery)
    gallery.adapt()
    assert state(gallery) != before
    assert gallery.adapt(reset=True) == COUNT
    assert state(gallery) == before
    assert gallery.calibration == gallery.encoder.contract.calibration
    assert is_consistent(gallery, folder)
    names = dict(gallery._store._db.execute("SELECT name, 1 FROM info"))
    assert not {name for name in names if name.startswith("adapt")}
    encoded = gallery.encoder.encoded
    assert gallery.adapt(reset=True) == 0
    assert gallery.encoder.encoded == encoded
    with Gallery(path) as again:
        assert state(again) == before


def test_adapt_and_reset_with_the_shipped_model(path, folder):
    with Gallery(path) as gallery:
        gallery.sync(folder)
        before = state(gallery)
        gallery.adapt()
        assert gallery.search(folder / "p5.png", k=1)[0].distance == 0
        assert gallery.calibration.kind[0] > 0.9
        gallery.adapt(reset=True)
        assert state(gallery) == before


def test_adapting_again_fits_to_the_present_images(gallery, folder):
    gallery.adapt()
    first = state(gallery)
    gallery.adapt()
    assert state(gallery) == first
    for seed in range(COUNT, COUNT + 30):
        smooth_image(seed).save(folder / f"p{seed}.png")
    gallery.sync(folder)
    assert gallery.adaptation == first[1]
    gallery.adapt()
    assert gallery.adaptation != first[1]
    assert is_consistent(gallery, folder)


def test_old_codes_leave_no_bytes_behind(gallery, path):
    old = gallery.get(next(iter(gallery))).code.tobytes()
    assert files_with(path, old)
    gallery.adapt()
    new = gallery.get(next(iter(gallery))).code.tobytes()
    assert not files_with(path, old)
    assert files_with(path, new) == [path.name]


def test_images_added_later_are_adapted_too(gallery, folder):
    gallery.adapt()
    smooth_image(500).save(folder / "new.png")
    assert gallery.sync(folder).added == [str(folder / "new.png")]
    smooth_image(501).save(folder / "p0.png")
    assert gallery.sync(folder).updated == [str(folder / "p0.png")]
    assert is_consistent(gallery, folder)
    gallery.add("by hand", smooth_image(502))
    assert gallery.search(smooth_image(502), k=1)[0].distance == 0
    encoded = gallery.encode([smooth_image(503), b"broken"])
    gallery.upsert([Item("own", encoded.codes[0])])
    assert gallery.search_code(encoded.codes[0], k=1)[0].key == "own"
    assert np.array_equal(pack(encoded.hashes), encoded.codes)
    assert list(encoded.errors) == [1]
    assert not encoded.hashes[1].any()
    assert not encoded.codes[1].any()


def test_adapt_requires_enough_images(path):
    with Gallery(path, encoder=Synthetic()) as gallery:
        for seed in range(BITS // 2 - 1):
            gallery.add(f"p{seed}", smooth_image(seed))
        before = state(gallery)
        with pytest.raises(
            GalleryError, match="63 different images, but adapting .* requires at least 64"
        ):
            gallery.adapt(lambda key: smooth_image(int(key[1:])))
        assert state(gallery) == before
        gallery.add("p63", smooth_image(63))
        assert gallery.adapt(lambda key: smooth_image(int(key[1:]))) == 64


def test_copies_of_one_image_count_once(gallery, folder):
    for number in range(20):
        (folder / f"copy{number}.png").write_bytes((folder / "p0.png").read_bytes())
    gallery.sync(folder)
    assert gallery.adapt() == COUNT + 20
    assert is_consistent(gallery, folder)
    for seed in range(1, 10):
        (folder / f"p{seed}.png").unlink()
    gallery.sync(folder)
    with pytest.raises(GalleryError, match="61 different images"):
        gallery.adapt()


def test_items_added_by_hand_require_their_images(gallery):
    gallery.add("mine", smooth_image(800))
    gallery.add("too", smooth_image(801))
    before = state(gallery)
    with pytest.raises(GalleryError, match=r"2 items were added by hand \(mine, too\).*images="):
        gallery.adapt()
    with pytest.raises(KeyError, match="too"):
        gallery.adapt({"mine": smooth_image(800)}.__getitem__)
    with pytest.raises(GalleryError, match="too: .*not an image.*sync first"):
        gallery.adapt({"mine": smooth_image(800), "too": b"broken"}.__getitem__)
    assert state(gallery) == before
    images = {"mine": smooth_image(800), "too": smooth_image(801)}
    assert gallery.adapt(images.__getitem__) == COUNT + 2
    assert gallery.search(smooth_image(801), k=1)[0].key == "too"
    assert gallery.search("mine", k=1)[0].distance == 0
    with pytest.raises(GalleryError, match="added by hand"):
        gallery.adapt(reset=True)
    gallery.adapt(images.__getitem__, reset=True)
    assert state(gallery) == before


def test_a_changed_image_stops_adapt(gallery, folder):
    before = state(gallery)
    kept = (folder / "p1.png").read_bytes()

    def refused(reason):
        with pytest.raises(GalleryError, match=rf"1 of its .*p1\.png: {reason}.*sync first"):
            gallery.adapt()
        assert state(gallery) == before

    (folder / "p1.png").unlink()
    refused("No such file")
    (folder / "p1.png").write_bytes(kept + b"more")
    refused("changed since")
    status = (folder / "p2.png").stat()
    (folder / "p1.png").write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))  # the same size
    os.utime(folder / "p1.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    refused("changed since")
    (folder / "p1.png").write_bytes(kept)  # only its times differ
    assert gallery.adapt() == COUNT
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(GalleryError, match=rf"{COUNT} of its images .*; \.\.\.\)") as refusal:
        gallery.adapt()
    assert str(refusal.value).count("No such file") == 5


def test_an_unreadable_image_stops_adapt(gallery, folder):
    (folder / "p1.png").write_bytes(b"not an image")
    key = str(folder / "p1.png")
    digest = content_digest(key)
    move(
        gallery,
        (key, key, replace(gallery.get(key).file, content=digest, size=len(b"not an image"))),
    )
    before = state(gallery)
    with pytest.raises(GalleryError, match=r"p1\.png: .*not an image.*sync first, or remove them"):
        gallery.adapt()
    assert state(gallery) == before


@pytest.mark.parametrize(
    ("module", "step"), [(info, "write_adaptation"), (chunks, "write_chunk"), (info, "write_entry")]
)
def test_a_failed_transaction_keeps_the_old_state(gallery, path, module, step, monkeypatch):
    gallery.adapt()
    for number in range(3):
        gallery.add(f"hand{number}", smooth_image(900 + number))
    before = state(gallery)

    def fail(*_):
        raise GalleryError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(module, step, fail)
        with pytest.raises(GalleryError, match="disk I/O error"):
            gallery.adapt(lambda key: smooth_image(900 + int(key[-1])))
    assert state(gallery) == before
    with Gallery(path) as again:
        assert state(again) == before


def _die(path: Path) -> None:
    chunks.write_chunk = lambda *_: os._exit(9)
    with Gallery(path, encoder=Synthetic()) as gallery:
        gallery.adapt()


def test_a_process_killed_in_the_transaction_keeps_the_old_state(gallery, path):
    before = state(gallery)
    assert run_processes(_die, (path,)) == [9]
    assert state(gallery) == before
    with Gallery(path) as again:
        assert state(again) == before


def _adapt(path: Path) -> None:
    with Gallery(path, encoder=Synthetic()) as gallery:
        gallery.adapt()


def test_other_processes_see_the_adaptation_at_their_next_call(gallery, path, folder):
    assert gallery.search(folder / "p1.png", k=1)[0].distance == 0
    assert run_processes(_adapt, (path,)) == [0]
    assert gallery.search(folder / "p1.png", k=1)[0].distance == 0
    assert gallery.adaptation is not None
    assert gallery.calibration is not None
    gallery.add("new", smooth_image(600))
    assert gallery.search(smooth_image(600), k=1)[0].key == "new"
    assert is_consistent(gallery, folder)


def test_images_added_by_others_during_adapt_are_adapted(gallery, path, folder):
    with Gallery(path, encoder=Synthetic()) as other:

        def change():
            smooth_image(700).save(folder / "new.png")
            smooth_image(701).save(folder / "p1.png")
            (folder / "p2.png").unlink()
            (folder / "p3.png").rename(folder / "q3.png")
            report = other.sync(folder)
            assert len(report.added) == len(report.updated) == 1
            assert len(report.removed) == len(report.moved) == 1

        def change_again():
            smooth_image(702).save(folder / "newer.png")
            assert len(other.sync(folder).added) == 1

        # Called after encoding the images, and the newly added images.
        gallery.encoder.hooks = [change, change_again]
        encoded = gallery.encoder.encoded
        assert gallery.adapt() == COUNT + 1
        assert gallery.encoder.encoded - encoded == COUNT + 2 + 1
        for one in (gallery, other):
            assert one.adaptation is not None
            assert len(one) == COUNT + 1
            assert is_consistent(one, folder)


def test_an_item_replaced_by_hand_during_adapt_is_read_again(gallery, path):
    gallery.add("mine", smooth_image(800))
    images = {"mine": smooth_image(800)}

    with Gallery(path, encoder=Synthetic()) as other:

        def change():
            images["mine"] = smooth_image(801)
            other.remove("mine")
            other.add("mine", smooth_image(801))

        gallery.encoder.hooks = [change]
        gallery.adapt(lambda key: images[key])
        assert other.search(smooth_image(801), k=1)[0].key == "mine"
        assert other.search(smooth_image(801), k=1)[0].distance == 0


def test_images_encoded_while_another_process_adapts_are_adapted(gallery, path, folder):
    with Gallery(path, encoder=Synthetic()) as other:
        for seed, write in ((700, "add"), (701, "sync"), (702, "search")):
            is_adapted = gallery.adaptation is not None
            gallery.encoder.hooks = [
                partial(other.adapt, lambda _: smooth_image(700), reset=is_adapted)
            ]
            before = gallery.adaptation
            if write == "add":
                gallery.add("hand", smooth_image(seed))
            elif write == "sync":
                smooth_image(seed).save(folder / "new.png")
                gallery.sync(folder)
            else:
                assert gallery.search(folder / "new.png", k=1)[0].distance == 0
            assert gallery.adaptation != before
            assert is_consistent(gallery, folder)
        assert gallery.search(smooth_image(700), k=1)[0].distance == 0


def test_adapt_inside_a_transaction(gallery, folder):
    with gallery.transaction():
        gallery.adapt()
        gallery.add("new", smooth_image(600))
        assert gallery.search(smooth_image(600), k=1)[0].key == "new"
    assert gallery.search(smooth_image(600), k=1)[0].distance == 0
    before = state(gallery)

    def fail():
        with gallery.transaction():
            gallery.adapt(lambda key: smooth_image(600), reset=True)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert state(gallery) == before
    assert is_consistent(gallery, folder)


def test_adapt_fits_to_a_sample_and_encodes_in_batches(gallery, folder, monkeypatch):
    monkeypatch.setattr(reencode, "_MAX_FITTED", 64)
    monkeypatch.setattr(reencode, "_BATCH", 10)
    sizes = []
    monkeypatch.setattr(reencode, "fit", lambda hashes: sizes.append(len(hashes)) or fit(hashes))
    progress = []
    encoded = gallery.encoder.encoded
    assert gallery.adapt(on_progress=lambda *now: progress.append(now)) == COUNT
    assert sizes == [64]
    assert gallery.encoder.encoded - encoded == COUNT  # each image once
    assert progress == [(n, COUNT) for n in range(1, COUNT + 1)]
    assert is_consistent(gallery, folder)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE info SET value = substr(value, 2) WHERE name = 'adaptation'",
        "UPDATE info SET value = x'' WHERE name = 'adaptation'",
        "UPDATE info SET value = 'text' WHERE name = 'adaptation'",
        "UPDATE info SET value = 7 WHERE name = 'adaptation'",
        # The first value NaN; the last one 2; all 0; a changed low byte.
        "UPDATE info SET value = CAST(x'0000c07f' || substr(value, 5) AS BLOB)"
        " WHERE name = 'adaptation'",
        "UPDATE info SET value = CAST(substr(value, 1, length(value) - 4) || x'00000040' AS BLOB)"
        " WHERE name = 'adaptation'",
        "UPDATE info SET value = zeroblob(length(value)) WHERE name = 'adaptation'",
        "UPDATE info SET value = CAST(x'00' || substr(value, 2) AS BLOB) WHERE name = 'adaptation'",
        "UPDATE info SET value = 'x' WHERE name = 'adaptation_fingerprint'",
        "UPDATE info SET value = '[]' WHERE name = 'adapted_calibration'",
        "UPDATE info SET value = 7 WHERE name = 'adapted_calibration'",
        "DELETE FROM info WHERE name = 'adaptation'",
        "DELETE FROM info WHERE name = 'adaptation_fingerprint'",
        "DELETE FROM info WHERE name = 'adapted_calibration'",
    ],
)
def test_a_damaged_adaptation_raises_a_typed_error(path, sql):
    with Gallery(path, looks=0) as gallery, gallery.transaction():
        gallery._store.replace_codes(gallery._store.index[:][:, None], fit(lopsided(200)), None)
    with Gallery(path) as gallery:
        assert gallery.adaptation == fit(lopsided(200)).fingerprint
        execute(path, sql)
        with pytest.raises(GalleryCorrupt, match=r"test\.bitgaze: the info table is damaged"):
            len(gallery)
    with pytest.raises(GalleryCorrupt, match=r"test\.bitgaze: the info table is damaged"):
        Gallery(path)


def test_adapt_measures_a_calibration(gallery, folder):
    model = gallery.encoder.contract.calibration
    assert gallery.calibration == model
    gallery.adapt()
    found = gallery.calibration
    assert found.bits == BITS
    assert found.kind == carried_over(model.kind, model.false_match, found.false_match)
    assert found.duplicate == carried_over(model.duplicate, model.false_match, found.false_match)
    # One pair more than were seen is spread below the nearest of 70 * 69 / 2.
    nearest = found.false_match.index(next(rate for rate in found.false_match if rate > 1.5 / 2416))
    assert found.false_match[nearest - 1] == pytest.approx(1 / 2416, rel=1e-5)
    assert found.false_match[0] < 1e-6
    assert found.false_match[BITS // 2] == pytest.approx(0.5, abs=0.2)
    hit = gallery.search(folder / "p1.png", k=1)[0]
    assert hit.same_image > 0.9
    assert gallery.radius(0.01) == found.radius(0.01)
    gallery.adapt(reset=True)
    assert gallery.calibration == model


def test_kind_probabilities_are_carried_over_and_restored(gallery, path, folder):
    random = np.random.default_rng(0)
    model = calibrate([0], random.binomial(BITS, 0.2, 999), random.binomial(BITS, 0.4, 999), BITS)
    db = sqlite3.connect(path)
    tables = [f'"{name}": {list(getattr(model, name))}' for name in ("duplicate", "kind")]
    tables.append(f'"false_match": {list(model.false_match)}')
    db.execute("UPDATE info SET value = ? WHERE name = 'calibration'", [f"{{{', '.join(tables)}}}"])
    info.seal_info(db)
    info.new_file_id(db)
    db.commit()
    db.close()
    assert gallery.calibration == model
    gallery.adapt()
    found = gallery.calibration
    assert found.kind == carried_over(model.kind, model.false_match, found.false_match)
    hits = gallery.search(folder / "p1.png", k=COUNT)
    expected = [at_odds(found.kind[hit.distance], 1 / 19) for hit in hits]
    assert [hit.same_kind for hit in hits] == pytest.approx(expected)
    gallery.adapt(reset=True)
    assert gallery.calibration == model


def test_copies_in_the_gallery_do_not_count_as_unrelated(
    tmp_path, examples, encoder, quick, monkeypatch
):
    monkeypatch.setattr(reencode, "min_images", lambda bits: 24)
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted(examples.rglob("*.jpg"))[::8][:24]:
        (folder / path.name).write_bytes(path.read_bytes())
    rates = adapted_rates(tmp_path / "one.bitgaze", folder, encoder)
    for path in list(folder.iterdir()):
        with Image.open(path) as image:
            small = image.resize((image.width // 2, image.height // 2))
            small.save(path.with_suffix(".small.jpg"), quality=60)
    with_copies = adapted_rates(tmp_path / "two.bitgaze", folder, encoder)
    near = BITS // 8
    assert rates[near] < 0.01
    assert with_copies[near] < 0.01  # 24 of 1,128 pairs are copies


def adapted_rates(path, folder, encoder):
    """The false-match rates of a gallery of a folder after adapting, by distance."""
    with Gallery(path, encoder=encoder, looks=0) as gallery:
        gallery.sync(folder)
        gallery.adapt()
        assert gallery.search(next(folder.iterdir()), k=1)[0].same_image == 1
        assert gallery.radius(1e-3) > 0
        return gallery.calibration.false_match


def test_an_emptied_gallery_stays_adapted_until_reset(gallery):
    gallery.adapt()
    gallery.remove(*gallery)
    gallery.add("one", smooth_image(5))
    assert gallery.search(smooth_image(5), k=1)[0].distance == 0
    gallery.remove("one")
    assert gallery.adapt(reset=True) == 0
    assert gallery.adaptation is None
    gallery.add("one", smooth_image(5))
    assert gallery.search(smooth_image(5), k=1)[0].distance == 0


def test_adapt_replaces_codes_in_every_chunk(path, monkeypatch):
    """Beyond the first chunk of codes, too."""
    monkeypatch.setitem(chunks.SLOTS, "chunk", 32)

    def images(key):
        return smooth_image(int(key))

    with Gallery(path, encoder=Synthetic()) as gallery:
        for number in range(70):
            gallery.add(str(number), smooth_image(number))
        gallery.adapt(images)
        after = state(gallery)
    with Gallery(path, encoder=Synthetic()) as gallery:
        assert state(gallery) == after
        for number in range(70):
            assert gallery.search(smooth_image(number), k=1)[0].key == str(number)
