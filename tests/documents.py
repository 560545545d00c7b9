"""Runs the examples of a Markdown document from top to bottom, as a new user would.

Python blocks run in one namespace. In shell blocks, `bitgaze` runs in this process, `mv` and the
like as commands. Scripts of export/, whose trainings take long, `bitgaze serve` and `watch`, which
never end, and cron lines are only parsed. `pip` does not run: tests have no network; nor does
`cmake`, for tests/test_kernels_cross.py builds what is in C++. A text block holds what the block
before it prints: words and layout are compared, numbers are not.
"""

import argparse
import os
import re
import runpy
import shlex
import subprocess
import sys

import pytest

from bitgaze.cli.main import main, parser
from conftest import ROOT

_USER = "/home/ann"


def blocks(text):
    """(language, text) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text):
    """The words of each command in a shell block, without comments."""
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield [os.path.expanduser(word) for word in words]  # noqa: PTH111 (a word is not a path)


def run(document, home, capsys, monkeypatch):
    """Run the blocks of a document in the folder `home`, and return how many ran.

    Args:
        document: path of the Markdown file.
        home: becomes the current folder and the user's home, `~`.
        capsys: pytest's fixture.
        monkeypatch: pytest's fixture.
    """
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("BITGAZE_GALLERY", raising=False)
    monkeypatch.chdir(home)
    names, printed = {"__name__": document.stem}, ""
    found = blocks(document.read_text(encoding="utf-8"))
    for language, text in found:
        if language == "python":
            exec(compile(text, document.name, "exec"), names)
            printed = capsys.readouterr().out
        elif language == "sh":
            for words in commands(text):
                _run(words, monkeypatch)
            printed = capsys.readouterr().out
        elif language == "text":
            assert _shape(text) == _shape(printed.replace(str(home), _USER)), printed
        elif language == "crontab":
            for line in text.splitlines():
                fields = shlex.split(line)
                assert all(re.fullmatch(r"[\d*/,-]+", field) for field in fields[:5]), line
                parse(fields[5:])
        elif language in ("cmake", "cpp"):
            continue  # tests/test_kernels_cross.py builds them
        else:
            raise AssertionError(f"{document.name} has a block that no test can run: {text}")
    return len(found)


def parse(words):
    """Check that the command and options of a `bitgaze` command line exist."""
    assert words[0] == "bitgaze", words
    assert parser().parse_args(words[1:]).run


def _run(words, monkeypatch):
    program, *rest = words
    if program == "bitgaze":
        parse(words)
        if rest[0] not in ("serve", "watch"):
            # Doctor may find something on a machine that runs the tests.
            assert main(rest) in ({0, 1} if rest[0] == "doctor" else {0}), words
    elif program == "python":
        _parse_script(rest, monkeypatch)
    elif program in ("mv", "cp", "mkdir", "rm"):
        subprocess.run(words, check=True)
    else:
        assert program in ("pip", "make", "cmake"), f"no test runs {shlex.join(words)}"


def _parse_script(words, monkeypatch):
    script, *arguments = words
    assert script.startswith("export/")
    parse_args = argparse.ArgumentParser.parse_args

    def only_parse(parser, *args, **kwargs):
        parse_args(parser, *args, **kwargs)
        raise _Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
        patch.setattr(sys, "argv", [script, *arguments])
        with pytest.raises(_Parsed):
            runpy.run_path(str(ROOT / script), run_name="__main__")


class _Parsed(Exception):
    pass


def _shape(text):
    """Words and layout: all numbers, bars and digests are equal."""
    text = re.sub(r"\b[0-9a-f]{12,64}\b|\d[\d,.]*", "0", text)
    return [re.sub(r"\s+", " ", line.strip()) for line in text.splitlines()]
