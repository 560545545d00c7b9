import io
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from bitgaze import Encoder, ImageError, ModelError
from bitgaze.contract import DEFAULT_MODEL
from bitgaze.cores import available_cores
from bitgaze.encoder import BATCH_SIZE
from bitgaze.images import load
from conftest import picture


def test_shapes_types_and_ranges(encoder):
    encoded = encoder.encode([picture(1), picture(2), picture(3)])
    assert encoded.codes.shape == (3, encoder.bits // 8)
    assert encoded.codes.dtype == np.uint8
    assert encoded.hashes.shape == (3, encoder.bits)
    assert encoded.hashes.dtype == np.float32
    assert encoded.attention.ndim == 3
    assert len(encoded.attention) == 3
    assert encoded.attention.dtype == np.float32
    assert encoded.attention.min() >= 0
    assert 0.99 < encoded.attention.max() <= 1
    assert encoded.errors == {}


def test_the_code_is_the_sign_of_the_hash_values(encoder):
    encoded = encoder.encode([picture(seed) for seed in range(8)])
    assert np.array_equal(encoded.codes, np.packbits(encoded.hashes > 0, axis=1))
    assert len(np.unique(encoded.codes, axis=0)) == 8


def test_no_pictures(encoder):
    encoded = encoder.encode([])
    assert encoded.codes.shape == (0, encoder.bits // 8)
    assert encoded.hashes.shape == (0, encoder.bits)
    assert encoded.attention.shape[0] == 0


def test_rows_stay_with_their_pictures_around_broken_ones(encoder):
    count = 2 * BATCH_SIZE + 3
    sources = [picture(seed) for seed in range(count)]
    broken = {0, BATCH_SIZE - 1, BATCH_SIZE, count - 1}
    mixed = [b"broken" if i in broken else source for i, source in enumerate(sources)]
    expected, found = encoder.encode(sources), encoder.encode(mixed)
    assert found.errors.keys() == broken
    assert all(isinstance(error, ImageError) for error in found.errors.values())
    good = [i for i in range(count) if i not in broken]
    # Another batch composition may move a value in its last digits, not a bit.
    assert np.array_equal(found.codes[good], expected.codes[good])
    assert np.allclose(found.hashes[good], expected.hashes[good], atol=1e-4)
    for array in (found.codes, found.hashes, found.attention):
        assert not array[sorted(broken)].any()


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff"])
def test_one_lazily_opened_picture_several_times_in_a_batch(encoder, kind):
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # read lazily, too
    picture(1, (1600, 1200)).save(stream, kind, exif=exif)
    expected = encoder.encode([stream.getvalue()])
    for _ in range(3):
        with Image.open(io.BytesIO(stream.getvalue())) as lazy:
            found = encoder.encode([lazy] * 6)
        assert found.errors == {}
        assert len(np.unique(found.codes, axis=0)) == 1
        if kind != "jpeg":  # decoded at a reduced scale where it is not a PIL image yet
            assert np.array_equal(found.codes[0], expected.codes[0])


def test_one_by_one_equals_all_at_once(encoder, examples):
    paths = sorted(examples.rglob("*.jpg"))[:: len(list(examples.rglob("*.jpg"))) // 20]
    together = encoder.encode(paths)
    for row, path in enumerate(paths):
        alone = encoder.encode([path])
        stable = np.abs(together.hashes[row]) > 1e-4
        bits = np.unpackbits(alone.codes[0]) == np.unpackbits(together.codes[row])
        assert bits[stable].all()


def test_golden_examples_of_the_shipped_model(encoder):
    for golden in encoder.contract.golden:
        encoded = encoder.encode([golden.png])
        found = np.unpackbits(encoded.codes[0])
        expected = np.unpackbits(np.frombuffer(golden.code, np.uint8))
        # Other processors round otherwise: only bits whose value lies at the threshold may differ.
        assert (found == expected)[np.abs(encoded.hashes[0]) > 1e-3].all()


def test_likeness_means_something(encoder, examples):
    """Pictures of one folder are nearer to each other than to the rest, on average."""
    paths = sorted(p for p in examples.rglob("*") if p.suffix in (".jpg", ".png"))
    bits = np.unpackbits(encoder.encode(paths).codes, axis=1).astype(int)
    distance = (bits[:, None] != bits[None]).sum(-1)
    subject = np.array([path.parent.name for path in paths])
    same = (subject[:, None] == subject[None]) & ~np.eye(len(paths), dtype=bool)
    assert distance[same].mean() < distance[subject[:, None] != subject[None]].mean() - 8


def test_progress_counts_every_picture(encoder):
    steps = []
    encoder.encode([picture(1)] * (BATCH_SIZE + 1), on_progress=steps.append)
    assert steps == [BATCH_SIZE, 1]


def test_a_generator_is_not_read_to_its_end_at_once(encoder):
    drawn = []

    def sources():
        for i in range(10 * BATCH_SIZE):
            drawn.append(i)
            yield picture(1)

    def stop(_):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        encoder.encode(sources(), on_progress=stop)
    assert len(drawn) <= 3 * BATCH_SIZE


@pytest.mark.parametrize("single", ["a.jpg", b"bytes", DEFAULT_MODEL, picture(1)])
def test_a_single_picture_is_not_taken_for_several(encoder, single):
    with pytest.raises(TypeError, match="put a single one into a list"):
        encoder.encode(single)
    with pytest.raises(TypeError, match="put a single one into a list"):
        encoder.encode(np.asarray(picture(1)))


def test_a_batch_array_is_several_pictures(encoder):
    array = np.stack([np.asarray(picture(seed)) for seed in (1, 2)])
    expected = encoder.encode([picture(1), picture(2)]).codes
    assert np.array_equal(encoder.encode(array).codes, expected)


def test_something_else_than_a_picture(encoder):
    with pytest.raises(TypeError, match="not NoneType"):
        encoder.encode([None])


def test_threads_give_one_answer(encoder):
    expected = encoder.encode([picture(seed) for seed in range(4)]).codes
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda seed: encoder.encode([picture(seed % 4)]).codes[0], range(16))
        for seed, code in enumerate(results):
            assert np.array_equal(code, expected[seed % 4])
    alone = Encoder(threads=1).encode([picture(seed) for seed in range(4)])
    assert np.array_equal(alone.codes, expected)


def test_any_runtime_gets_the_same_bytes(encoder):
    """The file alone, without this package: pixels in, packed code out."""
    import onnxruntime

    session = onnxruntime.InferenceSession(DEFAULT_MODEL, providers=["CPUExecutionProvider"])
    pixels = load(picture(5), encoder.contract.preprocess)[None]
    (code,) = session.run(["code"], {"image": pixels})
    assert np.array_equal(code, encoder.encode([picture(5)]).codes)


def test_threads_out_of_range():
    with pytest.raises(ValueError, match="threads is 0"):
        Encoder(threads=0)
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_a_damaged_model_is_refused(tmp_path):
    content = DEFAULT_MODEL.read_bytes()
    # An operator renamed inside the graph: well-formed protobuf that no runtime can load.
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(content.replace(b"\x22\x04Conv", b"\x22\x04Cnov"))
    with pytest.raises(ModelError, match=r"damaged\.onnx: onnxruntime cannot load"):
        Encoder(damaged)


def test_a_model_that_breaks_its_contract_is_refused(tmp_path):
    content = DEFAULT_MODEL.read_bytes()
    assert b'"size":224' in content
    liar = tmp_path / "liar.onnx"
    liar.write_bytes(content.replace(b'"size":224', b'"size":192'))
    with pytest.raises(ModelError, match="image is tensor.uint8. .*224.*its contract promises"):
        Encoder(liar)


def test_a_model_may_lie_anywhere(tmp_path):
    path = tmp_path / "ein Modell \u00fc.onnx"
    shutil.copy(DEFAULT_MODEL, path)
    assert Encoder(str(path)).fingerprint == Encoder().fingerprint


def test_no_network(tmp_path):
    """The whole way from a picture to a hit with sockets forbidden."""
    stream = io.BytesIO()
    picture(1).save(stream, "png")
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    script = """
import socket, sys
def forbidden(*_):
    raise AssertionError("a socket was opened")
socket.socket = socket.create_connection = socket.getaddrinfo = forbidden
from bitgaze import Gallery
with Gallery("g.bitgaze") as gallery:
    gallery.sync(".")
    print(gallery.search("a.png")[0].distance)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "0\n"
