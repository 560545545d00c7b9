"""Take the README's image, docs/results.jpg, of the page that `make demo` writes.

    python docs/hero.py

Needs Chromium and Playwright. The JPEG keeps the page's text in its comment; a
test compares that with the page that the demo writes today.
"""

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parent.parent
HERO = ROOT / "docs" / "results.jpg"
CHROMIUM = "/usr/bin/chromium"
# About as wide as the README is shown.
_ROWS = 3
_VIEWPORT = {"width": 900, "height": 700}
_SCALE = 1.25
_MARGIN = 14  # pixels of the page below the last row
_QUALITY = 76


def main() -> None:
    """Write the JPEG."""
    with tempfile.TemporaryDirectory() as folder:
        page = demo_page(Path(folder))
        image = Image.open(io.BytesIO(screenshot(page))).convert("RGB")
        comment = text_of(page.read_text(encoding="utf-8"))
    image.save(HERO, quality=_QUALITY, optimize=True, progressive=True, comment=comment)


def demo_page(folder: Path) -> Path:
    """Run the demo of the examples in an empty folder; return the page that it wrote."""
    (folder / "examples").symlink_to(ROOT / "examples")
    demo = [sys.executable, "examples/demo.py", "examples/pictures"]
    subprocess.run(demo, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder / "demo" / "examples.html"


def text_of(html: str) -> str:
    """What a page says: its HTML without styles, images and folders."""
    html = re.sub(r'(?s)<style>.*</style>|data:image/[^"]+|href="file:[^"]*"', "", html)
    return re.sub(r'title="[^"]*/examples/pictures/', 'title="', html)


def screenshot(path: Path) -> bytes:
    """The page's header and its first rows of hits, as PNG."""
    # Imported here so that the test, which takes no screenshot, does not need it.
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(
            viewport=_VIEWPORT, device_scale_factor=_SCALE, color_scheme="light"
        )
        page.goto(path.as_uri())
        clip = {"x": 0, "y": 0, "width": _VIEWPORT["width"], "height": _end_of_rows(page)}
        png = page.screenshot(clip=clip, full_page=True)
        browser.close()
    return png


def _end_of_rows(page: "Page") -> float:
    cards = [box for card in page.locator("ol > li").all() if (box := card.bounding_box())]
    tops = sorted({card["y"] for card in cards})[:_ROWS]
    return max(card["y"] + card["height"] for card in cards if card["y"] in tops) + _MARGIN


if __name__ == "__main__":
    main()
