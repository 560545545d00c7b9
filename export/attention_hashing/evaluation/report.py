"""The figures of an evaluation as a Markdown page."""

from collections.abc import Sequence
from typing import Any

from attention_hashing.evaluation.measure import RADIUS

_LISTED = 10


def markdown(report: dict[str, Any], plots: Sequence[tuple[str, str]]) -> str:
    """Format a report as a page.

    Args:
        report: the figures of `measure`, plus "model", "command", "versions" and "queries"
            (average precision by path of the query), "with_looks" if images were looked at again,
            and "against" if there is another model.
        plots: caption and file of each plot, in the folder of the page.
    """
    model, images, found = report["model"], report["set"], report["average_precision"]
    top = found["top"]
    name = "mAP" if top is None else f"mAP@{top}"
    rows = [_bounds(name, found["over_possible"])]
    if top is not None:
        rows.append(_bounds(f"{name} over the hits found", found["over_found"]))
    rows += [
        _bounds(f"precision of the first {n}", bounds)
        for n, bounds in report["precision_among_first"].items()
    ]
    ball = report[f"within_radius_{RADIUS}"]
    pooled = ball["pooled_precision"]
    lines = [
        f"# {model['name']}: retrieval of images by label",
        "",
        f"{model['bits']} bits, {model['precision']}, fingerprint `{model['fingerprint']}`. "
        f"{images['queries']:,} queries, {images['database']:,} images in the database, "
        f"{images['classes']:,} labels, {images['labels_per_image']:.2f} per image. A hit is "
        "correct if it shares a label with the query.",
        "",
        *_table(["", "worst order of ties", "expected", "best order of ties"], rows),
        "",
        *_table(
            [f"{name} of other orders", ""],
            [
                ["by cosine of the hash values", _figure(found["cosine_of_hash_values"])],
                ["random", _figure(found["random_order"])],
            ],
        ),
        "",
        *_table(
            [f"within radius {RADIUS}", ""],
            [
                ["precision, a mean over queries, empty ball = 0", _figure(ball["precision"])],
                ["precision, all balls pooled", "none" if pooled is None else _figure(pooled)],
                ["recall", _figure(ball["recall"])],
                ["empty balls", f"{ball['empty']:.2%}"],
            ],
        ),
        "",
        *_table(["codes of the database", ""], _codes(report["codes_of_the_database"])),
        "",
    ]
    for warning in warnings(images):
        lines += [f"{warning}.", ""]
    if views := report.get("with_looks"):
        gain = difference(name, views["gain"])
        lines += [
            f"With {looks_an_image(views)}, searched by all codes of an image: {gain}.",
            "",
            *_table(
                ["with looks", "worst order of ties", "expected", "best order of ties"],
                [
                    _bounds(name, views["average_precision"]["over_possible"]),
                    *(
                        _bounds(f"precision of the first {n}", bounds)
                        for n, bounds in views["precision_among_first"].items()
                    ),
                ],
            ),
            "",
        ]
    if other := report.get("against"):
        lines += [f"Against {other['name']}: {difference(name, other)}.", ""]
    for caption, file in plots:
        lines += [f"![{caption}]({file})", "", f"{caption}.", ""]
    hardest = sorted(report["queries"].items(), key=lambda item: (item[1], item[0]))[:_LISTED]
    lines += [
        *_table(
            ["hardest queries", name[1:]], [[f"`{path}`", _figure(ap)] for path, ap in hardest]
        ),
        "",
        f"`{report['command']}`, "
        + ", ".join(f"{package} {version}" for package, version in report["versions"].items())
        + ".",
    ]
    return "\n".join(lines) + "\n"


def warnings(images: dict[str, Any]) -> list[str]:
    """Caveats about the data set, from the report's "set"."""
    without, copies = (
        images[f"queries_{what}"]
        for what in ("without_a_relevant_image", "with_a_copy_in_the_database")
    )
    found = []
    if without:
        found.append(
            f"{without:,} of the queries have no relevant image in the database, and score 0"
        )
    if copies:
        found.append(f"{copies:,} of the queries have an identical file in the database")
    return found


def looks_an_image(views: dict[str, Any]) -> str:
    """The number of looks in words; `views` is the report's "with_looks"."""
    return f"{views['looks_an_image']:.2f} looks an image, at most {views['most']}"


def difference(name: str, other: dict[str, Any]) -> str:
    """A difference in words; `other` is the report's "against", or the gain by looks."""
    return (
        f"{name} {other['mean']:+.4f}, 95 % interval {other['low']:+.4f} to {other['high']:+.4f} "
        f"(paired bootstrap over queries; no better in {other['not_better']:.2%} of the resamples)"
    )


def _codes(codes: dict[str, float]) -> list[list[str]]:
    return [
        ["distinct codes", f"{codes['unique']:.2%}"],
        ["share of the most common code", f"{codes['most_common']:.2%}"],
        ["bits that never change", str(codes["constant"])],
        ["bit balance: mean distance from one half", f"{codes['balance']:.3f}"],
        ["share of ones, by bit", f"{codes['least_set']:.3f} to {codes['most_set']:.3f}"],
        ["correlation of two bits, absolute: mean", f"{codes['correlation']:.3f}"],
        ["correlation of two bits, absolute: largest", f"{codes['largest_correlation']:.3f}"],
        ["bits that may differ on another machine", f"{codes['unstable']:.2%}"],
    ]


def _bounds(name: str, bounds: dict[str, float]) -> list[str]:
    return [name, *(_figure(bounds[which]) for which in ("worst", "expected", "best"))]


def _figure(value: float) -> str:
    return f"{value:.4f}"


def _code(path: str) -> str:
    """A table cell that contains a path, whatever characters it has."""
    return f"`{path.replace('`', ' ').replace('|', chr(92) + '|')}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in [head, rule, *rows]]
