import copy
import io
import os
import pickle
import shutil
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from bitgaze import Encoder, ImageError, ModelError
from bitgaze.cores import available_cores
from bitgaze.encoding.contract import DEFAULT_MODEL
from bitgaze.encoding.images import ImageFile, load
from bitgaze.hamming import pack
from conftest import smooth_image


def test_shapes_types_and_ranges(encoder):
    encoded = encoder.encode([smooth_image(1), smooth_image(2), smooth_image(3)])
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
    encoded = encoder.encode([smooth_image(seed) for seed in range(8)])
    assert np.array_equal(encoded.codes, pack(encoded.hashes))
    assert len(np.unique(encoded.codes, axis=0)) == 8


def test_encoding_no_images_returns_empty_arrays(encoder):
    encoded = encoder.encode([])
    assert encoded.codes.shape == (0, encoder.bits // 8)
    assert encoded.hashes.shape == (0, encoder.bits)
    assert encoded.attention.shape[0] == 0


def test_broken_images_do_not_shift_the_rows_of_others(encoder):
    count = 35
    sources = [smooth_image(seed) for seed in range(count)]
    broken = {0, 15, 16, count - 1}
    mixed = [b"broken" if i in broken else source for i, source in enumerate(sources)]
    expected, found = encoder.encode(sources), encoder.encode(mixed)
    assert found.errors.keys() == broken
    assert all(isinstance(error, ImageError) for error in found.errors.values())
    good = [i for i in range(count) if i not in broken]
    assert np.array_equal(found.hashes[good], expected.hashes[good])
    for array in (found.codes, found.hashes, found.attention, found.stable):
        assert not array[sorted(broken)].any()


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff"])
def test_one_lazily_opened_image_several_times_in_a_call(encoder, kind):
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # also read lazily
    smooth_image(1, (1600, 1200)).save(stream, kind, exif=exif)
    expected = encoder.encode([stream.getvalue()])
    for _ in range(3):
        with Image.open(io.BytesIO(stream.getvalue())) as lazy:
            found = encoder.encode([lazy] * 6)
        assert found.errors == {}
        assert len(np.unique(found.codes, axis=0)) == 1
        if kind != "jpeg":  # from bytes, decoded at a reduced scale
            assert np.array_equal(found.codes[0], expected.codes[0])


def test_images_encoded_alone_or_together_get_identical_outputs(encoder, examples):
    paths = sorted(examples.rglob("*.jpg"))[:: len(list(examples.rglob("*.jpg"))) // 20]
    together = encoder.encode(paths)
    for row, path in enumerate(paths):
        alone = encoder.encode([path])
        assert np.array_equal(alone.hashes[0], together.hashes[row])
        assert np.array_equal(alone.attention[0], together.attention[row])


def test_stable_bits_are_those_beyond_the_tolerance(encoder, tmp_path):
    sources = [*(smooth_image(seed) for seed in range(8)), b"broken"]
    encoded = encoder.encode(sources)
    tolerance = encoder.contract.tolerance
    assert encoded.stable.shape == (9, encoder.bits)
    assert np.array_equal(encoded.stable, np.abs(encoded.hashes) > tolerance)
    # The same model with a larger tolerance.
    text = encoder.model.path.read_bytes()
    assert text.count(b'"tolerance":0.001') == 1
    (tmp_path / "loose.onnx").write_bytes(text.replace(b'"tolerance":0.001', b'"tolerance":0.250'))
    loose = Encoder(tmp_path / "loose.onnx").encode(sources)
    assert np.array_equal(loose.hashes, encoded.hashes)
    assert 0.9 > loose.stable[:8].mean() > 0.1
    assert np.array_equal(loose.stable, np.abs(encoded.hashes) > 0.25)


def test_images_of_one_subject_are_nearer_than_others_on_average(encoder, examples):
    paths = sorted(p for p in examples.rglob("*") if p.suffix in (".jpg", ".png"))
    bits = np.unpackbits(encoder.encode(paths).codes, axis=1).astype(int)
    distance = (bits[:, None] != bits[None]).sum(-1)
    subject = np.array([path.parent.name for path in paths])
    same = (subject[:, None] == subject[None]) & ~np.eye(len(paths), dtype=bool)
    assert distance[same].mean() < distance[subject[:, None] != subject[None]].mean() - 8


def test_image_files_are_opened_a_few_at_a_time(encoder, make_image, monkeypatch):
    paths = [make_image(f"{seed}.png", seed) for seed in range(12)]
    files = [ImageFile(path) for path in paths]
    opened = ImageFile.opened
    threads = set()

    def recorded(self):
        threads.add(threading.current_thread())
        return opened(self)

    monkeypatch.setattr(ImageFile, "opened", recorded)
    found = encoder.encode(files)
    assert np.array_equal(found.hashes, encoder.encode(paths).hashes)
    assert len({file.content for file in files}) == 12
    assert 1 <= len(threads) <= available_cores()
    assert threading.current_thread() not in threads
    with pytest.raises(TypeError, match="put a single one into a list"):
        encoder.encode(files[0])


def test_progress_counts_every_image(encoder):
    steps = []
    encoder.encode([smooth_image(1), b"broken", smooth_image(2)], on_progress=steps.append)
    assert sum(steps) == 3


def test_a_generator_is_read_only_a_few_images_ahead(encoder):
    drawn = []

    def sources():
        for i in range(1000):
            drawn.append(i)
            yield smooth_image(1)

    def stop(_):
        raise InterruptedError

    few = Encoder(threads=2)
    before = threading.active_count()  # progress bars of other tests have threads too
    with pytest.raises(InterruptedError):
        few.encode(sources(), on_progress=stop)
    assert len(drawn) <= 10
    assert threading.active_count() <= before  # no thread keeps running


@pytest.mark.parametrize("single", ["a.jpg", b"bytes", DEFAULT_MODEL, smooth_image(1)])
def test_a_single_image_is_rejected(encoder, single):
    with pytest.raises(TypeError, match="put a single one into a list"):
        encoder.encode(single)
    with pytest.raises(TypeError, match="put a single one into a list"):
        encoder.encode(np.asarray(smooth_image(1)))


def test_an_array_of_several_images(encoder):
    array = np.stack([np.asarray(smooth_image(seed)) for seed in (1, 2)])
    expected = encoder.encode([smooth_image(1), smooth_image(2)]).codes
    assert np.array_equal(encoder.encode(array).codes, expected)


def test_a_source_that_is_not_an_image_is_rejected(encoder):
    with pytest.raises(TypeError, match="not NoneType"):
        encoder.encode([None])


def test_codes_do_not_depend_on_threads(encoder):
    expected = encoder.encode([smooth_image(seed) for seed in range(4)]).codes
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(
            lambda seed: encoder.encode([smooth_image(seed % 4)]).codes[0], range(16)
        )
        for seed, code in enumerate(results):
            assert np.array_equal(code, expected[seed % 4])
    images = [smooth_image(seed % 4) for seed in range(50)]  # several for each thread
    for threads in (1, 2, 3):
        own = Encoder(threads=threads)
        assert np.array_equal(own.encode(images).codes, expected[np.arange(50) % 4])
        assert np.array_equal(own.encode(iter(images[:3])).codes, expected[:3])


def test_the_model_file_alone_computes_the_same_code(encoder):
    """With onnxruntime and without this package: pixels in, packed code out."""
    import onnxruntime

    session = onnxruntime.InferenceSession(DEFAULT_MODEL, providers=["CPUExecutionProvider"])
    pixels = load(smooth_image(5), encoder.contract.preprocess)[None]
    (code,) = session.run(["code"], {"image": pixels})
    assert np.array_equal(code, encoder.encode([smooth_image(5)]).codes)


def test_bad_threads_are_rejected():
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        Encoder(threads=0)
    for wrong in (2.5, True, "2"):
        with pytest.raises(TypeError, match="threads must be an integer"):
            Encoder(threads=wrong)
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_closing_frees_the_session(encoder):
    with Encoder(threads=1) as own:
        session = weakref.ref(own._session(1))
        assert len(own.encode([smooth_image(1)]).codes) == 1
        own.close()
        assert session() is None
        own.close()
    for call in (
        lambda: own.encode([smooth_image(1)]),
        lambda: own.encode([]),
        lambda: pickle.dumps(own),
    ):
        with pytest.raises(ValueError, match=r"this encoder of .*general\.onnx is closed"):
            call()
    assert own.fingerprint == encoder.fingerprint


def test_an_encoder_can_be_pickled_and_copied(encoder, tmp_path):
    content = pickle.dumps(encoder)
    assert len(content) < 1000  # not the model
    # The default model has another path on another machine.
    assert str(DEFAULT_MODEL).encode() not in content
    for other in (pickle.loads(content), copy.deepcopy(encoder)):
        expected = encoder.encode([smooth_image(1)])
        assert np.array_equal(other.encode([smooth_image(1)]).hashes, expected.hashes)
        assert other.model == encoder.model
    path = tmp_path / "own.onnx"
    shutil.copy(DEFAULT_MODEL, path)
    content = pickle.dumps(Encoder(path, threads=1))
    assert pickle.loads(content).model.path == path
    path.write_bytes(another_model())
    with pytest.raises(ModelError, match=r"own\.onnx: the encoder was created with model"):
        pickle.loads(content)
    path.unlink()
    with pytest.raises(ModelError, match="cannot read the model"):
        pickle.loads(content)


def another_model():
    """Content of the default model with another resize filter, and so another fingerprint."""
    content = DEFAULT_MODEL.read_bytes()
    for old, new in (
        (b'"filter":"bicubic"', b'"filter":"bilinear"'),
        (b"general-128", b"general-12"),
    ):
        assert content.count(old) == 1  # the total length stays
        content = content.replace(old, new)
    return content


FORKED = """
import os, sys, threading
import numpy as np
from bitgaze import Encoder, ModelError

image = np.arange(64 * 48 * 3, dtype=np.uint8).reshape(48, 64, 3)
model, replacement = sys.argv[1:]
encoder = Encoder(model, threads=3)
expected = encoder.encode([image, image]).hashes
stop = threading.Event()

def busy():
    while not stop.is_set():
        encoder.encode([image, image, image])

workers = [threading.Thread(target=busy) for _ in range(2)]
for worker in workers:
    worker.start()

def in_child(check):
    child = os.fork()
    if child == 0:
        check()
        sys.exit(0)  # the normal way, which frees every object
    assert os.waitpid(child, 0)[1] == 0

def same():
    assert np.array_equal(encoder.encode([image, image]).hashes, expected)
    assert np.array_equal(encoder.encode([image]).hashes[0], expected[0])

def grandchild():
    in_child(same)
    same()

def another_model():
    os.replace(replacement, model)
    try:
        encoder.encode([image])
    except ModelError as error:
        assert "the encoder was created with model" in str(error)
    else:
        raise AssertionError("codes of another model")

for _ in range(5):
    in_child(same)
in_child(grandchild)
in_child(another_model)
stop.set()
for worker in workers:
    worker.join()
same()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_opens_its_own_session(tmp_path):
    """Fork while other threads encode, and fork again in a child."""
    shutil.copy(DEFAULT_MODEL, tmp_path / "own.onnx")
    (tmp_path / "other.onnx").write_bytes(another_model())
    arguments = [tmp_path / "own.onnx", tmp_path / "other.onnx"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_a_damaged_model_is_refused(tmp_path):
    content = DEFAULT_MODEL.read_bytes()
    # Rename an operator in the graph: valid protobuf that no runtime can load.
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(content.replace(b"\x22\x04Conv", b"\x22\x04Cnov"))
    with pytest.raises(ModelError, match=r"damaged\.onnx: onnxruntime cannot load"):
        Encoder(damaged)


def test_a_model_that_breaks_its_contract_is_refused(tmp_path):
    content = DEFAULT_MODEL.read_bytes()
    assert b'"size":224' in content
    liar = tmp_path / "liar.onnx"
    liar.write_bytes(content.replace(b'"size":224', b'"size":192'))
    with pytest.raises(ModelError, match="image is tensor.uint8. .*224.*its contract requires"):
        Encoder(liar)


def test_a_model_path_may_contain_spaces_and_non_ascii_characters(tmp_path):
    path = tmp_path / "ein Modell \u00fc.onnx"
    shutil.copy(DEFAULT_MODEL, path)
    assert Encoder(str(path)).fingerprint == Encoder().fingerprint
