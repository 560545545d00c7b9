"""A file beside the log of another state is noticed: an old copy put over a gallery in use."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from bitgaze import Gallery, GalleryCorrupt, GalleryError, Item, repair, verify_gallery
from galleries import codes, items

COUNT = 3000


def nothing(gallery):
    pass


def metadata(gallery):
    for key in list(gallery)[::700]:
        gallery.set_metadata(key, {"changed": len(gallery)})


def additions(gallery):
    for n in range(20):
        gallery.add_code(f"new {len(gallery)}", codes(1, seed=n)[0])


def removals(gallery):
    gallery.remove(*list(gallery)[::50])


def names(gallery):
    for key in list(gallery)[::100]:
        gallery.rename(key, f"renamed {key}")


def other_codes(gallery):
    with gallery.transaction():
        gallery._store.replace_codes(codes(len(gallery), seed=9), None, None)


def content(gallery):
    found = {key: gallery.get(key) for key in gallery}
    return {key: (item.code.tobytes(), str(item.metadata)) for key, item in found.items()}


CHANGES = [nothing, metadata, additions, removals, names, other_codes]


@pytest.mark.parametrize("is_backup", [True, False])
@pytest.mark.parametrize("between", CHANGES)
@pytest.mark.parametrize("logged", CHANGES[1:])
def test_a_copy_beside_another_log_is_noticed(tmp_path, is_backup, between, logged):
    path, copy, mixed = (tmp_path / f"{name}.bitgaze" for name in ("g", "copy", "mixed"))
    with Gallery(path, bits=128) as gallery:
        gallery.upsert(items(COUNT))
        if is_backup:
            gallery.backup(copy)
    if not is_backup:
        shutil.copy(path, copy)
    with Gallery(path) as gallery:
        between(gallery)
    with Gallery(path) as gallery:
        logged(gallery)
        newest = content(gallery)
        # The log as a killed process leaves it, beside the copy.
        shutil.copy(f"{path}-wal", f"{mixed}-wal")
        shutil.copy(copy, mixed)
        is_empty = Path(f"{mixed}-wal").stat().st_size == 0
    try:
        with Gallery(mixed) as gallery:
            found = content(gallery)
    except GalleryCorrupt:
        assert not verify_gallery(mixed).is_sound
        out = tmp_path / "repaired.bitgaze"
        repair(mixed, out)
        with Gallery(out) as gallery:
            repaired = content(gallery)
        with Gallery(copy) as gallery:
            possible = content(gallery).items() | newest.items()
        assert repaired.items() <= possible  # no code of another item
        return
    # A log that holds every change since the copy makes it the newest state; an empty one, none.
    with Gallery(copy) as gallery:
        assert found == newest or (is_empty and found == content(gallery))
    assert verify_gallery(mixed).is_sound


def test_a_backup_is_another_file_than_its_original(tmp_path):
    """Also when the log holds every change since: its user wanted the state of the backup."""
    path, copy = tmp_path / "g.bitgaze", tmp_path / "copy.bitgaze"
    with Gallery(path, bits=128) as gallery:
        gallery.upsert(items(100))
    with Gallery(path) as gallery:
        gallery.backup(copy)
        gallery.upsert([Item("new", np.zeros(16, np.uint8))])
        mixed = shutil.copy(copy, tmp_path / "mixed.bitgaze")
        shutil.copy(f"{path}-wal", f"{mixed}-wal")
    with pytest.raises(GalleryError, match=r"of different states.*delete the log and copy again"):
        Gallery(mixed)
    with Gallery(copy) as gallery:
        assert len(gallery) == 100
    assert verify_gallery(copy).is_sound


def test_items_of_another_state_are_noticed_when_a_log_is_left(tmp_path):
    """Codes, info and the index are of one state, and only the items of another."""
    path, other = tmp_path / "g.bitgaze", tmp_path / "other.bitgaze"
    with Gallery(path) as gallery:
        gallery.upsert(items(300))
    shutil.copy(path, other)
    with Gallery(other) as gallery:
        gallery.set_metadata("item 7", {"i": 8})
    with closing(sqlite3.connect(path)) as db:
        db.execute("ATTACH ? AS other", (str(other),))
        db.execute(
            "UPDATE item SET metadata = o.metadata, crc = o.crc FROM other.item AS o"
            " WHERE o.slot = item.slot"
        )
        db.commit()
        mixed = shutil.copy(path, tmp_path / "mixed.bitgaze")
        shutil.copy(f"{path}-wal", f"{mixed}-wal")
    with pytest.raises(GalleryCorrupt, match="slots 0 to 4095 are not those"):
        Gallery(mixed)
    # Without a log, items are compared with codes by verify, and before a search by a pattern.
    with Gallery(path) as gallery:
        assert gallery.get("item 7").metadata == {"i": 8}
        with pytest.raises(GalleryCorrupt, match="slots 0 to 4095 are not those"):
            gallery.search_code(codes(1)[0], where={"@key": {"like": "item%"}})
    assert "slots 0 to 4095 are not those" in verify_gallery(path).problems[0]
