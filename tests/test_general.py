import numpy as np
import pytest
import torch

from attention_hashing.data.labelled import read
from attention_hashing.general import model as general
from attention_hashing.general import unsupervised
from attention_hashing.general.distortions import cut_out, distorted, out_of_focus
from bitgaze.encoding.images import load
from conftest import smooth_image

IMAGES = 40


@pytest.fixture(scope="module")
def paths(examples):
    return sorted(p for p in examples.rglob("*") if p.suffix in (".jpg", ".png"))[:IMAGES]


@pytest.fixture(scope="module")
def extract():
    return general.extractor()


@pytest.fixture(scope="module")
def seen(paths, extract):
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        for name in ("_DISTORTED", "_OUT_OF_FOCUS", "_CUT_OUT"):
            patched.setattr(general, name, 1)
        return general.versions(extract, paths, seed=0)


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(unsupervised, "_STEPS", 60)


def test_features_are_those_of_the_network(paths, extract):
    network = general.untrained(8)
    pixels = torch.from_numpy(np.stack([load(p, general.PREPROCESS) for p in paths[:3]]))
    with torch.inference_mode():
        values = network(pixels).hash.numpy()
    found = extract(paths[:3], lambda path: path)
    weight = network.project.weight.detach().numpy()
    assert found @ weight.T == pytest.approx(values, abs=1e-3)


@pytest.mark.parametrize("distort", [distorted, out_of_focus, cut_out])
def test_distortions_are_images_drawn_by_the_seed(distort):
    image = smooth_image(1).convert("RGB").resize((90, 60))
    for seed in range(40):
        made = distort(image, np.random.default_rng(seed))
        assert made.mode == "RGB"
        assert min(made.size) >= 8
        again = distort(image, np.random.default_rng(seed))
        assert made.tobytes() == again.tobytes()
        assert made.size != image.size or made.tobytes() != image.tobytes()


def test_versions_belong_to_their_images(seen):
    assert len(seen.features) == 4 * IMAGES
    assert seen.same.reshape(4, IMAGES).all(axis=1).tolist() == [True, True, True, False]
    part = seen.of(np.array([7, 2]))
    assert part.images.tolist() == [1, 0] * 4  # in the original order, renumbered
    assert (part.features[1] == seen.features[7]).all()
    assert part.same.tolist() == [True] * 6 + [False] * 2


def test_fitted_bits_are_balanced_and_survive_distortion(seen, few_steps):
    layer = general.fit(seen, bits=16, seed=0)
    values = layer.values(seen.features)
    bits = values.reshape(4, IMAGES, 16) > 0
    assert abs(bits[:3].mean() - 0.5) < 0.1
    assert np.abs(np.corrcoef(values[:IMAGES].T) - np.eye(16)).max() < 0.7
    assert values[seen.same].std(axis=0) == pytest.approx(np.ones(16), abs=0.01)
    same = (bits[0] != bits[1]).mean()
    other = (bits[0] != np.roll(bits[1], 1, axis=0)).mean()
    assert same < 0.6 * other
    again = general.fit(seen, bits=16, seed=0)
    assert (again.weight == layer.weight).all()


def test_either_part_can_be_omitted(seen, few_steps):
    channels = seen.features.shape[1] // 2
    only_global = general.fit(seen, 16, 0, "global").weight
    assert (only_global[channels:] == 0).all()
    assert (only_global[:channels] != 0).any()
    assert (general.fit(seen, 16, 0, "local").weight[:channels] == 0).all()


def test_a_layer_is_stored_and_does_what_the_network_does(
    seen, paths, extract, examples, few_steps, tmp_path
):
    layer = general.fit(seen, bits=16, seed=0)
    kinds = read(examples).subset(np.arange(40))
    calibration = general.calibration(extract, paths, seen, kinds, layer)
    # Few steps on 40 images make poor bits, but they show the trend.
    assert calibration.bits == 16
    assert calibration.duplicate[0] > 2 * calibration.duplicate[16]
    assert calibration.kind[0] > calibration.kind[16]
    general.Fitted(layer, calibration, "test").save(tmp_path / "layer.npz")
    loaded = general.Fitted.load(tmp_path / "layer.npz")
    assert (loaded.calibration, loaded.command) == (calibration, "test")
    pixels = torch.from_numpy(np.stack([load(p, general.PREPROCESS) for p in paths[:4]]))
    with torch.inference_mode():
        values = general.with_layer(loaded.layer)(pixels).hash.numpy()
    assert values == pytest.approx(layer.values(seen.features[:4]), abs=1e-2)


@pytest.mark.parametrize(
    ("bits", "seed", "message"),
    [
        (12, 0, "bits must be a multiple"),
        (16, -1, "seed is -1, expected at least 0"),
        (48, 0, "40 images for 48 bits, expected more than 48"),
    ],
)
def test_invalid_fits_are_rejected(seen, bits, seed, message):
    with pytest.raises(ValueError, match=message):
        general.fit(seen, bits, seed)
