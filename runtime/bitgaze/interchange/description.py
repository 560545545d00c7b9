"""What a gallery says of all its items, as JSON: every engine's file carries it.

Items are in the engine's own columns; this module knows nothing of them.
"""

import json
import zlib
from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass
from typing import Any

from bitgaze.arguments import MAX_VIEWS, code_length
from bitgaze.encoding.calibration import Calibration
from bitgaze.encoding.contract import calibration_from
from bitgaze.errors import InterchangeError
from bitgaze.gallery.adaptation import Adaptation
from bitgaze.gallery.info import ModelInfo
from bitgaze.gallery.remembered import Sources

FORMAT = 1
_MAX_STRUCTURE_BITS = 1024
_IDENTITY_BYTES = 16


@dataclass(frozen=True)
class Description:
    """A gallery without its items.

    Attributes:
        bits: length of a code.
        fingerprint: of the model that made the codes; "" for the caller's own codes.
        model: name of the model; "" for the caller's own codes.
        looks: how many looks at most an item has.
        structure: length of a structural code in bits; 0 for none.
        calibration: of the model, or None.
        adaptation: of the codes to the gallery's images, or None.
        adapted_calibration: of the adapted codes, or None.
        sources: the folders that the gallery was last synced with, or None.
        distinct: pairs of identities of images that a person called distinct.
    """

    bits: int
    fingerprint: str = ""
    model: str = ""
    looks: int = 0
    structure: int = 0
    calibration: Calibration | None = None
    adaptation: Adaptation | None = None
    adapted_calibration: Calibration | None = None
    sources: Sources | None = None
    distinct: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def model_info(self) -> ModelInfo:
        """What a new gallery is created with."""
        return ModelInfo(
            self.fingerprint, self.model, self.bits, self.calibration, self.looks, self.structure
        )

    def to_text(self) -> str:
        """As a JSON object: the attributes, `format`, and `crc`, the CRC-32 of the JSON before it.

        The adaptation is the base64 of `Adaptation.to_bytes`, an identity is in hex digits.
        """
        adaptation = self.adaptation
        values = {
            "format": FORMAT,
            "bits": self.bits,
            "fingerprint": self.fingerprint,
            "model": self.model,
            "looks": self.looks,
            "structure": self.structure,
            "calibration": self.calibration and asdict(self.calibration),
            "adaptation": adaptation and b64encode(adaptation.to_bytes()).decode(),
            "adapted_calibration": self.adapted_calibration and asdict(self.adapted_calibration),
            "sources": self.sources and asdict(self.sources),
            "distinct": [[one.hex(), other.hex()] for one, other in self.distinct],
        }
        return json.dumps({**values, "crc": _crc(values)})


def description_from(text: str | bytes, where: str) -> Description:
    """Read what `Description.to_text` wrote.

    Args:
        text: JSON.
        where: what it was read from, for messages.

    Raises:
        InterchangeError: it is not a description, or of a newer format.
    """
    try:
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise InterchangeError(
                f"{where}: is of format {values['format']!r}, but this version of bitgaze reads "
                f"format {FORMAT}; update bitgaze"
            )
        crc = values.pop("crc", None)  # others may leave it out
        if crc is not None and crc != _crc(values):
            raise ValueError("the checksum does not match")
        return _from_values(values)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InterchangeError(
            f"{where}: does not describe the codes as bitgaze writes it: {error!r}"
        ) from error


def _crc(values: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(values).encode())


def _from_values(values: dict[str, Any]) -> Description:
    bits = code_length(values["bits"])
    for name in ("fingerprint", "model"):
        if not isinstance(values[name], str):
            raise TypeError(f"{name} is {values[name]!r}, expected text")
    for name, highest in (("looks", MAX_VIEWS - 1), ("structure", _MAX_STRUCTURE_BITS)):
        if type(values[name]) is not int or not 0 <= values[name] <= highest:
            raise ValueError(f"{name} is {values[name]!r}, expected 0 to {highest}")
    if values["structure"] % 8:
        raise ValueError(f"structure is {values['structure']}, expected a multiple of 8")
    adaptation = None
    if values["adaptation"] is not None:
        content = b64decode(values["adaptation"], validate=True)
        adaptation = Adaptation.from_bytes(content, bits)
    calibrations = [calibration_from(values[n]) for n in ("calibration", "adapted_calibration")]
    for calibration in calibrations:
        if calibration is not None and calibration.bits != bits:
            raise ValueError(f"a calibration is for {calibration.bits} bits, expected {bits}")
    sources = values["sources"]
    return Description(
        bits,
        values["fingerprint"],
        values["model"],
        values["looks"],
        values["structure"],
        calibrations[0],
        adaptation,
        calibrations[1],
        None if sources is None else _sources(sources),
        tuple((_identity(one), _identity(other)) for one, other in values["distinct"]),
    )


def _sources(values: dict[str, Any]) -> Sources:
    lists = {name: tuple(values[name]) for name in ("folders", "include", "exclude")}
    if not all(isinstance(text, str) for texts in lists.values() for text in texts):
        raise TypeError(f"sources are {values!r}, expected lists of text")
    return Sources(**{**values, **lists})


def _identity(text: str) -> bytes:
    identity = bytes.fromhex(text)
    if len(identity) != _IDENTITY_BYTES:
        raise ValueError(f"an identity has {len(identity)} bytes, expected {_IDENTITY_BYTES}")
    return identity
