"""Engines are optional: their modules are imported where they are used."""

from importlib import import_module
from typing import Any

from bitgaze.errors import InterchangeError


def required(module: str, package: str, extra: str) -> Any:
    """Import an engine's module.

    Args:
        module: to import.
        package: that has it, for the message.
        extra: of bitgaze that installs it.

    Raises:
        InterchangeError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise InterchangeError(
            f"{extra} requires {package}, which is not installed: pip install 'bitgaze[{extra}]'"
        ) from error
