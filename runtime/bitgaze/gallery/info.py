"""The table `info`: which model's codes a gallery holds, and what else is known of all of them."""

import json
import os
import sqlite3
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from bitgaze.arguments import MAX_VIEWS, code_length
from bitgaze.encoding.calibration import Calibration
from bitgaze.encoding.contract import Model, calibration_from
from bitgaze.errors import FingerprintMismatch, GalleryCorrupt
from bitgaze.gallery.adaptation import Adaptation
from bitgaze.gallery.chunks import read_sums, unsigned

_ADAPTED = frozenset(["adaptation", "adaptation_fingerprint", "adapted_calibration"])
_MAX_STRUCTURE_BITS = 1024
_ID_BYTES = 16
# Written by every commit; `state` covers the others.
_UNSEALED = ("crc", "state", "columns")


class ModelInfo(NamedTuple):
    """The model whose codes a gallery holds, as stored in a new file.

    Attributes:
        fingerprint: of the model; "" for the caller's own codes.
        model: name of the model; "" for the caller's own codes.
        bits: length of a code.
        calibration: of the model, or None.
        looks: how many looks at most an item has.
        structure: length of a structural code in bits; 0 for none.
    """

    fingerprint: str
    model: str
    bits: int
    calibration: Calibration | None
    looks: int = 0
    structure: int = 0


def read_info(db: sqlite3.Connection, path: Path) -> dict[str, Any]:
    """Read the description of the file's codes.

    Returns:
        The entries fingerprint, model, bits, calibration, looks, structure and crc; adaptation and
        adapted_calibration, which are None if the codes are not adapted; state, None in a file of
        an older format; and columns.

    Raises:
        GalleryCorrupt: an entry is missing, invalid or damaged.
    """
    info: dict[str, Any] = dict(db.execute("SELECT name, value FROM info"))
    try:
        crc = _info_crc(info)
        for name, kind in (("fingerprint", str), ("model", str), ("bits", int)):
            if not isinstance(info[name], kind):
                raise ValueError(f"{name} is {info[name]!r}, expected {kind.__name__}")
        code_length(info["bits"])
        for name, highest in (("looks", MAX_VIEWS - 1), ("structure", _MAX_STRUCTURE_BITS)):
            number = info.setdefault(name, 0)
            if type(number) is not int or not 0 <= number <= highest:
                raise ValueError(f"{name} is {number!r}, expected 0 to {highest}")
        if info["structure"] % 8:
            raise ValueError(f"structure is {info['structure']}, expected a multiple of 8")
        if info.setdefault("state", None) is not None and not isinstance(info["state"], bytes):
            raise ValueError(f"state is {info['state']!r}, expected bytes")
        info["columns"] = unsigned(info.get("columns"))
        info["calibration"] = _calibration(info["calibration"], info["bits"])
        is_adapted = not _ADAPTED.isdisjoint(info)
        info["adaptation"] = _adaptation(info) if is_adapted else None
        info["adapted_calibration"] = (
            _calibration(info["adapted_calibration"], info["bits"]) if is_adapted else None
        )
        if info["crc"] != crc:
            raise ValueError("the checksum does not match the entries")
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise GalleryCorrupt(f"{path}: the info table is damaged: {error!r}") from error
    return info


def origin(info: dict[str, Any]) -> str:
    """Where the codes of a gallery with this info come from, in words for messages."""
    if not info["fingerprint"]:
        return "your own"
    return f"from model {info['model']!r} ({info['fingerprint'][:12]})"


def check_model(info: dict[str, Any], model: Model, path: Path) -> None:
    """Check that a model made the codes of the gallery with this info.

    Raises:
        FingerprintMismatch: it did not.
    """
    if model.fingerprint != info["fingerprint"]:
        remedy = (
            "open it with the model that made them (on the command line, -m FILE), or index the "
            "images into a new gallery"
            if info["fingerprint"]
            else "open it without a model"
        )
        raise FingerprintMismatch(
            f"{path}: its codes are {origin(info)}, not from model {model.contract.name!r} "
            f"({model.fingerprint[:12]}) in {model.path}; {remedy}"
        )


