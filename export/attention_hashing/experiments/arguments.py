"""Checks of command-line arguments that compare.py and ablate.py share."""

import argparse
from collections import Counter
from collections.abc import Iterable

from bitgaze.arguments import code_length


def check_lengths(parser: argparse.ArgumentParser, lengths: Iterable[int]) -> None:
    """Exit with a usage error if one of the lengths of --bits is not valid."""
    for bits in lengths:
        try:
            code_length(bits)
        except ValueError as error:
            parser.error(f"--{error}")


def check_unique(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, names: Iterable[str]
) -> None:
    """Exit with a usage error if one of these options lists a value twice."""
    for name in names:
        for value, count in Counter(vars(arguments)[name]).items():
            if count > 1:
                parser.error(f"--{name.replace('_', '-')}: {value} is listed twice")
