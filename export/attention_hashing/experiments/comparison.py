"""Measures every method on every protocol at every code length, over stored maps.

Each combination is a cell. Its figures are appended to a file, so that an interrupted run can be
resumed. tables.py makes tables of them.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from attention_hashing.attention import AttentionBranch
from attention_hashing.config import Config
from attention_hashing.data.labels import Labels
from attention_hashing.evaluation.code_statistics import code_statistics
from attention_hashing.evaluation.distance_counts import levels_among
from attention_hashing.evaluation.metrics import (
    average_precision,
    by_cosine,
    by_radius,
    mean_by_code,
)
from attention_hashing.experiments import baselines
from attention_hashing.experiments.look_training import batches, look_maps
from attention_hashing.experiments.run_log import Row, Rows, check_arguments
from attention_hashing.features import FeatureExtractor
from attention_hashing.heads import Described, describe, fit_branch, fit_layer
from attention_hashing.looking import RULE, evidence, explicit, labels_of_looks
from attention_hashing.methods import METHODS
from attention_hashing.network import HashLayer
from bitgaze.cores import available_cores
from bitgaze.encoding.images import Source
from bitgaze.hamming import pack

BASELINES = ("lsh", "pca-itq", "class-id", "float")
# Global features alone, as the methods were published; together with the guided local ones; and
# global features of the image and of looks at its likely classes, each with a code of its own.
FORMS = ("global", "guided")
LOOKS = "looks"
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
RADIUS = 2
TUNED_AT_BITS = 32
_HELD_OUT = 0.1
_BRANCH_EPOCHS = 6
_LAYER_EPOCHS = 30
_DRAW = 0  # seed for the training images that learning rates are chosen on
# Settings that rows and features depend on, but that are in no key.
_RECIPE = {
    "branch epochs": _BRANCH_EPOCHS,
    "hidden channels": Config.hidden,
    "layer epochs": _LAYER_EPOCHS,
    "held-out share": _HELD_OUT,
    "bits that rates are chosen at": TUNED_AT_BITS,
}
_LOOKS_RECIPE = {"labels of looks": "their own, and those seen in them"}


@dataclass(frozen=True)
class Study:
    """A training set and the protocols to evaluate on.

    Attributes:
        name: of the training set and the backbone.
        maps: float16, (n, channels, h, w), the backbone's maps of all images.
        labels: of the n images.
        training: positions among the n.
        queries: positions among the n.
        databases: positions among the n, by protocol.
        looks: largest number of looks at an image; 0 leaves out the form with looks.
        images: the n images, and `extract`, which made their maps; only looks require them.
        extract: of whole maps.
    """

    name: str
    maps: NDArray[np.float16]
    labels: Labels
    training: NDArray[np.intp]
    queries: NDArray[np.intp]
    databases: dict[str, NDArray[np.intp]]
    looks: int = 0
    images: Sequence[Source] | NDArray[np.uint8] = ()
    extract: FeatureExtractor | None = None

    @property
    def key(self) -> str:
        """The name, and 8 hex digits of a digest of labels and positions."""
        digest = hashlib.sha256(self.labels)
        for positions in (self.training, self.queries, *self.databases.values()):
            digest.update(positions.astype(np.int64))
        return f"{self.name}-{digest.hexdigest()[:8]}"

    @property
    def forms(self) -> tuple[str, ...]:
        """What methods are trained on."""
        return (*FORMS, LOOKS) if self.looks else FORMS

    def one_hot(self, positions: NDArray[np.intp]) -> NDArray[np.float32]:
        """Labels as methods take them; classes without training images have no column."""
        if self.labels.ndim == 2:
            used = self.labels[self.training].any(0)
            return self.labels[positions][:, used].astype(np.float32)
        classes = np.unique(self.labels[self.training])
        return (self.labels[positions][:, None] == classes).astype(np.float32)


class Looks(NamedTuple):
    """Looks at the images of a study.

    Attributes:
        features: float32, (k, channels), global.
        images: int64, (k,), ascending: the position of the image of each.
        labels: int64, (k,), its class, a column of `Study.one_hot`; -1 for none.
        probability: float32, (k, classes), of the classes in it, as the branch sees them.
    """

    features: NDArray[np.float32]
    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    probability: NDArray[np.float32]


class Cell(NamedTuple):
    """The settings of one training; all protocols of its study are measured on the same codes."""

    study: str
    method: str
    form: str
    bits: int
    seed: int


# Learning rates are chosen by study, method and form.
_OfRate = tuple[str, str, str]


def _of_rate(cell: Cell) -> _OfRate:
    return cell.study, cell.method, cell.form


def run(
    studies: list[Study],
    methods: list[str],
    bits: list[int],
    seeds: list[int],
    folder: Path,
    forms: Callable[[Study, str], tuple[str, ...]] = lambda study, method: study.forms,
) -> list[Row]:
    """Measure the rows that are missing in the folder, and return all of them.

    There are three steps: train the branch of each study and seed, and compute features of all
    maps; choose each method's learning rate by mAP on held-out training images; measure every cell
    at that rate. In the last two, one cell runs per core.

    Args:
        studies: to train and evaluate on.
        methods: names in METHODS or BASELINES.
        bits: lengths of the code.
        seeds: of branches and layers.
        folder: for rows and features.
        forms: what a method of METHODS is trained on in a study.

    Raises:
        ValueError: the folder contains results with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    most = max((study.looks for study in studies), default=0)
    check_arguments(folder, _RECIPE | (_LOOKS_RECIPE | {"looks": most} if most else {}))
    rows = Rows(folder / "rows.jsonl")
    for study in studies:
        _held_out(study, folder)
        for seed in seeds:
            _described(study, seed, folder)
        if study.looks:
            for one in (None, *seeds):
                _looked(study, one, folder)
    learned = [name for name in methods if name in METHODS]
    tuned = [
        Cell(study.key, name, form, TUNED_AT_BITS, _DRAW)
        for study in studies
        for name in learned
        for form in forms(study, name)
    ]
    tried = _tried(rows)
    untried = [one for one in tuned if not set(RATES) <= set(tried.get(_of_rate(one), ()))]
    _in_parallel(_best_rate, untried, (tried,), studies, folder, rows, "learning rates")
    tried = _tried(rows)
    rates = {_of_rate(one): _best(tried[_of_rate(one)]) for one in tuned}
    cells = [
        Cell(study.key, name, form, length, seed)
        for study in studies
        for name in methods
        for form in (forms(study, name) if name in METHODS else FORMS[:1])
        for length in (bits if name != "float" else [0])
        for seed in (seeds if name in METHODS or name in ("lsh", "class-id") else seeds[:1])
    ]
    protocols = {study.key: study.databases for study in studies}
    requested = [(cell, name) for cell in cells for name in protocols[cell.study]]
    done = _by_cell(rows, rates)
    missing = dict.fromkeys(cell for cell, name in requested if (cell, name) not in done)
    _in_parallel(_measured, list(missing), (rates,), studies, folder, rows, "cells")
    done = _by_cell(rows, rates)
    return [done[one] for one in dict.fromkeys(requested)]


