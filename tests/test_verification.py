"""Golden examples: equal on this machine, different once the model or its contract changes."""

from dataclasses import replace

import numpy as np
import pytest

from bitgaze import Encoder, ModelError, verify
from bitgaze.encoding.contract import DEFAULT_MODEL


@pytest.fixture
def with_contract(encoder, monkeypatch):
    """A function that makes an encoder of the shipped model with some contract entries replaced."""

    def change(**entries):
        contract = replace(encoder.contract, **entries)
        own = Encoder(threads=1)
        monkeypatch.setattr(own, "_model", replace(own.model, contract=contract))
        return own

    return change


def flip(golden, *bits):
    """A copy of the example with these bits of its code flipped."""
    code = np.unpackbits(np.frombuffer(golden.code, np.uint8))
    code[list(bits)] ^= 1
    return replace(golden, code=np.packbits(code).tobytes())


def test_the_shipped_model_reproduces_its_codes(encoder):
    found = verify(encoder)
    assert found.is_equal
    assert len(found.flipped) == len(encoder.contract.golden) >= 3
    assert found.fingerprint == encoder.fingerprint
    assert found.runs_on == str(encoder.report)
    assert (found.bits, found.tolerance) == (encoder.bits, encoder.contract.tolerance)


def test_bits_that_differ_are_counted_by_stability(encoder, with_contract):
    first, second, *rest = encoder.contract.golden
    values = np.abs(encoder.encode([first.png]).hashes[0])
    near, far = int(values.argmin()), int(values.argmax())
    # Exactly one bit is within the tolerance.
    tolerance = float(np.sort(values)[:2].mean())
    before = verify(encoder).flipped

    found = verify(with_contract(golden=(flip(first, near), second, *rest), tolerance=tolerance))
    assert found.flipped == (before[0] + 1, *before[1:])
    assert found.flipped_stable[0] == 0
    assert found.is_equal

    found = verify(
        with_contract(golden=(flip(first, near, far), second, *rest), tolerance=tolerance)
    )
    assert found.flipped == (before[0] + 2, *before[1:])
    assert found.flipped_stable[0] == 1
    assert not found.is_equal


def damaged(path, change):
    """The shipped model after `change` edits 10,000 of its weights, an array of bytes (n, 4)."""
    content = bytearray(DEFAULT_MODEL.read_bytes())
    middle = len(content) * 5 // 8  # in a layer that each code depends on
    weights = np.frombuffer(content, np.uint8)[middle : middle + 40_000]
    # Find where floats start: the last byte of a small float has the bits 0111 after its sign.
    start = max(range(4), key=lambda i: np.count_nonzero(weights[i::4] & 0x78 == 0x38)) - 3
    change(
        np.frombuffer(content, np.uint8)[middle + start : middle + start + 40_000].reshape(-1, 4)
    )
    path.write_bytes(content)
    return Encoder(path)


def test_a_model_with_damaged_weights_is_not_equal(encoder, tmp_path):
    """Although it loads and its contract is unchanged."""

    def negate(weights):
        weights[:, 3] ^= 0x80

    own = damaged(tmp_path / "damaged.onnx", negate)
    found = verify(own)
    assert not found.is_equal
    assert found.fingerprint == own.fingerprint != encoder.fingerprint


def test_a_model_that_computes_nan_is_refused(tmp_path):
    def scramble(weights):  # large weights of both signs: infinities, then their differences
        weights[:] = weights[::-1, ::-1].copy()

    own = damaged(tmp_path / "damaged.onnx", scramble)
    encoded = own.encode([own.contract.golden[0].png])
    assert "damaged.onnx on CPU" in str(encoded.errors[0])
    assert not encoded.codes.any()
    with pytest.raises(ModelError, match="golden example 0: .*hash values that are not finite"):
        verify(own)


def test_a_model_without_golden_examples_is_refused(with_contract):
    with pytest.raises(ModelError, match=r"general\.onnx: holds no golden examples"):
        verify(with_contract(golden=()))


def test_a_golden_example_that_is_not_an_image_is_refused(encoder, with_contract):
    first, *rest = encoder.contract.golden
    with pytest.raises(ModelError, match="golden example 0: 6 bytes: not an image"):
        verify(with_contract(golden=(replace(first, png=b"broken"), *rest)))
