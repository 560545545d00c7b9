"""What `make demo` runs: index a folder, search it, and print where the HTML page is.

    python examples/demo.py PHOTOS [QUERY]

Without QUERY: an example image that the gallery does not hold, or the first of your own PHOTOS.
"""

import hashlib
import os
import sys
from pathlib import Path

from bitgaze import Gallery
from bitgaze.cli.main import main
from bitgaze.cli.options import SOME_FAILED

EXAMPLES = Path("examples/pictures")
EXAMPLE_QUERY = "examples/queries/mausoleum.jpg"


def demo(photos: str, query: str) -> int:
    """Index and search; return the exit code of `bitgaze`."""
    folder = Path(photos).expanduser().resolve()
    # One gallery per folder, kept: the next run reads only what is new. The digest distinguishes
    # folders of the same name.
    is_example = Path(photos) == EXAMPLES
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
    name = "examples" if is_example else f"{folder.name}-{digest}"
    gallery, page = f"demo/{name}.bitgaze", f"demo/{name}.html"
    Path("demo").mkdir(exist_ok=True)
    status = main(["index", photos, "-g", gallery])
    if status > SOME_FAILED:
        return status
    options = []
    if not query and is_example:
        query = EXAMPLE_QUERY
    elif not query:
        query = first_image(gallery)
        options = ["--exclude-self"]  # that it finds itself is no surprise
    print(f"\nImages like {query} (bits that differ, image):", flush=True)
    return main(["search", query, "-g", gallery, "--html", page, *options])


def first_image(path: str) -> str:
    """An image that the gallery could read."""
    with Gallery(path) as gallery:
        keys = list(gallery)
        if not keys:
            sys.exit("demo: no image was found there")
        return gallery.get(keys[0]).path or keys[0]


if __name__ == "__main__":
    sys.exit(demo(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""))
