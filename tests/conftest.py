"""Fixtures shared by several test files."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from bitgaze import Encoder, Gallery

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

ROOT = Path(__file__).parent.parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """With CI set a skipped test is a failure: CI must install everything that tests need."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr[2]}"
    return report


@pytest.fixture(scope="session")
def examples() -> Path:
    """Folder of the example images."""
    return ROOT / "examples" / "pictures"


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """An encoder of the shipped model."""
    return Encoder()


PETS = ("birds/owl.jpg", "birds/duck.jpg", "fish/goldfish.jpg", "fish/clownfish.jpg")


@pytest.fixture(scope="session")
def pets(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Path:
    """A folder with four images in two subfolders."""
    folder = tmp_path_factory.mktemp("pets")
    for name in PETS:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(examples / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def pets_gallery(pets: Path, encoder: Encoder, tmp_path_factory) -> Iterator[Gallery]:
    """A gallery of `pets`, with metadata, and of one image added by hand."""
    path = tmp_path_factory.mktemp("gallery") / "pets.bitgaze"
    with Gallery(path, encoder=encoder) as gallery:
        gallery.sync(pets)
        for rank, name in enumerate(PETS):
            kind = name.partition("/")[0]
            gallery.set_metadata(str(pets / name), {"kind": kind, "rank": rank})
        gallery.add("by hand", smooth_image(1))
        yield gallery


@pytest.fixture
def make_image(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes an image below tmp_path; the same seed makes the same pixels."""

    def make(name: str, seed: int = 0, size: tuple[int, int] = (64, 48), **options: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth_image(seed, size).save(path, **options)
        return path

    return make


def smooth_image(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """An image of smooth random colours, which survive JPEG and differ between seeds."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Path of a gallery that does not exist yet."""
    return tmp_path / "test.bitgaze"


@pytest.fixture
def gallery(path: Path) -> Iterator[Gallery]:
    """An empty gallery of the shipped model, without looks, which would take most of the time."""
    with Gallery(path, looks=0) as opened:
        yield opened
