"""The model of a gallery: fingerprints, calibration, and when the model is read."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bitgaze import FingerprintMismatch, Gallery, GalleryError, ModelError
from bitgaze.encoding.calibration import at_odds
from bitgaze.encoding.contract import DEFAULT_MODEL
from bitgaze.encoding.encoder import Encoder
from bitgaze.gallery.info import new_file_id, seal_info
from conftest import smooth_image
from galleries import BITS, items


@pytest.fixture(scope="module")
def other_encoder(tmp_path_factory):
    """The shipped model with one bit of a weight changed: the same shapes, another model."""
    content = bytearray(DEFAULT_MODEL.read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path_factory.mktemp("other") / "other.onnx"
    path.write_bytes(content)
    return Encoder(path)


def test_codes_of_two_models_are_never_mixed(path, other_encoder):
    with Gallery(path) as gallery:
        gallery.add("a", smooth_image(1))
    with pytest.raises(
        FingerprintMismatch, match=r"are from model 'general-128' .*not from model 'general-128'"
    ):
        Gallery(path, encoder=other_encoder)
    theirs = path.with_name("other.bitgaze")
    with Gallery(theirs, encoder=other_encoder) as gallery:
        gallery.add("a", smooth_image(1))
    with Gallery(theirs) as gallery:  # with the default model: calls that need no model still work
        assert gallery.search("a")[0].distance == 0
        for use in (
            lambda: gallery.search(smooth_image(1)),
            lambda: gallery.add("b", smooth_image(2)),
            lambda: gallery.adapt(lambda _: smooth_image(1)),
        ):
            with pytest.raises(FingerprintMismatch, match=r"the model that made them .*-m FILE"):
                use()
        assert list(gallery) == ["a"]


def write_calibration(path, value):
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE info SET value = ? WHERE name = 'calibration'", [json.dumps(value)])
        seal_info(db)
        new_file_id(db)
        db.commit()


def calibration(kind=()):
    """Tables that fall or rise linearly with distance."""
    return {
        "duplicate": [1 - distance / BITS for distance in range(BITS + 1)],
        "kind": list(kind),
        "false_match": [(distance + 1) / (BITS + 1) for distance in range(BITS + 1)],
    }


def test_probabilities_follow_the_calibration(path):
    with Gallery(path) as gallery:
        gallery.upsert(items(50))
        write_calibration(path, calibration())
        hits = gallery.search("item 0", k=50)
        assert hits[-1].distance > 40
        for hit in hits:
            # The table has 1 - distance / 128 at even odds; here, one item in 50 can match.
            expected = at_odds(1 - hit.distance / 128, 1 / 50)
            assert hit.same_image == pytest.approx(expected)
            assert hit.same_kind is None  # measured without labels
        write_calibration(path, calibration(kind=[0.95] * (BITS + 1)))
        for hit in gallery.search("item 0", k=50):
            assert hit.same_kind == pytest.approx(0.5)  # prior odds are one in twenty


def test_radius_for_a_false_match_rate(path):
    with Gallery(path) as gallery:
        write_calibration(path, calibration())
        assert gallery.radius(0.1) == gallery.calibration.radius(0.1) == 11
        assert gallery.radius(false_match_rate=0.5) == 63
        with pytest.raises(ValueError, match=r"can resolve is 0\.0078"):
            gallery.radius()
        with pytest.raises(ValueError, match="above 0 and below 1"):
            gallery.radius(1)


def test_without_a_calibration_there_are_no_probabilities(path):
    with Gallery(path) as gallery:
        gallery.upsert(items(5))
        write_calibration(path, None)
        assert gallery.calibration is None
        hit = gallery.search("item 0")[0]
        assert (hit.same_kind, hit.same_image) == (None, None)
        with pytest.raises(
            GalleryError, match="has no calibration; use a calibrated model, or adapt"
        ):
            gallery.radius()


def test_a_missing_default_model_is_reported(path, monkeypatch):
    monkeypatch.setattr("bitgaze.gallery.gallery.DEFAULT_MODEL", Path("/nowhere/general.onnx"))
    with pytest.raises(ModelError, match=r"general\.onnx: cannot read the model"):
        Gallery(path)
    assert not path.exists()


def test_the_model_is_read_only_to_encode(path, monkeypatch):
    with Gallery(path) as gallery:
        gallery.upsert(items(3))
    monkeypatch.setattr("bitgaze.gallery.gallery.read_model", None)  # calling it would raise
    monkeypatch.setattr("bitgaze.gallery.gallery.Encoder", None)
    for create in (True, False):
        with Gallery(path, create=create) as gallery:
            assert gallery.search("item 1", k=1)[0].distance == 0
