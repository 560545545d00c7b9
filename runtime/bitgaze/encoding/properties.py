"""What an image file says about itself: size, date, camera, lens, place; from its headers alone."""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from PIL import ExifTags, Image

# Their names; of a JPEG whose end was missing, also "truncated".
PROPERTIES = (
    *("width", "height", "format", "date", "camera", "lens", "latitude", "longitude"),
    "truncated",
)
_DATE = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_MAX_TEXT = 200  # characters; longer ones are no names
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def properties_of(image: Image.Image) -> dict[str, Any]:
    """The properties of an image that is open; it need not be decoded.

    Args:
        image: as Pillow opened it, before it is turned upright.

    Returns:
        Of these, what the file says in a form that can be read:

            width, height: in pixels, upright; always present.
            format: as Pillow names it, such as "JPEG".
            date: when it was taken, else when it was changed, "2024-05-17T18:30:00", local time.
            camera: maker and model, such as "Canon EOS R5".
            lens: its model.
            latitude, longitude: in degrees; north and east are positive.
    """
    exif, camera, place = _exif(image)
    width, height = image.size
    if exif.get(ExifTags.Base.Orientation) in _TURNED:
        width, height = height, width
    make, model = _text(exif.get(ExifTags.Base.Make)), _text(exif.get(ExifTags.Base.Model))
    # Most models already begin with their maker's name.
    maker_word = make.split()[0].lower() if make else ""
    name = model if maker_word and model.lower().startswith(maker_word) else f"{make} {model}"
    found: dict[str, Any] = {
        "width": width,
        "height": height,
        "format": image.format,
        "date": _date(
            camera.get(ExifTags.Base.DateTimeOriginal),
            camera.get(ExifTags.Base.DateTimeDigitized),
            exif.get(ExifTags.Base.DateTime),
        ),
        "camera": name.strip(),
        "lens": _text(camera.get(ExifTags.Base.LensModel)),
    }
    position = _position(place)
    if position is not None:
        found["latitude"], found["longitude"] = position
    return {name: value for name, value in found.items() if value not in ("", None)}


def _exif(image: Image.Image) -> tuple[Mapping[int, Any], Mapping[int, Any], Mapping[int, Any]]:
    """EXIF's tags, those of the camera, and those of the place; empty where they are damaged."""
    try:
        exif = image.getexif()
        return (
            dict(exif),
            dict(exif.get_ifd(ExifTags.IFD.Exif)),
            dict(exif.get_ifd(ExifTags.IFD.GPSInfo)),
        )
    except Exception:  # Pillow raises nearly anything for damaged EXIF
        return {}, {}, {}


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if not isinstance(value, str):
        return ""
    # Makers fill the field with NULs or blanks.
    text = " ".join(value.split("\0")[0].split())
    return text if text.isprintable() and len(text) <= _MAX_TEXT else ""


def _date(*values: Any) -> str:
    for value in values:
        match = _DATE.match(_text(value))
        if match is None:
            continue
        year, month, day, hour, minute, second = match.groups()
        is_date = year != "0000" and "01" <= month <= "12" and "01" <= day <= "31"
        if is_date and hour < "24" and minute < "60" and second < "61":
            return f"{year}-{month}-{day}T{hour}:{minute}:{second}"
    return ""


def _position(place: Mapping[int, Any]) -> tuple[float, float] | None:
    """(latitude, longitude) in degrees, to a metre; None if it is missing or impossible."""
    tags = ExifTags.GPS
    try:
        latitude = _degrees(place[tags.GPSLatitude], place[tags.GPSLatitudeRef], "S")
        longitude = _degrees(place[tags.GPSLongitude], place[tags.GPSLongitudeRef], "W")
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    if abs(latitude) > 90 or abs(longitude) > 180 or (latitude, longitude) == (0, 0):
        return None  # cameras without a fix write zeros
    return round(latitude, 5), round(longitude, 5)


def _degrees(parts: Any, reference: Any, negative: str) -> float:
    degrees, minutes, seconds = (float(Fraction(part)) for part in parts)
    value = degrees + minutes / 60 + seconds / 3600
    if value != value:  # noqa: PLR0124 (NaN)
        raise ValueError("not a number")
    return -value if _text(reference).upper() == negative else value
