"""The `bitgaze` command: index a folder, search it, look at a gallery, a model, an installation.

Parses and prints; the work is done by the library. Results go to stdout, everything else to stderr.
"""

import argparse
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from bitgaze.errors import BitgazeError, ProviderWarning

if TYPE_CHECKING:
    from bitgaze.encoder import Encoder
    from bitgaze.gallery import Gallery, Hit

OK, STOPPED, INTERRUPTED, PIPE_CLOSED = 0, 2, 130, 141
SOME_REFUSED = DIFFERS = FINDINGS = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done; 1 done with some inputs refused (each named on stderr), or verify found other codes,
        or doctor something wrong; 2 a usage error or one that stopped the work; 130 interrupted;
        141 when the reader of stdout has gone.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 (for as long as the process lives)
    if sys.stdout is None:
        _warn("stdout is closed")
        return STOPPED
    for stream in (sys.stdout, sys.stderr):
        # A file name must not end the program on a terminal that lacks its letters.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        result: int = options.run(options)
        return result
    except BrokenPipeError:
        return PIPE_CLOSED
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        _warn(f"{where}{error.strerror}")
        return STOPPED
    except (BitgazeError, ValueError) as error:
        _warn(str(error))
        return STOPPED
    except KeyboardInterrupt:
        _warn("interrupted; what was done is kept")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    from bitgaze import __version__

    parser = argparse.ArgumentParser(
        prog="bitgaze", description="Find images that look like an image, on this device."
    )
    parser.add_argument("--version", action="version", version=f"bitgaze {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print one JSON document")
        return sub

    def with_gallery(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub.add_argument(
            "-g",
            "--gallery",
            type=_gallery_path,
            metavar="FILE",
            default=os.environ.get("BITGAZE_GALLERY") or "gallery.bitgaze",
            help="the gallery (default: $BITGAZE_GALLERY, then ./gallery.bitgaze)",
        )
        return sub

    def with_model(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "-m", "--model", metavar="FILE", help="a model of your own (default: the built-in one)"
        )
        sub.add_argument(
            "--provider",
            action="append",
            metavar="NAME",
            help="what runs the model: an onnxruntime execution provider such as cuda (again for a "
            'second choice), "auto", or a device policy such as prefer_npu (default: cpu)',
        )

    index = with_gallery(command("index", _index, "Make a gallery match the pictures in a folder."))
    index.add_argument("folder", metavar="DIR")
    index.add_argument(
        "--allow-empty", action="store_true", help="if DIR holds no picture, forget all from there"
    )
    with_model(index)
    search = with_gallery(command("search", _search, "Find the pictures that look like one."))
    search.add_argument("image", metavar="IMAGE", help="a picture file")
    search.add_argument("-k", type=int, default=10, help="at most so many hits (%(default)s)")
    search.add_argument("--radius", type=int, help="leave out hits farther than this many bits")
    search.add_argument(
        "--ranking",
        choices=("hamming", "asymmetric"),
        default="hamming",
        help="order by bits that differ (%(default)s), or by how much each of them says",
    )
    search.add_argument("--html", metavar="OUT", type=Path, help="also write a page to look at")
    with_model(search)
    adapt = with_gallery(
        command("adapt", _adapt, "Code a gallery's pictures anew, fitted to them.")
    )
    adapt.add_argument("--reset", action="store_true", help="undo it: the model's own codes")
    with_model(adapt)
    with_gallery(command("info", _info, "Say what a gallery holds."))
    verify = command("verify", _verify, "Compare a model's golden examples with its codes here.")
    with_model(verify)
    command("doctor", _doctor, "Say what is wrong with this installation.")
    return parser


def _index(options: argparse.Namespace) -> int:
    from bitgaze.gallery import Gallery

    _quiet_pillow()
    started = time.perf_counter()
    with Gallery(options.gallery, encoder=_encoder(options)) as gallery:
        with _progress() as show:
            report = gallery.sync(options.folder, allow_empty=options.allow_empty, on_progress=show)
        size = len(gallery)
    seconds = time.perf_counter() - started
    for path, reason in report.failed.items():
        _warn(f"refused {path}: {reason}")
    for path, reason in report.skipped.items():
        _warn(f"skipped {path}: {reason}")
    if options.json:
        _print(json.dumps({"gallery": options.gallery, "items": size, **asdict(report)}))
    else:
        _print(
            f"{len(report.added)} added, {len(report.updated)} updated, {len(report.moved)} moved, "
            f"{len(report.removed)} removed, {report.unchanged} unchanged, "
            f"{len(report.failed)} refused, in {seconds:.1f} s",
            f"{options.gallery}: {size} pictures",
        )
    return SOME_REFUSED if report.failed else OK


def _adapt(options: argparse.Namespace) -> int:
    from bitgaze.gallery import Gallery

    _quiet_pillow()
    started = time.perf_counter()
    with Gallery(options.gallery, encoder=_encoder(options), create=False) as gallery:
        with _progress() as show:
            count = gallery.adapt(reset=options.reset, on_progress=show)
        adaptation = gallery.adaptation
    seconds = time.perf_counter() - started
    if options.json:
        facts = {"gallery": options.gallery, "items": count, "adaptation": adaptation}
        _print(json.dumps(facts))
    else:
        whose = "the model's own codes" if adaptation is None else f"adapted: {adaptation[:12]}"
        _print(f"{count} coded anew, in {seconds:.1f} s", f"{options.gallery}: {whose}")
    return OK


def _search(options: argparse.Namespace) -> int:
    from bitgaze.gallery import Gallery

    _check_kernel()
    _quiet_pillow()
    encoder = _encoder(options)
    with Gallery(options.gallery, encoder=encoder, create=False) as gallery:
        # As a Path: on the command line a name is always a file, never a key.
        hits = gallery.search(
            Path(options.image), options.k, radius=options.radius, ranking=options.ranking
        )
        if options.html:
            from bitgaze.page import results_page

            page = results_page(gallery.encoder, options.image, hits, Path(options.gallery).name)
            try:
                options.html.write_text(page, encoding="utf-8")
            except OSError as error:
                raise BitgazeError(f"{options.html}: {error.strerror}") from error
    if options.json:
        found = [asdict(hit) for hit in hits]
        _print(json.dumps({"query": options.image, "gallery": options.gallery, "hits": found}))
        return OK
    if hits:
        _print(*map(_line, hits))
    else:
        _warn("nothing found")
    if options.html:
        print(_for(sys.stderr, f"page: {options.html.resolve()}"), file=sys.stderr)
    return OK


def _info(options: argparse.Namespace) -> int:
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
        _print(json.dumps(facts))
    else:
        _print(
            *[f"{name:12} {'none' if value is None else value}" for name, value in facts.items()]
        )
    return OK


def _whose(gallery: "Gallery") -> str | None:
    """Of what the calibration is, if there is one."""
    if gallery.calibration is None:
        return None
    return "model" if gallery.adaptation is None else "gallery"


def _verify(options: argparse.Namespace) -> int:
    from bitgaze.encoder import Encoder
    from bitgaze.verification import verify

    found = verify(_encoder(options) or Encoder())
    if options.json:
        _print(json.dumps({**asdict(found), "equal": found.is_equal}))
    else:
        pairs = zip(found.flipped, found.flipped_stable, strict=True)
        _print(
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


def _doctor(options: argparse.Namespace) -> int:
    from bitgaze.doctor import examine

    diagnosis = examine()
    if options.json:
        _print(json.dumps(asdict(diagnosis)))
    else:
        facts = {**diagnosis.facts, "onnxruntime": ", ".join(diagnosis.facts["onnxruntime"])}
        _print(
            *(f"{name:12} {value}" for name, value in facts.items()),
            *(f"{'provider':12} {what}" for what in diagnosis.providers.values()),
        )
        for finding in diagnosis.findings:
            _print("", f"found   {finding.found}", f"harm    {finding.harm}")
            _print(f"remedy  {finding.remedy}")
        _print("", f"findings: {len(diagnosis.findings) or 'none'}")
    return FINDINGS if diagnosis.findings else OK


def _line(hit: "Hit") -> str:
    """Distance, then what it means where that is known, then the key."""
    kind = "" if hit.probability is None else f"  kind {hit.probability:4.0%}"
    same = "" if hit.duplicate is None else f"  same {hit.duplicate:4.0%}"
    return f"{hit.distance:4d}{kind}{same}  {hit.key}"


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar, moved by (done, total) pictures."""
    from tqdm import tqdm

    # disable=None: no bar where stderr is not a terminal.
    with tqdm(unit="img", desc="encoding", disable=None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _print(*lines: str) -> None:
    """Results to stdout, at once: what cannot be written is met here, not when Python exits."""
    try:
        for line in lines:
            print(_for(sys.stdout, line))
        sys.stdout.flush()
    except OSError as error:
        # Python would try the rest again as it exits, and print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise BitgazeError(f"stdout: {error.strerror}") from error


def _warn(text: str) -> None:
    print(_for(sys.stderr, f"bitgaze: {text}"), file=sys.stderr)


def _for(stream: TextIO, line: str) -> str:
    r"""On a terminal, control characters (of a file's name) as \xNN: shown, not obeyed."""
    if not stream.isatty():
        return line
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", line)


def _gallery_path(text: str) -> str:
    try:
        Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text}: no such user") from error
    return text


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
        _warn(str(warning.message))
    return encoder


def _quiet_pillow() -> None:
    """Pillow warns of odd EXIF blocks and of large pictures; what fails is reported by name."""
    warnings.filterwarnings("ignore", module="PIL")


if __name__ == "__main__":
    sys.exit(main())
