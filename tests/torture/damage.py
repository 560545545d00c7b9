"""Ways to damage a file's bytes: flipped bits, truncation, extreme lengths, misplaced pages.

Works on bytes alone, and uses only where SQLite keeps its lengths.
"""

import struct
from collections.abc import Callable

import numpy as np

_EXTREMES = (
    b"\x00",
    b"\xff",
    b"\x7f\xff",
    b"\x00\x00\x00\x00",
    b"\x7f\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x81" * 8 + b"\x7f",
    b"\xff" * 9,
    b"\xff" * 16,
)
Random = np.random.Generator


def flip_bits(content: bytearray, random: Random) -> None:
    """Flip one to four bits anywhere."""
    for position in random.integers(0, len(content), random.integers(1, 5)):
        content[position] ^= 1 << int(random.integers(8))


def flip_in_front(content: bytearray, random: Random) -> None:
    """Flip one to four bits of the first 300 bytes, where most formats have their headers."""
    for position in random.integers(0, min(300, len(content)), random.integers(1, 5)):
        content[position] ^= 1 << int(random.integers(8))


def cut(content: bytearray, random: Random) -> None:
    """Truncate the end."""
    del content[int(random.integers(len(content))) :]


def cut_out(content: bytearray, random: Random) -> None:
    """Remove a piece from the middle."""
    start = int(random.integers(len(content)))
    del content[start : start + int(random.integers(1, 5000))]


def append(content: bytearray, random: Random) -> None:
    """Append random bytes."""
    content += random.bytes(int(random.integers(1, 9000)))


def overwrite(content: bytearray, random: Random) -> None:
    """Overwrite a piece with noise."""
    start = int(random.integers(len(content)))
    noise = random.bytes(int(random.integers(1, 600)))
    content[start : start + len(noise)] = noise[: len(content) - start]


def put_extreme(content: bytearray, random: Random) -> None:
    """Set a number anywhere to an extreme value."""
    _put(content, int(random.integers(len(content))), random)


def put_extreme_in_front(content: bytearray, random: Random) -> None:
    """Set a number in the first 300 bytes to an extreme value."""
    _put(content, int(random.integers(min(300, len(content)))), random)


def put_extreme_length(content: bytearray, random: Random) -> None:
    """Set a length, count or pointer of an SQLite page to an extreme value."""
    page = _page(content)
    start = int(random.integers(len(content) // page)) * page
    header = start + (100 if start == 0 else 0)
    where = int(random.integers(4))
    if where == 0:  # kind of page, first free block, count of cells, start of cells
        _put(content, header + int(random.integers(8)), random)
        return
    (count,) = struct.unpack_from(">H", content, header + 3)
    cell = header + 8 + 2 * int(random.integers(max(1, min(count, 500))))
    if where == 1 or cell + 2 > len(content):
        _put(content, min(cell, len(content) - 1), random)
        return
    (offset,) = struct.unpack_from(">H", content, cell)
    # A cell starts with its length, its row number, and the lengths of its columns.
    _put(content, min(start + offset + int(random.integers(14)), len(content) - 1), random)


def change_number(content: bytearray, random: Random) -> None:
    """Change a byte by up to 2."""
    position = int(random.integers(len(content)))
    content[position] = (content[position] + int(random.integers(-2, 3))) % 256


def blank_page(content: bytearray, random: Random) -> None:
    """Zero a page, as after a write that the disk lost."""
    page = _page(content)
    start = int(random.integers(len(content) // page)) * page
    content[start : start + page] = bytes(page)


def copy_page(content: bytearray, random: Random) -> None:
    """Overwrite a page with a copy of another."""
    page = _page(content)
    source, target = (int(n) * page for n in random.integers(len(content) // page, size=2))
    content[target : target + page] = content[source : source + page]


def swap_pages(content: bytearray, random: Random) -> None:
    """Swap two pages."""
    page = _page(content)
    a, b = (int(n) * page for n in random.integers(len(content) // page, size=2))
    first, second = content[a : a + page], content[b : b + page]
    content[a : a + page], content[b : b + page] = second, first


ANY: tuple[Callable[[bytearray, Random], None], ...] = (
    flip_bits,
    flip_bits,
    flip_in_front,
    cut,
    cut_out,
    append,
    overwrite,
    put_extreme,
    put_extreme_in_front,
    change_number,
)
SQLITE = (
    *ANY,
    flip_bits,
    put_extreme_length,
    put_extreme_length,
    blank_page,
    copy_page,
    swap_pages,
)


def damaged(
    content: bytes, kinds: tuple[Callable[[bytearray, Random], None], ...], random: Random
) -> bytes:
    """A copy with one kind of damage, occasionally two."""
    copy = bytearray(content)
    for _ in range(1 + (random.random() < 0.15)):
        if len(copy) > 1:
            kinds[int(random.integers(len(kinds)))](copy, random)
    return bytes(copy)


def _put(content: bytearray, position: int, random: Random) -> None:
    extreme = _EXTREMES[int(random.integers(len(_EXTREMES)))]
    content[position : position + len(extreme)] = extreme[: len(content) - position]


def _page(content: bytearray) -> int:
    return min(4096, max(1, len(content)))
