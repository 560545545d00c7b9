"""Hash layers that learn from whole images and from looks at parts of them, over a frozen backbone.

A branch learns to classify the whole images. Looks are where the maps of likely classes are high,
each learned under the label of its class, then at peaks of the attention; an image's own labels
say which classes to look for while it is trained on. Wherever a look is, it is also learned under
those labels of its image that the branch sees in it. Beside them stand looks that other maps
choose, and the boxes of the objects.

    whole      no look
    random     as many looks as explicit, of the same sizes, anywhere
    energy     at the peaks of the features' energy: attention that nobody taught
    imagenet   at the classes of the backbone's published classifier
    explicit   at the likely classes of the branch, then at peaks of its attention
    boxes      at the objects' true boxes, known for queries and database too
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from attention_hashing.attention import AttentionBranch
from attention_hashing.data.annotations import Boxes
from attention_hashing.data.labels import Labels
from attention_hashing.evaluation.distance_counts import levels_among
from attention_hashing.evaluation.metrics import average_precision
from attention_hashing.experiments.pointing_game import pointing_game
from attention_hashing.features import FeatureExtractor
from attention_hashing.heads import descend, fit_layer
from attention_hashing.looking import RULE, Place, labels_of_looks
from attention_hashing.methods import METHODS
from attention_hashing.network import HashLayer
from bitgaze.encoding.images import Region, Source
from bitgaze.encoding.looks import LookRule, choose
from bitgaze.hamming import pack

PLACES = ("whole", "random", "energy", "imagenet", "explicit", "boxes")
_IMAGENET_RULE = LookRule(most=3, overlap=0.8)
_BRANCH_EPOCHS, _BRANCH_RATE = 30, 3e-4
_LAYER_EPOCHS = 30
_FUSED_TIMES = 60  # that an image takes part in training for one code, in whatever form, at most
_BATCH = 64  # where nothing is trained
_MARGIN = 0.1  # around a true box, of its sides
_ENLARGED, _TOLERANCE = 8, 0.03  # of the pointing game as published


@dataclass(frozen=True)
class Looked:
    """Images, and where each is looked at.

    Attributes:
        features: float32, (n, channels), of the whole images.
        looks: float32, (k, channels) for each image, of its looks.
        places: k for each image.
        branch: that sees labels in looks; without 3 x 3 convolution, so that features are enough.
    """

    features: NDArray[np.float32]
    looks: list[NDArray[np.float32]]
    places: list[list[Place]]
    branch: AttentionBranch

    def views(self, image: int) -> NDArray[np.float32]:
        """Features of the image, then of its looks: (1 + k, channels)."""
        return np.concatenate([self.features[image : image + 1], self.looks[image]])

    @torch.inference_mode()
    def labels(self, image: int, row: NDArray[np.float32]) -> NDArray[np.float32]:
        """Labels of `views`, of which the whole image has all (classes,): (1 + k, classes)."""
        looks = torch.from_numpy(self.looks[image])[:, :, None, None]
        probability = self.branch.probability(self.branch(looks).logits).numpy()
        own = [one.label for one in self.places[image]]
        found = labels_of_looks(own, row > 0, probability)
        return np.concatenate([row[None], found.astype(np.float32)])

    def looks_an_image(self) -> float:
        """Mean number of looks."""
        return float(np.mean([len(some) for some in self.places]))


def whole(features: NDArray[np.float32], branch: AttentionBranch) -> Looked:
    """Images without looks, of their features (n, channels)."""
    nothing = np.zeros((0, features.shape[1]), np.float32)
    return Looked(features, [nothing] * len(features), [[]] * len(features), branch)


def linear_branch(
    features: NDArray[np.float32], one_hot: NDArray[np.float32], seed: int
) -> AttentionBranch:
    """A branch without 3 x 3 convolution, trained on spatial means of features, in seconds.

    Its logits are linear in the features, so the maps are not needed. Features are first scaled to
    mean 0 and variance 1, which the weights then contain.

    Args:
        features: (n, channels).
        one_hot: (n, classes), 1 for each label of an image, otherwise 0.
        seed: of the order.
    """
    data = torch.from_numpy(features)
    mean, deviation = data.mean(0), data.std(0) + 1e-3
    layer = torch.nn.Linear(features.shape[1], one_hot.shape[1])
    share = torch.from_numpy(one_hot).mean(0).clamp(1e-4, 1 - 1e-4)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(share.logit())
    error = torch.nn.functional.binary_cross_entropy_with_logits
    descend(
        [layer],
        lambda some, labels, _: error(layer(some), labels),
        ((data - mean) / deviation, torch.from_numpy(one_hot)),
        _BRANCH_EPOCHS,
        _BRANCH_RATE,
        seed,
    )
    weight = layer.weight.detach() / deviation
    bias = layer.bias.detach() - weight @ mean
    return AttentionBranch.from_classifier(weight, bias, has_several=True).eval()


def batches(maps: NDArray[np.float16]) -> Iterator[Tensor]:
    """A backbone's stored maps, (n, channels, h, w), as a branch takes them."""
    for start in range(0, len(maps), _BATCH):
        yield torch.from_numpy(maps[start : start + _BATCH].astype(np.float32))