def _tried(rows: Rows) -> dict[_OfRate, dict[float, float]]:
    """The mAP on held-out images, by learning rate."""
    return {
        (row["study"], row["method"], row["form"]): {
            float(rate): found for rate, found in row["held_out_map"].items()
        }
        for row in rows.of("rate")
    }


def _best(tried: dict[float, float]) -> float:
    return max(set(RATES) & set(tried), key=lambda rate: (tried[rate], -rate))


def _by_cell(rows: Rows, rates: dict[_OfRate, float]) -> dict[tuple[Cell, str], Row]:
    """The rows made at these rates, by cell and protocol.

    If a run was killed between the protocols of a cell, the cell is measured again.
    """
    found = {}
    for row in rows.of("cell"):
        cell = Cell(*(row[name] for name in Cell._fields))
        if row["rate"] == rates.get(_of_rate(cell)):
            found[cell, row["protocol"]] = row
    return found


def _held_out(
    study: Study, folder: Path
) -> tuple[Described, NDArray[np.float32], NDArray[np.bool_]]:
    """Describe the training images by a branch that was not trained on the held-out ones.

    Returns:
        Its output, labels as `Study.one_hot`, and which images are held out, bool (n,).
    """
    held = _held(study)

    def make() -> Described:
        return describe(study.maps[study.training], _branch(study, None))

    seen = _kept(folder / f"{study.key}-held-out.npz", Described, make)
    return seen, study.one_hot(study.training), held


def _held(study: Study) -> NDArray[np.bool_]:
    """Which of the training images are held out."""
    return np.random.default_rng(_DRAW).random(len(study.training)) < _HELD_OUT


def _branch(study: Study, seed: int | None) -> AttentionBranch:
    """The branch of one seed; None for that which has not seen the held-out images."""
    chosen = study.training if seed is not None else study.training[~_held(study)]
    one_hot = study.one_hot(chosen)
    return fit_branch(study.maps[chosen], one_hot, _BRANCH_EPOCHS, _DRAW if seed is None else seed)


