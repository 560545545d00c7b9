"""What each command of `bitgaze` does with its options: calls the library, prints what it found.

Results go to stdout, everything else to stderr.
"""

import argparse
import json
import os
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bitgaze.errors import BitgazeError, ProviderWarning
from bitgaze.terminal import note, progress, say, warn

if TYPE_CHECKING:
    from bitgaze.duplicates import Duplicate
    from bitgaze.encoder import Encoder
    from bitgaze.gallery import Gallery
from bitgaze.searching import Hit

OK = 0
SOME_REFUSED = SOME_LOST = DAMAGED = DIFFERS = FINDINGS = 1

_MOST_SKIPPED = 10


def index(options: argparse.Namespace) -> int:
    """Make a gallery match the pictures in folders."""
    from bitgaze.folders import find_roots

    metadata: dict[str, Any] = {}
    for name, value in options.set:
        if name in metadata:
            raise ValueError(f"--set gives {name!r} twice")
        metadata[name] = value
    find_roots(options.folders)  # a mistyped name must not leave an empty gallery
    _quiet_pillow()
    started = time.perf_counter()
    with _to_index(options) as gallery, progress("indexing", "pictures") as show:
        try:
            report = gallery.sync(
                *options.folders,
                include=options.include,
                exclude=options.exclude,
                metadata=lambda path: metadata,
                dry_run=options.dry_run,
                allow_empty=options.allow_empty,
                on_progress=show,
            )
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(str(error) or "what was done is kept") from error
        size = len(gallery)
    seconds = time.perf_counter() - started
    for path, reason in report.failed.items():
        warn(f"refused {path}: {reason}")
    for path, reason in islice(report.skipped.items(), _MOST_SKIPPED):
        warn(f"skipped {path}: {reason}")
    if len(report.skipped) > _MOST_SKIPPED:
        warn(f"skipped {len(report.skipped) - _MOST_SKIPPED} more; --json names all")
    if options.json:
        facts = {"gallery": options.gallery, "items": size, "dry_run": options.dry_run}
        say(json.dumps({**facts, "seconds": round(seconds, 3), **asdict(report)}))
        return SOME_REFUSED if report.failed else OK
    if options.dry_run:
        say(
            *(f"add     {path}" for path in report.added),
            *(f"update  {path}" for path in report.updated),
            *(f"move    {old} -> {new}" for old, new in report.moved),
            *(f"remove  {path}" for path in report.removed),
            "dry run; nothing was written. It would be:",
        )
    say(
        f"{len(report.added)} added, {len(report.updated)} updated, {len(report.moved)} moved, "
        f"{len(report.removed)} removed, {report.unchanged} unchanged, "
        f"{len(report.failed)} refused, in {seconds:.1f} s",
    )
    if report.excluded:
        say(
            f"{report.excluded} left alone: their pictures are hidden, or the patterns exclude them"
        )
    say(f"{options.gallery}: {size} pictures")
    return SOME_REFUSED if report.failed else OK


@contextmanager
def _to_index(options: argparse.Namespace) -> Iterator["Gallery"]:
    """The gallery; for a dry run without one, an empty one elsewhere, so that none is made."""
    from bitgaze.gallery import Gallery

    with ExitStack() as stack:
        path = options.gallery
        if options.dry_run and not Path(path).expanduser().exists():
            path = Path(stack.enter_context(TemporaryDirectory()), "empty.bitgaze")
        yield stack.enter_context(Gallery(path, encoder=_encoder(options)))


def adapt(options: argparse.Namespace) -> int:
    """Code a gallery's pictures anew, fitted to them."""
    from bitgaze.gallery import Gallery

    _quiet_pillow()
    started = time.perf_counter()
    with Gallery(options.gallery, encoder=_encoder(options), create=False) as gallery:
        with progress("encoding", "pictures") as show:
            before = gallery.adaptation
            try:
                count = gallery.adapt(reset=options.reset, on_progress=show)
            except KeyboardInterrupt as error:
                is_done = gallery.adaptation != before  # it came after the commit
                raise KeyboardInterrupt(
                    "all is coded anew" if is_done else "nothing was changed"
                ) from error
        adaptation = gallery.adaptation
    seconds = time.perf_counter() - started
    if options.json:
        facts = {"gallery": options.gallery, "items": count, "adaptation": adaptation}
        say(json.dumps(facts))
    else:
        whose = "the model's own codes" if adaptation is None else f"adapted: {adaptation[:12]}"
        say(f"{count} coded anew, in {seconds:.1f} s", f"{options.gallery}: {whose}")
    return OK