def imagenet(maps: NDArray[np.float16], branch: AttentionBranch) -> list[list[Place]]:
    """Three looks at the likeliest classes of the backbone's published classifier."""
    found = []
    for some in maps:
        features = torch.from_numpy(some.astype(np.float32))[None]
        with torch.inference_mode():
            guided = branch(features)
            likely = branch.places(features, guided.logits)
        rows = (one[0].numpy() for one in (likely.maps, likely.probability, guided.attention))
        found.append([Place(look.box, -1) for look in choose(*rows, _IMAGENET_RULE, 3)])
    return found


def energy(maps: NDArray[np.float16]) -> list[list[Place]]:
    """Three squares at the peaks of the features' mean square, which no label has taught."""
    nobody = np.zeros((0, *maps.shape[2:]), np.float32), np.zeros(0, np.float32)
    return [
        [
            Place(look.box, -1)
            for look in choose(*nobody, np.square(some.astype(np.float32)).mean(0), RULE, 3)
        ]
        for some in maps
    ]


def scattered(like: list[list[Place]], seed: int) -> list[list[Place]]:
    """As many looks of the same sizes, anywhere in the image."""
    generator = np.random.default_rng(seed)
    found = []
    for places in like:
        some = []
        for (left, top, right, bottom), _ in places:
            width, height = right - left, bottom - top
            x, y = generator.uniform(0, 1, 2) * (1 - width, 1 - height)
            some.append(Place((x, y, min(x + width, 1.0), min(y + height, 1.0)), -1))
        found.append(some)
    return found


def true_boxes(boxes: Sequence[Boxes], most: int) -> list[list[Place]]:
    """The largest box of each class, with a margin; the largest `most` of these."""
    found = []
    for one in boxes:
        sides = one.corners[:, 2:] - one.corners[:, :2]
        order = np.argsort(-sides.prod(1), kind="stable")
        largest: dict[int, Place] = {}
        for place in order:
            margin = _MARGIN * np.concatenate([-sides[place], sides[place]])
            box = np.clip(one.corners[place] + margin, 0, 1).tolist()
            largest.setdefault(int(one.labels[place]), Place(tuple(box), int(one.labels[place])))
        found.append(list(largest.values())[:most])
    return found


def look_maps(
    extract: FeatureExtractor, images: Sequence[Source], places: list[list[Place]]
) -> Iterator[NDArray[np.float32]]:
    """Yield the map (channels, h, w) of each look, image by image.

    Args:
        extract: of whole maps.
        images: n of them.
        places: of each image.
    """
    regions = [
        Region(image, one.box) for image, some in zip(images, places, strict=True) for one in some
    ]
    bar = tqdm(regions, "looks", unit="look", disable=None)
    yield from extract.each(bar, lambda region: region)


