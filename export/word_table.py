"""Measure searches by words: how well the words of labelled images find them.

    python export/word_table.py FOLDERS...

FOLDERS contain an annotations.tsv with labels. Each is put into a gallery, and each label searched
for as a word, once by the whole images alone and once with looks: average precision of all images
in the order of their probabilities, expected over the orders of equal ones. Writes a section of
docs/results.md per folder.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attention_hashing.data import annotations
from attention_hashing.evaluation.metrics import Levels, average_precision
from attention_hashing.experiments.results import RESULTS, write_section
from bitgaze import Encoder, Gallery, WordError
from bitgaze.encoding.contract import DEFAULT_MODEL
from bitgaze.encoding.likely import Likely, shown

# Labels of VOC and COCO that are no words, as one would ask for them.
_ASKED = {
    "diningtable": "dining table",
    "pottedplant": "flowerpot",
    "potted_plant": "flowerpot",
    "tvmonitor": "tv, monitor",
}
_TEXT = (
    "Average precision of `gallery.search_words` over all {count:,} photographs: by the whole "
    "image alone, and with three looks. What a word means comes from WordNet. In parentheses is "
    'what was asked for where the label is no word; after "as" the kind that stands for a word '
    "which is no class. The mean of {known} words is **{whole:.3f}** by the whole image and "
    "**{looks:.3f}** with looks. {unknown}Likely classes take {size:.0f} bytes an image."
)


def main() -> None:
    """Parse arguments, index, search, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: docs/results.md")
    options = parser.parse_args()
    for folder in options.folders:
        _measure(folder, options.model, options.out)


def _measure(folder: Path, model: Path, out: Path) -> None:
    images = annotations.read(folder)
    rows, unknown, means = [], [], []
    with (
        tempfile.TemporaryDirectory() as place,
        Gallery(Path(place) / "words.bitgaze", encoder=Encoder(model)) as gallery,
    ):
        gallery.sync(folder)
        keys = [str(path) for path in images.paths]
        blocks = [gallery.get(key).classes for key in keys]
        whole_images = Likely.of([_of_whole(block) for block in blocks])
        for label, is_relevant in zip(images.classes, images.one_hot().T, strict=True):
            asked = _ASKED.get(label, label.replace("_", " "))
            try:
                meanings = gallery.vocabulary.meanings(asked)
            except WordError:
                unknown.append(label)
                continue
            hits = gallery.search_words(asked, len(gallery), least=0)
            found = {hit.key: hit.probability for hit in hits}
            by_whole = [shown([whole_images], every[0].weights) for every in meanings]
            both = [
                tie_aware(np.asarray(scores), is_relevant)
                for scores in (np.max(by_whole, axis=0), [found[key] for key in keys])
            ]
            means.append(both)
            stand_in = meanings[0][0].stand_in
            name = label + f" ({asked})" * (label in _ASKED) + f" as {stand_in}" * bool(stand_in)
            rows.append([name, str(int(is_relevant.sum())), *(f"{one:.3f}" for one in both)])
    whole, looks = np.mean(means, axis=0)
    text = _TEXT.format(
        count=len(keys),
        known=len(rows),
        whole=whole,
        looks=looks,
        unknown=f"Not known: {', '.join(unknown)}. " if unknown else "",
        size=np.mean([len(block or b"") for block in blocks]),
    )
    title = f"Searching by words: {folder.resolve().name}"
    head = ["word", "images", "whole", "with looks"]
    write_section("word_table.py", title, text, head, rows, out, folder.resolve().name)


def _of_whole(block: bytes | None) -> bytes | None:
    """Likely classes of the whole image alone, see bitgaze.encoding.likely."""
    if block is None:
        return None
    views, of_whole = block[:2]
    entries = block[1 + views :][: 3 * of_whole]
    return bytes([1, of_whole]) + entries


def tie_aware(scores: NDArray[np.float32], is_relevant: NDArray[np.bool_]) -> float:
    """Average precision of images by descending score, the mean over the orders of equal ones.

    Args:
        scores: (n,).
        is_relevant: bool, (n,).
    """
    _, level = np.unique(-scores, return_inverse=True)
    counts = np.bincount(level)
    hits = np.bincount(level, is_relevant).astype(np.int64)
    return float(average_precision(Levels(counts[None], hits[None])).expected[0])


if __name__ == "__main__":
    main()