def _described(study: Study, seed: int, folder: Path) -> Described:
    """Describe all images by the branch of one seed."""

    def make() -> Described:
        return describe(study.maps, _branch(study, seed))

    return _kept(folder / f"{study.key}-{seed}.npz", Described, make)


def _looked(study: Study, seed: int | None, folder: Path) -> Looks:
    """Look at all images by the branch of one seed; None: at the training images, held out or not.

    Where labels are known, looks are for them: all training images, or those not held out.
    """

    def make() -> Looks:
        assert study.extract is not None
        chosen, known = np.arange(len(study.labels)), study.training
        if seed is None:
            chosen, known = study.training, np.flatnonzero(~_held(study))
        rule = replace(RULE, most=study.looks)
        branch = _branch(study, seed)
        seen = evidence(batches(study.maps[chosen]), branch)
        places = explicit(seen, study.one_hot(chosen), known, rule)
        features, probability = [], []
        for one in look_maps(study.extract, [study.images[at] for at in chosen], places):
            features.append(one.mean((1, 2)))
            probability.append(evidence([torch.from_numpy(one)[None]], branch).probability[0])
        return Looks(
            np.array(features),
            np.repeat(np.arange(len(chosen)), [len(some) for some in places]),
            np.array([one.label for some in places for one in some], np.int64),
            np.array(probability),
        )

    name = "held-out" if seed is None else seed
    return _kept(folder / f"{study.key}-{name}-looks-{study.looks}.npz", Looks, make)


_Kept = TypeVar("_Kept", Described, Looks)


def _kept(path: Path, kind: type[_Kept], make: Callable[[], _Kept]) -> _Kept:
    if not path.exists():
        print(f"{path.stem}: training the branch and computing features", flush=True)
        draft = path.with_suffix(".part.npz")
        np.savez(draft, **make()._asdict())
        draft.replace(path)
    with np.load(path) as file:
        return kind(**file)


