"""What several commands share: options, exit codes, opening the encoder, writing a file.

Imports neither numpy nor Pillow at the top, so that `bitgaze --help` is fast.
"""

import argparse
import json
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bitgaze.cli.terminal import warn
from bitgaze.encoding.memory import OPTION, VARIABLE, megabytes
from bitgaze.errors import BitgazeError, GalleryError, ProviderWarning

if TYPE_CHECKING:
    from bitgaze.encoding.encoder import Encoder

# Exit codes; `main` documents them.
OK, SOME_FAILED, STOPPED = 0, 1, 2

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Commands, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """Add a command with the name and docstring of the function that runs it.

    A "_" becomes a hyphen, and one at the end is left out: `import` cannot be a function.
    """
    name = run.__name__.removesuffix("_").replace("_", "-")
    parser = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def add_gallery(parser: argparse.ArgumentParser) -> None:
    """Add the option -g, with its default."""
    parser.add_argument(
        "-g",
        "--gallery",
        type=gallery_path,
        metavar="FILE",
        default=os.environ.get("BITGAZE_GALLERY") or "gallery.bitgaze",
        help="the gallery (default: $BITGAZE_GALLERY, then ./gallery.bitgaze)",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the options -m and --provider."""
    parser.add_argument(
        "-m",
        "--model",
        metavar="FILE",
        help="your own model (default: the one that the gallery was last indexed with, else the "
        "built-in one)",
    )
    parser.add_argument(
        "--provider",
        action="append",
        metavar="NAME",
        help="onnxruntime execution provider to run the model with, such as cuda (may be "
        'repeated, in order of preference), "auto", or a device policy such as prefer_npu '
        "(default: cpu)",
    )
    add_decoding(parser)


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """The option --max-decoded-mb, which `main` obeys."""
    parser.add_argument(
        OPTION,
        dest="max_decoded_bytes",
        type=_decoded_bytes,
        metavar="MB",
        help="memory for decoding images, of all threads together; images that need more are "
        f"refused (default: ${VARIABLE}, then a quarter of the memory)",
    )


def _decoded_bytes(text: str) -> int:
    try:
        return megabytes(text, OPTION)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def gallery_path(text: str) -> str:
    """A path, checked: its ~ can be expanded."""
    try:
        Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text}: no such user") from error
    return text


def typed_value(text: str) -> Any:
    """A metadata value from the command line: parsed if it is valid JSON, else the text itself."""
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)  # json.loads accepts NaN and 1e999, which are not JSON
    except (ValueError, RecursionError):
        return text
    return value


def encoder_for(options: argparse.Namespace) -> "Encoder | None":
    """The encoder for -m and --provider; None, without either, leaves it to the gallery."""
    from bitgaze.encoding.encoder import Encoder
    from bitgaze.encoding.providers import WORDS

    if not options.model and not options.provider:
        return None
    providers = options.provider or ["cpu"]
    is_word = len(providers) == 1 and providers[0] in WORDS
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ProviderWarning)
        encoder = Encoder(
            options.model or _model_of(options), providers=providers[0] if is_word else providers
        )
    for warning in caught:
        warn(str(warning.message))
    return encoder


def _model_of(options: argparse.Namespace) -> Path:
    """The model that the gallery remembers; the built-in one if there is none."""
    from bitgaze.encoding.contract import DEFAULT_MODEL
    from bitgaze.gallery.gallery import Gallery

    path = getattr(options, "gallery", None)
    if path is not None and Path(path).expanduser().exists():
        with suppress(GalleryError), Gallery(path, create=False) as gallery:
            return gallery.model_file
    return DEFAULT_MODEL


def check_kernel() -> None:
    """Fail early if BITGAZE_SIMD names a kernel that this machine lacks."""
    from bitgaze.hamming import simd

    try:
        simd()
    except RuntimeError as error:
        raise BitgazeError(str(error)) from error


def quiet_pillow() -> None:
    """Silence Pillow's warnings about odd EXIF and large images; bitgaze reports real failures."""
    warnings.filterwarnings("ignore", module="PIL")


def write_text(path: Path, text: str) -> None:
    """Write a file.

    Raises:
        BitgazeError: it cannot be written; the message says why.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> BitgazeError:
    """The error for a file that cannot be written."""
    folder = path.absolute().parent
    reason = error.strerror if folder.is_dir() else f"there is no folder {folder}"
    return BitgazeError(f"{path}: {reason}")