def look(
    extract: FeatureExtractor, paths: list[Path], places: list[list[Place]], folder: Path
) -> list[NDArray[np.float32]]:
    """Mean features (looks, channels) of each image, from a file that is created if there is none.

    Args:
        extract: of whole maps.
        paths: of the images.
        places: of each image; at least one has a look.
        folder: for the file.
    """
    items = [(path, one.box) for path, some in zip(paths, places, strict=True) for one in some]
    digest = hashlib.sha256(repr(items).encode())
    path = folder / f"looks-{digest.hexdigest()[:16]}.npy"
    if not path.exists():
        draft = path.with_suffix(".part.npy")
        np.save(draft, np.array([one.mean((1, 2)) for one in look_maps(extract, paths, places)]))
        draft.replace(path)
    ends = np.cumsum([len(some) for some in places])
    return np.split(np.load(path), ends[:-1])


def fit(
    looked: Looked,
    one_hot: NDArray[np.float32],
    training: NDArray[np.intp],
    method: str,
    bits: int,
    seed: int,
    rate: float,
    is_fused: bool = False,
) -> HashLayer:
    """Train a hash layer on whole images under all their labels, on looks as `Looked.labels` says.

    Args:
        looked: all images.
        one_hot: (n, classes).
        training: positions of the images to train on.
        method: name of the loss.
        bits: length of the code.
        seed: of the loss, initial weights and order.
        rate: learning rate.
        is_fused: train on the mean of the views as well, where an image has looks, under all its
            labels, for one code an image, of that mean.
    """
    features = [looked.views(image) for image in training]
    labels = [looked.labels(image, one_hot[image]) for image in training]
    epochs = _LAYER_EPOCHS
    if is_fused:
        has_looks = np.array([len(some) > 1 for some in features])
        features += [some.mean(0, keepdims=True) for some in features if len(some) > 1]
        labels.append(one_hot[training[has_looks]])
        epochs = min(epochs, _FUSED_TIMES * len(training) // sum(map(len, features)))
    loss = METHODS[method](one_hot.shape[1], bits, seed)
    return fit_layer(np.concatenate(features), np.concatenate(labels), loss, epochs, rate)


def scores(
    looked: Looked,
    layer: HashLayer,
    labels: Labels,
    queries: NDArray[np.intp],
    database: NDArray[np.intp],
    is_fused: bool = False,
) -> NDArray[np.float64]:
    """Tie-aware average precision of each query, searched as a gallery is: by bitgaze.ViewIndex.

    An image with fewer looks than others repeats the code of the whole.
    """
    most = 0 if is_fused else max(map(len, looked.looks))
    codes = np.zeros((len(looked.features), 1 + most, len(layer.threshold) // 8), np.uint8)
    for image, own in enumerate(codes):
        views = looked.views(image)
        found = pack(layer.values(views.mean(0, keepdims=True) if is_fused else views))
        own[:] = found[0]
        own[: len(found)] = found
    return average_precision(levels_among(codes, labels, queries, database)).expected


def pointing_by_class(
    maps: NDArray[np.float32],
    boxes: Sequence[Boxes],
    images: NDArray[np.intp],
    as_published: bool = False,
) -> float:
    """Share of the classes in these images whose map is highest in one of their boxes.

    Args:
        maps: (n, classes, h, w).
        boxes: of the n images.
        images: positions of those that count.
        as_published: enlarge the maps first, and allow a distance of 3 % of the side, instead of
            taking the middle of the highest cell (Zhang et al., ECCV 2016).
    """
    shown, corners = [], []
    for image in images:
        for label in np.unique(boxes[image].labels):
            one = maps[image, label]
            shown.append(one - one.min() + 1)  # positive everywhere: it points somewhere
            corners.append(boxes[image].corners[boxes[image].labels == label])
    if not as_published:
        return pointing_game(np.array(shown), corners)
    enlarged = interpolate(
        torch.from_numpy(np.array(shown))[:, None], scale_factor=_ENLARGED, mode="bilinear"
    )
    return pointing_game(enlarged[:, 0].numpy(), corners, _TOLERANCE)