def search(options: argparse.Namespace) -> int:
    """Find the pictures that look like one."""
    from bitgaze.gallery import Gallery

    _check_kernel()
    _quiet_pillow()
    encoder = _encoder(options)
    with Gallery(options.gallery, encoder=encoder, create=False) as gallery:
        # As a Path: on the command line a name is always a file, never a key.
        hits = gallery.search(
            Path(options.image),
            options.k,
            radius=options.radius,
            where=_where(options.where),
            ranking=options.ranking,
        )
        size = len(gallery)
        if options.html:
            from bitgaze.page import results_page

            page = results_page(gallery.encoder, options.image, hits, Path(options.gallery).name)
            _write(options.html, page)
    if options.json:
        found = [asdict(hit) for hit in hits]
        say(json.dumps({"query": options.image, "gallery": options.gallery, "hits": found}))
        return OK
    if hits:
        say(*map(_line, hits))
    elif not size:
        warn(f"{options.gallery} holds no pictures; `bitgaze index FOLDER -g {options.gallery}`")
    else:
        warn("nothing found")
    if options.html:
        note(f"page: {options.html.resolve()}")
    return OK


def explain(options: argparse.Namespace) -> int:
    """Draw why a picture of the gallery is a hit: attention over both, and the bits that differ."""
    from bitgaze.gallery import Gallery

    _quiet_pillow()
    with Gallery(options.gallery, encoder=_encoder(options), create=False) as gallery:
        key = options.key
        if key not in gallery:  # as `search` prints it, or as the shell completes it
            key = os.path.abspath(key)  # noqa: PTH100 (links stay)
        try:
            drawing = gallery.explain(Path(options.image), key)
        except KeyError as error:
            raise BitgazeError(
                f"{options.gallery} holds no picture {options.key}; `bitgaze search` prints keys"
            ) from error
    try:
        drawing.save(options.out, "PNG")
    except OSError as error:
        raise _unwritten(options.out, error) from error
    if options.json:
        say(json.dumps({"query": options.image, "key": key, "drawing": str(options.out)}))
    else:
        say(str(options.out))
    return OK


def duplicates(options: argparse.Namespace) -> int:
    """Show groups of pictures that are nearly the same, the best copy first; delete nothing."""
    from bitgaze.duplicates import default_radius
    from bitgaze.gallery import Gallery

    with Gallery(options.gallery, create=False) as gallery:
        radius = default_radius(gallery.bits) if options.radius is None else options.radius
        with progress("comparing", "codes") as show:
            groups = gallery.duplicates(radius, on_progress=show)
    if options.html:
        from bitgaze.page import duplicates_page

        _write(options.html, duplicates_page(groups, radius, Path(options.gallery).name))
    if options.json:
        found = [asdict(group) for group in groups]
        say(json.dumps({"gallery": options.gallery, "radius": radius, "groups": found}))
        return OK
    for group in groups:
        say(_member("keep", group.best), *(_member("", other) for other in group.others), "")
    more = sum(len(group.others) for group in groups)
    if groups:
        say(f"groups: {len(groups)} within {radius} bits, pictures beyond the best: {more}")
    else:
        say(f"no duplicates within {radius} bits")
    if options.html:
        note(f"page: {options.html.resolve()}")
    return OK