def write_adaptation(
    db: sqlite3.Connection, adaptation: Adaptation | None, calibration: Calibration | None
) -> None:
    """Store the adaptation of the codes and its calibration; None for the model's own codes."""
    db.executemany("DELETE FROM info WHERE name = ?", [(name,) for name in _ADAPTED])
    if adaptation is not None:
        info = {
            "adaptation": adaptation.to_bytes(),
            "adaptation_fingerprint": adaptation.fingerprint,
            "adapted_calibration": _calibration_text(calibration),
        }
        db.executemany("INSERT INTO info VALUES (?, ?)", info.items())
    seal_info(db)


def write_info(db: sqlite3.Connection, model_info: ModelInfo) -> None:
    """Fill the table of a new file."""
    entries = model_info._asdict()
    entries["calibration"] = _calibration_text(model_info.calibration)
    db.executemany("INSERT INTO info VALUES (?, ?)", entries.items())
    seal_info(db)


def seal_info(db: sqlite3.Connection) -> None:
    """Store the checksum of the present entries of `info`."""
    crc = _info_crc(dict(db.execute("SELECT name, value FROM info")))
    write_entry(db, "crc", crc)


def write_entry(db: sqlite3.Connection, name: str, value: Any) -> None:
    """Store an entry; `seal_info` must follow, but for those of `_UNSEALED`."""
    db.execute("INSERT OR REPLACE INTO info VALUES (?, ?)", (name, value))


def read_file_id(db: sqlite3.Connection, path: Path) -> bytes:
    """The file's id, 16 bytes.

    Raises:
        GalleryCorrupt: it is missing or damaged.
    """
    rows = db.execute("SELECT id FROM file_id LIMIT 2").fetchall()
    if len(rows) != 1 or not isinstance(rows[0][0], bytes) or len(rows[0][0]) != _ID_BYTES:
        raise GalleryCorrupt(f"{path}: the file's id is damaged")
    found: bytes = rows[0][0]
    return found


def new_file_id(db: sqlite3.Connection) -> None:
    """Give the file another id, and store the state that follows from it."""
    file_id = os.urandom(_ID_BYTES)
    db.execute("DELETE FROM file_id")
    db.execute("INSERT INTO file_id VALUES (?)", (file_id,))
    row = db.execute("SELECT value FROM info WHERE name = 'crc'").fetchone()
    write_entry(db, "state", read_sums(db).digest(file_id, unsigned(row and row[0])))


def _info_crc(info: dict[str, Any]) -> int:
    """CRC-32 of the entries but `_UNSEALED`, sorted by name.

    Name and value of each as UTF-8, a zero byte after each.
    """
    crc = 0
    for name, value in sorted(info.items()):
        if name not in _UNSEALED:
            content = value if isinstance(value, bytes) else str(value).encode()
            crc = zlib.crc32(b"%b\0%b\0" % (str(name).encode(), content), crc)
    return crc


def _calibration_text(calibration: Calibration | None) -> str:
    return json.dumps(calibration and asdict(calibration))


def _calibration(text: str, bits: int) -> Calibration | None:
    calibration = calibration_from(json.loads(text))
    if calibration is not None and calibration.bits != bits:
        raise ValueError(f"calibration is for {calibration.bits} bits, expected {bits}")
    return calibration


def _adaptation(info: dict[str, Any]) -> Adaptation:
    adaptation = Adaptation.from_bytes(info["adaptation"], info["bits"])
    if adaptation.fingerprint != info["adaptation_fingerprint"]:
        raise ValueError(
            f"adaptation has fingerprint {adaptation.fingerprint}, "
            f"expected {info['adaptation_fingerprint']!r}"
        )
    return adaptation
