"""Fixtures that more than one file uses."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from bitgaze import Encoder

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

ROOT = Path(__file__).parent.parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """With CI set nothing may be skipped: what a test needs was installed before."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr[2]}"
    return report


@pytest.fixture(scope="session")
def examples() -> Path:
    """The example pictures that come with the project."""
    return ROOT / "examples" / "pictures"


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The shipped model, loaded once."""
    return Encoder()


@pytest.fixture
def make_picture(tmp_path: Path) -> Callable[..., Path]:
    """Write a picture below tmp_path; the same seed gives the same pixels."""

    def make(name: str, seed: int = 0, size: tuple[int, int] = (64, 48), **options: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed, size).save(path, **options)
        return path

    return make


def picture(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Smooth random colours: survives JPEG, and differs between seeds."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
