"""A gallery whose items have all that an item can have, and what a gallery holds, comparable."""

from dataclasses import astuple

import numpy as np

from bitgaze import Item
from bitgaze.encoding.calibration import Calibration
from bitgaze.gallery.adaptation import Adaptation
from bitgaze.gallery.items import FileState
from bitgaze.gallery.remembered import Sources
from bitgaze.interchange import galleries
from bitgaze.interchange.description import Description

BITS, COUNT = 64, 60


def made_items(count=COUNT, seed=0):
    """Items with all that an item can have, and without; every fourth code is there twice."""
    random = np.random.default_rng(seed)

    def codes(*shape):
        return random.integers(0, 256, (*shape, BITS // 8), dtype=np.uint8)

    made = []
    for n in range(count):
        boxes = np.sort(random.integers(0, 65536, (n % 3, 4)), axis=1) / 65535
        file = FileState(b"/p/\xff%d.jpg" % n, n, n - 5, 2**62 + n, bytes([n]) * 16)
        made.append(
            Item(
                f"bild {n} \u00e4\t\\N\n",
                made[-1].code if n % 4 == 3 else codes(),
                {}
                if n == 1
                else {"n": n, "f": 1.0, "t": ["\u2028", "a\\b\x00"], "z": None, "a": {}},
                None if n % 5 == 0 else file,
                codes(n % 3),
                boxes.astype(np.float32),
                None if n % 7 == 0 else random.integers(1, 256, 32, dtype=np.uint8),
                None if n % 3 == 0 else {"width": n, "camera": "x\t\\"},
                None if n % 2 else b"\x01\x01" + bytes([n, 0, 3]),
            )
        )
    return made


def made_description():
    random = np.random.default_rng(1)
    rotation, _ = np.linalg.qr(random.normal(size=(BITS, BITS)))
    table = tuple(np.linspace(1, 0, BITS + 1).tolist())
    return Description(
        BITS,
        "f" * 64,
        "made",
        2,
        256,
        Calibration(table, table, table[::-1]),
        Adaptation(random.normal(size=BITS).astype(np.float32), rotation.astype(np.float32)),
        Calibration((), table, table[::-1]),
        Sources(("/p",), ("*.jpg",), (), False, 60.0, "/m.onnx"),
        ((b"a" * 16, b"b" * 16),),
    )


def content(path):
    """All of a gallery, comparable."""
    with galleries.reading(path) as found:
        items = [item for batch in found.content.batches for item in batch]
        return found.content.description.to_text(), [
            tuple(v.tolist() if isinstance(v, np.ndarray) else v for v in astuple(item))
            for item in items
        ]


def write_full(path):
    """Write the gallery of `made_items`."""
    galleries.write_gallery(path, made_description(), [made_items()], path)
