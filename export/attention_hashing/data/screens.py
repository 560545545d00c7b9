"""Generated images that look alike and are not the same: the hard cases of finding copies.

Each kind shares its layout, colours and fonts; what differs is what it says.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SYLLABLES = (
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ha",
    "le",
    "mi",
    "no",
    "pu",
    "ra",
    "se",
    "ti",
    "ker",
    "lin",
    "tan",
)
_WHITE, _BLACK, _GREY = (255, 255, 255), (0, 0, 0), (128, 128, 128)


def screens(kind: str, number: int, seed: int = 0) -> list[Image.Image]:
    """Generate different images of one kind.

    Args:
        kind: one of `KINDS`.
        number: how many.
        seed: of what they say. The same seed gives the same images.

    Returns:
        RGB images of 300 to 1,000 pixels a side.
    """
    make = KINDS[kind]
    return [
        make(np.random.default_rng([seed, number_of, *kind.encode()]))
        for number_of in range(number)
    ]


def _words(rng: np.random.Generator, number: int) -> str:
    return " ".join("".join(rng.choice(_SYLLABLES, rng.integers(1, 4))) for _ in range(number))


def _code(rng: np.random.Generator) -> Image.Image:
    """A QR code of version 2, 25 modules a side, with its three marks; the rest is random."""
    modules = rng.integers(0, 2, (25, 25))
    mark = np.zeros((8, 8), int)
    mark[:7, :7] = 1
    mark[1:6, 1:6] = 0
    mark[2:5, 2:5] = 1
    modules[:8, :8], modules[:8, -8:], modules[-8:, :8] = mark, mark[:, ::-1], mark[::-1]
    pixels = np.kron(np.pad(modules, 4), np.ones((10, 10), int))
    return Image.fromarray(np.where(pixels, 0, 255).astype(np.uint8)).convert("RGB")


def _page(rng: np.random.Generator) -> Image.Image:
    """A page of text in paragraphs."""
    image = Image.new("RGB", (600, 850), "white")
    draw = ImageDraw.Draw(image)
    font, top = ImageFont.load_default(13), 60
    while top < 780:
        for _ in range(rng.integers(2, 9)):
            if top < 780:
                draw.text((60, top), _words(rng, 14)[:68], _BLACK, font)
            top += 19
        top += 12
    return image


def _receipt(rng: np.random.Generator) -> Image.Image:
    """A till's receipt: one shop, other goods."""
    lines = int(rng.integers(4, 14))
    image = Image.new("RGB", (360, 640), (250, 250, 247))
    draw = ImageDraw.Draw(image)
    draw.text((90, 24), "THE CORNER SHOP", _BLACK, ImageFont.load_default(22))
    font = ImageFont.load_default(17)
    draw.text((90, 56), "12 Long Street, Town", _GREY, font)
    prices = rng.integers(50, 2000, lines) / 100
    for line, price in enumerate(prices):
        draw.text((30, 110 + 26 * line), _words(rng, 2)[:22], _BLACK, font)
        draw.text((290, 110 + 26 * line), f"{price:.2f}", _BLACK, font)
    top = 130 + 26 * lines
    draw.line((30, top, 330, top), _BLACK, 2)
    draw.text((30, top + 10), "TOTAL", _BLACK, font)
    draw.text((285, top + 10), f"{prices.sum():.2f}", _BLACK, font)
    draw.text((100, 600), "Thank you, come again", _GREY, font)
    return image


def _chat(rng: np.random.Generator) -> Image.Image:
    """A telephone's screen with a conversation."""
    image = Image.new("RGB", (450, 900), (236, 229, 221))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 450, 80), (7, 94, 84))
    draw.text((70, 28), _words(rng, 2).title(), "white", ImageFont.load_default(22))
    font, top = ImageFont.load_default(17), 100
    while top < 800:
        is_own, lines = rng.random() < 0.5, int(rng.integers(1, 5))
        width, height = int(rng.integers(120, 300)), 22 * lines + 18
        left = 440 - width if is_own else 10
        colour = (220, 248, 198) if is_own else _WHITE
        draw.rounded_rectangle((left, top, left + width, top + height), 10, colour)
        for line in range(lines):
            text = _words(rng, 6)[: width // 9]
            draw.text((left + 10, top + 8 + 22 * line), text, _BLACK, font)
        top += height + 12
    draw.rectangle((0, 830, 450, 900), (240, 240, 240))
    return image


def _screen(rng: np.random.Generator) -> Image.Image:
    """A window of a program: a side bar, a table."""
    image = Image.new("RGB", (960, 600), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(14)
    draw.rectangle((0, 0, 960, 36), (60, 90, 150))
    draw.rectangle((0, 36, 180, 600), (235, 238, 243))
    for row in range(9):
        draw.text((16, 56 + 34 * row), _words(rng, 2)[:18], _BLACK, font)
    chosen = int(rng.integers(20))
    draw.rectangle((180, 66 + 26 * chosen, 960, 92 + 26 * chosen), (210, 225, 250))
    for row in range(20):
        for left in (200, 420, 600, 800):
            draw.text((left, 70 + 26 * row), _words(rng, 2)[:16], _BLACK, font)
        draw.line((180, 92 + 26 * row, 960, 92 + 26 * row), (225, 225, 225))
    return image


def _chart(rng: np.random.Generator) -> Image.Image:
    """A diagram of bars."""
    image = Image.new("RGB", (800, 500), "white")
    draw = ImageDraw.Draw(image)
    draw.line((60, 30, 60, 450, 770, 450), _BLACK, 2)
    for bar, height in enumerate(rng.integers(20, 400, 12)):
        left = 75 + 58 * bar
        draw.rectangle((left, 450 - int(height), left + 40, 449), (70, 110, 180))
    draw.text((300, 8), _words(rng, 3), _BLACK, ImageFont.load_default(16))
    return image


def _sky(rng: np.random.Generator) -> Image.Image:
    """A photograph of a sky of two colours, with a camera's noise."""
    one, other = rng.integers(90, 255, (2, 3))
    height = np.linspace(0, 1, 600)[:, None, None] ** rng.uniform(0.6, 1.6)
    pixels = one + (other - one) * height + rng.normal(0, 2, (600, 900, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _gradient(rng: np.random.Generator) -> Image.Image:
    """A drawn background: from one colour at the top to another at the bottom, without noise."""
    one, other = rng.integers(0, 256, (2, 3))
    pixels = np.round(one + (other - one) * np.linspace(0, 1, 600)[:, None, None])
    return Image.fromarray(np.broadcast_to(pixels, (600, 900, 3)).astype(np.uint8))


def _plain(rng: np.random.Generator) -> Image.Image:
    """One colour."""
    red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
    return Image.new("RGB", (640, 480), (red, green, blue))


KINDS: dict[str, Callable[[np.random.Generator], Image.Image]] = {
    "QR codes": _code,
    "text pages": _page,
    "receipts": _receipt,
    "chats": _chat,
    "program windows": _screen,
    "bar charts": _chart,
    "skies": _sky,
    "drawn gradients": _gradient,
    "plain colours": _plain,
}
