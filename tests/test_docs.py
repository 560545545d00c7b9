"""The reference is what its script writes."""

import sys

import pytest

from conftest import ROOT


@pytest.fixture
def reference(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import reference

    yield reference
    del sys.modules["reference"]


@pytest.mark.parametrize("name", ["cli.md", "api.md"])
def test_the_reference_is_as_the_code_says(reference, name):
    committed = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert reference.pages()[name] == committed, "run: python docs/reference.py"
