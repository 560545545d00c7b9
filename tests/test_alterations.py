import numpy as np
from PIL import Image

from attention_hashing.data.alterations import altered
from conftest import smooth_image


def test_each_alteration_does_what_its_name_says():
    image = smooth_image(1).convert("RGB").resize((200, 120))
    original = np.asarray(image).astype(int)
    versions = altered(image)
    assert len(versions) == 10
    for name, version in versions.items():
        assert version.mode == "RGB", name
        assert version.size != image.size or (np.asarray(version) != original).any(), name
    assert versions["resized"].size == (100, 60)
    assert versions["cropped"].size == (160, 96)
    assert versions["bordered"].size == (232, 152)
    assert (np.asarray(versions["mirrored"])[:, ::-1] == original).all()
    assert (np.asarray(versions["grey"]).std(axis=2) == 0).all()
    assert np.asarray(versions["brighter"]).mean() > original.mean()
    caption = np.asarray(versions["captioned"])
    assert (caption[:100] == original[:100]).all()
    assert 0.5 < (caption[106:] == 0).mean() < 1  # black, with letters
    assert (np.asarray(image) == original).all()  # the image itself is unchanged


def test_small_images_can_be_altered():
    assert len(altered(Image.new("RGB", (8, 8), "red"))) == 10