def _in_parallel(
    work: Callable[..., list[Row]],
    cells: list[Cell],
    more: tuple[Any, ...],
    studies: list[Study],
    folder: Path,
    rows: Rows,
    what: str,
) -> None:
    """Run each cell in a process, and store rows as they arrive."""
    cores = available_cores()
    bare = [replace(study, maps=study.maps[:0], images=(), extract=None) for study in studies]
    with ProcessPoolExecutor(cores, get_context("spawn"), _start, (bare, folder)) as pool:
        futures = [pool.submit(work, cell, *more) for cell in cells]
        try:
            for future in tqdm(as_completed(futures), what, len(futures), unit="cell"):
                rows.add(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_studies: dict[str, Study] = {}
_folder = Path()


def _start(studies: list[Study], folder: Path) -> None:
    global _folder  # noqa: PLW0603 - the only place for the state of a worker process
    _folder = folder
    _studies.update({study.key: study for study in studies})
    torch.set_num_threads(1)


@lru_cache(maxsize=2)
def _features(study: str, seed: int) -> Described:
    """Cached in float32: converting takes as long as measuring a cell."""
    found = _described(_studies[study], seed, _folder)
    return Described(found.features.astype(np.float32), found.logits)


def _of_form(features: NDArray[np.floating], form: str) -> NDArray[np.floating]:
    """All features, or their global half."""
    return features if form == "guided" else features[:, : features.shape[1] // 2]


def _and_looks(
    features: NDArray[np.floating],
    one_hot: NDArray[np.float32],
    looks: Looks,
    chosen: NDArray[np.bool_],
) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
    """Features and labels of the chosen images, then of looks at them."""
    own = chosen[looks.images]
    labels = [one_hot[chosen]]
    for image in np.flatnonzero(chosen):
        first, last = np.searchsorted(looks.images, (image, image + 1))
        of_looks = labels_of_looks(
            looks.labels[first:last], one_hot[image] > 0, looks.probability[first:last]
        )
        labels.append(of_looks.astype(np.float32))
    return np.concatenate([features[chosen], looks.features[own]]), np.concatenate(labels)


def _views(
    codes: NDArray[np.uint8], codes_of_looks: NDArray[np.uint8], looks: Looks, most: int
) -> NDArray[np.uint8]:
    """Codes (n, 1 + most, bits // 8); an image with fewer looks repeats its own."""
    views = np.repeat(codes[:, None], 1 + most, axis=1)
    number = np.arange(len(looks.images)) - np.searchsorted(looks.images, looks.images)
    views[looks.images, 1 + number] = codes_of_looks
    return views


def _best_rate(cell: Cell, tried: dict[_OfRate, dict[float, float]]) -> list[Row]:
    """Find the learning rate with the best mAP on held-out images, each of which is a query."""
    study = _studies[cell.study]
    seen, one_hot, held = _held_out(study, _folder)
    features = _of_form(seen.features, cell.form)
    looks = _looked(study, None, _folder) if cell.form == LOOKS else None
    training = features[~held], one_hot[~held]
    if looks is not None:
        training = _and_looks(features, one_hot, looks, ~held)
    labels = study.labels[study.training][held]
    found = dict(tried.get(_of_rate(cell), {}))
    for rate in set(RATES) - set(found):
        method = METHODS[cell.method](one_hot.shape[1], cell.bits, cell.seed)
        layer = fit_layer(*training, method, _LAYER_EPOCHS, rate)
        codes = pack(layer.values(features))
        if looks is not None:
            codes = _views(codes, pack(layer.values(looks.features)), looks, study.looks)
        found[rate] = mean_by_code(codes[held], labels, np.arange(len(labels)))
    return [{"kind": "rate", **cell._asdict(), "rate": _best(found), "held_out_map": found}]


def _measured(cell: Cell, rates: dict[_OfRate, float]) -> list[Row]:
    """Code all images, and measure the codes on each protocol of the study."""
    study, start = _studies[cell.study], time.perf_counter()
    seen = _features(cell.study, cell.seed)
    rate = rates.get(_of_rate(cell))
    if cell.method == "float":
        rows = [_of_float(study, name, seen) for name in study.databases]
    else:
        codes, views = _coded(study, cell, seen, rate)
        rows = [_of_codes(study, name, codes, views) for name in study.databases]
    seconds = round(time.perf_counter() - start, 2)
    return [
        {"kind": "cell", **cell._asdict(), "rate": rate, "seconds": seconds, **row} for row in rows
    ]


def _coded(
    study: Study, cell: Cell, seen: Described, rate: float | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Codes of all images, and with looks all codes of each: (n, bits // 8), (n, views, ...)."""
    training = seen.features[study.training]
    if cell.method == "class-id":
        return pack(baselines.class_id(seen.logits, cell.bits)), None
    features = _of_form(seen.features, cell.form)
    if cell.method in BASELINES:
        own = _of_form(training, cell.form)
        fit = (
            baselines.lsh(own, cell.bits, cell.seed)
            if cell.method == "lsh"
            else baselines.pca_itq(own, cell.bits)
        )
        weight, threshold = (part.astype(np.float32) for part in fit)
        return pack(HashLayer(weight, threshold).values(features)), None
    assert rate is not None
    one_hot = study.one_hot(study.training)
    method = METHODS[cell.method](one_hot.shape[1], cell.bits, cell.seed)
    if cell.form != LOOKS:
        layer = fit_layer(_of_form(training, cell.form), one_hot, method, _LAYER_EPOCHS, rate)
        return pack(layer.values(features)), None
    looks = _looked(study, cell.seed, _folder)
    every = np.arange(len(study.labels))
    chosen = np.isin(every, study.training)
    shown = _and_looks(features, study.one_hot(every), looks, chosen)
    layer = fit_layer(*shown, method, _LAYER_EPOCHS, rate)
    codes = pack(layer.values(features))
    return codes, _views(codes, pack(layer.values(looks.features)), looks, study.looks)


def _of_codes(
    study: Study, protocol: str, codes: NDArray[np.uint8], views: NDArray[np.uint8] | None
) -> Row:
    """Figures of the codes; if images have several, mAP is that of a search by all of them."""
    database = study.databases[protocol]
    ranking = levels_among(codes, study.labels, study.queries, database)
    ball = by_radius(ranking)
    if views is not None:
        ranking = levels_among(views, study.labels, study.queries, database)
    precision = average_precision(ranking)
    return {
        "protocol": protocol,
        "map": float(precision.expected.mean()),
        "map_worst": float(precision.worst.mean()),
        "map_best": float(precision.best.mean()),
        "precision_within_radius": float(ball.precision[RADIUS]),
        "empty_balls": float(ball.empty[RADIUS]),
        "unique": code_statistics(codes[database]).unique,
        "queries": [round(float(one), 5) for one in precision.expected],
    }


def _of_float(study: Study, protocol: str, seen: Described) -> Row:
    """Rank by cosine of the global features: there are no ties except between equal images."""
    values = _of_form(seen.features, "global")
    scores = by_cosine(values, study.labels, study.queries, study.databases[protocol])
    mean = float(scores.mean())
    means = {"map": mean, "map_worst": mean, "map_best": mean}
    return {"protocol": protocol, **means, "queries": [round(float(one), 5) for one in scores]}
