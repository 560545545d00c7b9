"""Blocks: context managers over generators that Ctrl-C cannot leave half ended."""

import pytest

from bitgaze.gallery.blocks import block, body


@block
def logged(log, name="block"):
    try:
        log.append(f"{name} entered")
        yield from body()
        log.append(f"{name} succeeded")
    finally:
        log.append(f"{name} left")


def test_a_block_runs_around_its_body():
    log = []
    with logged(log):
        log.append("body")
    assert log == ["block entered", "body", "block succeeded", "block left"]


@pytest.mark.parametrize("kind", [ValueError, StopIteration, GeneratorExit, KeyboardInterrupt])
def test_the_exception_of_a_body_passes_unchanged(kind):
    log, error = [], kind("mine")
    with pytest.raises(kind) as raised, logged(log, "outer"), logged(log, "inner"):
        raise error
    assert raised.value is error
    assert error.__context__ is None
    assert log == ["outer entered", "inner entered", "inner left", "outer left"]


def test_a_block_can_raise_before_and_after_its_body():
    @block
    def failing(before):
        if before:
            raise KeyError("before")
        yield from body()
        raise KeyError("after")

    for before in (True, False):
        log = []
        with pytest.raises(KeyError, match="before" if before else "after"), failing(before):
            log.append("body")
        assert log == ([] if before else ["body"])


def test_a_block_left_by_return_succeeds():
    log = []

    def early():
        with logged(log):
            return "value"

    assert early() == "value"
    assert log[1:] == ["block succeeded", "block left"]


def test_a_block_cannot_be_entered_twice():
    log = []
    used = logged(log)
    with used:
        pass
    with pytest.raises(RuntimeError, match="needs a block of its own"), used:
        log.append("body")
    assert "body" not in log


def test_a_forgotten_block_ends():
    log = []
    manager = logged(log)
    manager.__enter__()
    del manager
    assert log == ["block entered", "block left"]