def _where(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Conditions as they are typed: `album=2024`, `year>=2020`, `name~img%`, `tag=["a", "b"]`."""
    where: dict[str, dict[str, Any]] = {}
    for text in texts:
        parts = re.fullmatch(r"([^<>=!~]+)(<=|>=|!=|=|<|>|~)(|[^<>=~].*)", text, re.DOTALL)
        if parts is None:
            raise BitgazeError(
                f"--where {text}: expected FIELD=VALUE, or with one of != < <= > >= ~ (like)"
            )
        sign, typed = parts[2], parts[3]
        value = typed_value(typed)
        operator = sign
        if sign == "=":
            operator, value = "in", value if isinstance(value, list) else [value]
        elif sign == "~":
            operator, value = "like", typed
        wanted = where.setdefault(parts[1].strip(), {})
        if operator in wanted:
            raise BitgazeError(
                f"--where {text}: a second {sign} on one field; one of several values is "
                """FIELD='["a", "b"]'"""
            )
        wanted[operator] = value
    return where


def typed_value(text: str) -> Any:
    """What is typed as a value of metadata: JSON, or else the text itself."""
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)  # Python reads NaN, and 1e999; they are no JSON
    except (ValueError, RecursionError):
        return text
    return value


def _member(mark: str, member: "Duplicate") -> str:
    size = "" if member.size is None else f"{member.size[0]} x {member.size[1]}"
    file_bytes = "no file" if member.file_bytes is None else f"{member.file_bytes:,}"
    return f"{mark:4} {member.distance:4d}  {size:>13}  {file_bytes:>13}  {member.key}"


def serve(options: argparse.Namespace) -> int:
    """Serve a page to search a gallery with, on this machine."""
    from bitgaze.gallery import Gallery

    try:
        from bitgaze.server.run import serve as run
    except ModuleNotFoundError as error:
        raise BitgazeError(
            f"bitgaze serve needs {str(error.name).partition('.')[0]}, which is not installed: "
            "pip install 'bitgaze[serve]'"
        ) from error
    _check_kernel()
    _quiet_pillow()
    with Gallery(options.gallery, encoder=_encoder(options), create=False) as gallery:
        items = len(gallery)

        def tell(address: str) -> None:
            if options.json:
                facts = {"gallery": options.gallery, "items": items, "address": address}
                say(json.dumps(facts))
            else:
                say(f"{options.gallery}: {items} pictures", f"{address}  (Ctrl-C ends it)")

        token = options.token  # an empty one is refused: it was meant to be one
        if token is None:
            token = os.environ.get("BITGAZE_TOKEN") or None
        try:
            run(gallery, host=options.host, port=options.port, token=token, on_start=tell)
        except KeyboardInterrupt:  # as it is meant to end
            return OK
    return OK


def info(options: argparse.Namespace) -> int:
    """Say what a gallery holds."""
    from bitgaze.gallery import Gallery

    with Gallery(options.gallery, create=False) as gallery:
        facts = {
            "gallery": str(gallery.path),
            "items": len(gallery),
            "bits": gallery.bits,
            "model": gallery.model_name,
            "fingerprint": gallery.fingerprint,
            "adaptation": gallery.adaptation,
            "calibration": _whose(gallery),
            "file_bytes": gallery.path.stat().st_size,
        }
    if options.json:
        say(json.dumps(facts))
    else:
        say(*[f"{name:12} {'none' if value is None else value}" for name, value in facts.items()])
    return OK


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: OSError) -> BitgazeError:
    folder = path.absolute().parent
    reason = error.strerror if folder.is_dir() else f"there is no folder {folder}"
    return BitgazeError(f"{path}: {reason}")


def _whose(gallery: "Gallery") -> str | None:
    """Of what the calibration is, if there is one."""
    if gallery.calibration is None:
        return None
    return "model" if gallery.adaptation is None else "gallery"


def verify(options: argparse.Namespace) -> int:
    """Look for damage in a gallery; or compare a model's golden examples with its codes here."""
    if options.gallery is not None:
        if options.provider:
            raise BitgazeError("--provider is of a model; a gallery is verified without one")
        return _verify_gallery(options)
    from bitgaze.encoder import Encoder
    from bitgaze.verification import verify

    found = verify(_encoder(options) or Encoder())
    if options.json:
        say(json.dumps({**asdict(found), "equal": found.is_equal}))
    else:
        pairs = zip(found.flipped, found.flipped_stable, strict=True)
        say(
            f"{found.model} ({found.fingerprint[:12]}), {found.runs_on}",
            *(
                f"example {i}: {flipped} of {found.bits} bits differ, {stable} of them stable"
                for i, (flipped, stable) in enumerate(pairs)
            ),
            "equal: codes from here can be compared with others"
            if found.is_equal
            else "not equal: codes from here must not meet those of other machines",
        )
    return OK if found.is_equal else DIFFERS


def _verify_gallery(options: argparse.Namespace) -> int:
    from bitgaze.maintenance import verify_gallery

    found = verify_gallery(options.gallery)
    if options.json:
        facts = {"gallery": options.gallery, **asdict(found), "sound": found.is_sound}
        say(json.dumps(facts))
    elif found.is_sound:
        say(f"sound: {found.items} items and their codes are as they were written")
    else:
        say(*(f"damaged: {problem}" for problem in found.problems))
        say(f"`bitgaze repair NEW -g {options.gallery}` saves what can be saved to a new file")
    return OK if found.is_sound else DAMAGED


def repair(options: argparse.Namespace) -> int:
    """Make a new gallery of what can be saved of a damaged one."""
    from bitgaze.maintenance import repair as repair_gallery

    _quiet_pillow()
    report = repair_gallery(options.gallery, options.out, encoder=_encoder(options))
    if options.json:
        say(json.dumps({"gallery": options.out, **asdict(report)}))
        return SOME_LOST if report.lost or report.unreadable else OK
    for key, reason in report.lost.items():
        warn(f"lost {key}: {reason}")
    say(
        f"{report.kept} kept, {len(report.encoded)} encoded anew, {len(report.lost)} lost, "
        f"{report.unreadable} unreadable",
        f"{options.out}: {report.kept + len(report.encoded)} pictures",
    )
    if report.unreadable:
        note("`bitgaze index` brings back what is still in its folder")
    return SOME_LOST if report.lost or report.unreadable else OK


def backup(options: argparse.Namespace) -> int:
    """Copy a gallery to a new file, also while others use it."""
    from bitgaze.gallery import Gallery

    with Gallery(options.gallery, create=False) as gallery:
        gallery.backup(options.out)
    file_bytes = Path(options.out).stat().st_size
    if options.json:
        say(json.dumps({"gallery": options.out, "file_bytes": file_bytes}))
    else:
        say(f"{options.out}: {file_bytes:,} bytes")
    return OK


def compact(options: argparse.Namespace) -> int:
    """Give the room of removed pictures back to the disk."""
    from bitgaze.gallery import Gallery

    with Gallery(options.gallery, create=False) as gallery:
        freed = gallery.compact()
    if options.json:
        say(json.dumps({"gallery": options.gallery, "freed_bytes": freed}))
    else:
        say(f"{freed:,} bytes freed")
    return OK


def doctor(options: argparse.Namespace) -> int:
    """Say what is wrong with this installation."""
    from bitgaze.doctor import examine

    diagnosis = examine()
    if options.json:
        say(json.dumps(asdict(diagnosis)))
    else:
        facts = {**diagnosis.facts, "onnxruntime": ", ".join(diagnosis.facts["onnxruntime"])}
        say(
            *(f"{name:12} {value}" for name, value in facts.items()),
            *(f"{'provider':12} {what}" for what in diagnosis.providers.values()),
        )
        for finding in diagnosis.findings:
            say("", f"found   {finding.found}", f"harm    {finding.harm}")
            say(f"remedy  {finding.remedy}")
        say("", f"findings: {len(diagnosis.findings) or 'none'}")
    return FINDINGS if diagnosis.findings else OK


def _line(hit: "Hit") -> str:
    """Distance, then what it means where that is known, then the key."""
    kind = "" if hit.probability is None else f"  kind {hit.probability:4.0%}"
    same = "" if hit.duplicate is None else f"  same {hit.duplicate:4.0%}"
    return f"{hit.distance:4d}{kind}{same}  {hit.key}"


def _check_kernel() -> None:
    from bitgaze.hamming import simd

    try:
        simd()
    except RuntimeError as error:  # BITGAZE_SIMD names a kernel that this machine lacks
        raise BitgazeError(str(error)) from error


def _encoder(options: argparse.Namespace) -> "Encoder | None":
    from bitgaze.contract import DEFAULT_MODEL
    from bitgaze.encoder import Encoder
    from bitgaze.providers import WORDS

    if not options.model and not options.provider:
        return None  # a gallery makes the default one when it is needed
    providers = options.provider or ["cpu"]
    is_word = len(providers) == 1 and providers[0] in WORDS
    with warnings.catch_warnings(record=True) as passed_over:
        warnings.simplefilter("always", ProviderWarning)
        encoder = Encoder(
            options.model or DEFAULT_MODEL, providers=providers[0] if is_word else providers
        )
    for warning in passed_over:
        warn(str(warning.message))
    return encoder


def _quiet_pillow() -> None:
    """Pillow warns of odd EXIF blocks and of large pictures; what fails is reported by name."""
    warnings.filterwarnings("ignore", module="PIL")
