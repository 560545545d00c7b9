"""Tables in docs/results.md, one section per table."""

import platform
import re
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

from attention_hashing.provenance import commit

RESULTS = Path(__file__).parents[3] / "docs" / "results.md"
_PACKAGES = ("onnxruntime", "torch", "numpy", "pillow")


def write_section(
    script: str,
    title: str,
    text: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    path: Path = RESULTS,
    part: str = "",
) -> None:
    """Replace a section by a table, its text and its provenance, and print it.

    Args:
        script: file name of the script, which identifies the section together with `part`.
        title: of the section.
        text: what the table shows.
        head: one name per column.
        rows: one cell per column in each.
        path: of the document; a new section is appended.
        part: which section of the script, if it writes several.
    """
    mark, section = _section(script, part, title, text, head, rows)
    print(section)
    document = path.read_text(encoding="utf-8") if path.exists() else "# Results\n"
    old = re.compile(rf"<!-- {re.escape(mark)} -->.*?<!-- end -->", re.DOTALL)
    if old.search(document):
        document = old.sub(lambda _: section, document)
    else:
        document = f"{document.rstrip()}\n\n{section}\n"
    draft = path.with_suffix(".part")
    draft.write_text(document, encoding="utf-8")
    draft.replace(path)  # if killed, the old or the new file remains, complete


def print_section(
    script: str,
    title: str,
    text: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    part: str = "",
) -> None:
    """As `write_section`, but only print the section."""
    print(_section(script, part, title, text, head, rows)[1])


def _section(
    script: str,
    part: str,
    title: str,
    text: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> tuple[str, str]:
    """The section's marker, and its whole text."""
    mark = f"export/{script} {part}".rstrip()
    arguments = " ".join(Path(word).name if "/" in word else word for word in sys.argv[1:])
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    lines = [
        f"<!-- {mark} -->",
        f"## {title}",
        "",
        text,
        "",
        *("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]),
        "",
        f"`python export/{script} {arguments}`{_state()}, {_processor()}, {versions}.",
        "<!-- end -->",
    ]
    return mark, "\n".join(lines)


@cache
def _state() -> str:
    """Cached, because the first section written changes the working tree itself."""
    found = commit()
    return f", written at {found[:12]}{' with changes' * found.endswith('-dirty')}" if found else ""


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text("utf-8"))
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
