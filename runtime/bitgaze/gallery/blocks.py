"""Blocks: `with` statements that Ctrl-C cannot leave half entered or half ended.

Python looks for signals at the start of every Python function, so the `__exit__` of an ordinary
context manager, contextlib's included, can be interrupted before its first line: a lock stays held,
a transaction open. A generator that is resumed looks for signals too, but inside its own `try` and
`with` statements, which then end as after any exception. So the `__enter__` and `__exit__` of a
block are functions written in C that do nothing but resume a generator.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, suppress
from functools import partial, wraps
from typing import Any, ParamSpec, TypeAlias

_Parameters = ParamSpec("_Parameters")
Steps: TypeAlias = Generator[int, Any, None]


class _Block:
    """A context manager over a generator; see `block`."""

    __slots__ = ("__enter__", "__exit__")

    def __init__(self, steps: Steps) -> None:
        self.__enter__ = steps.__next__
        # A function written in C that takes three arguments, passes them to the generator, and
        # returns False: the argument for which the generator yields the largest number.
        self.__exit__ = partial(max, False, key=steps.send)


def block(
    function: Callable[_Parameters, Steps],
) -> Callable[_Parameters, AbstractContextManager[None]]:
    """Make a generator function return a context manager, as `contextlib.contextmanager` does.

    The generator runs the body of the `with` statement by `yield from body()`, once. It ends by its
    own exception, or by none: it cannot catch or replace those of the body.
    """

    @wraps(function)
    def begin(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> Any:
        return _Block(_steps(function(*args, **kwargs)))

    return begin


def body() -> Steps:
    """Run the body of the `with` statement of a block; raises if the body does."""
    yield 0  # entered; resumed by the False of `_Block.__exit__`
    if (yield 1) is not None:  # resumed by the type of the body's exception
        raise _BodyFailed


class _BodyFailed(BaseException):
    """Stands for the exception of a body, which passes by the generator."""


def _steps(work: Steps) -> Steps:
    with suppress(_BodyFailed):
        yield from work
    for _ in range(3):  # one for each argument of `__exit__`
        yield 0
    raise RuntimeError("a with statement needs a block of its own")
