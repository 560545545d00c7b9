"""Measures every method on every protocol at every code length, over stored maps.

Each combination is a cell. Its figures are appended to a file, so that an interrupted run can be
resumed. tables.py makes tables of them.
"""

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from attention_hashing.config import Config
from attention_hashing.evaluation.code_statistics import code_statistics
from attention_hashing.evaluation.distance_counts import levels_among
from attention_hashing.evaluation.metrics import (
    average_precision,
    by_cosine,
    by_radius,
    mean_by_code,
)
from attention_hashing.experiments import baselines
from attention_hashing.experiments.run_log import Row, Rows, check_arguments
from attention_hashing.heads import Described, describe, fit_branch, fit_layer
from attention_hashing.methods import METHODS
from attention_hashing.network import HashLayer
from bitgaze.cores import available_cores
from bitgaze.hamming import pack

BASELINES = ("lsh", "pca-itq", "class-id", "float")
# Global features alone, as the methods were published; and together with the guided local ones.
FORMS = ("global", "guided")
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


@dataclass(frozen=True)
class Study:
    """A training set and the protocols to evaluate on.

    Attributes:
        name: of the training set and the backbone.
        maps: float16, (n, channels, h, w), the backbone's maps of all images.
        labels: int64, (n,).
        training: positions among the n.
        queries: positions among the n.
        databases: positions among the n, by protocol.
    """

    name: str
    maps: NDArray[np.float16]
    labels: NDArray[np.int64]
    training: NDArray[np.intp]
    queries: NDArray[np.intp]
    databases: dict[str, NDArray[np.intp]]

    @property
    def key(self) -> str:
        """The name, and 8 hex digits of a digest of labels and positions."""
        digest = hashlib.sha256(self.labels)
        for positions in (self.training, self.queries, *self.databases.values()):
            digest.update(positions.astype(np.int64))
        return f"{self.name}-{digest.hexdigest()[:8]}"

    def one_hot(self, positions: NDArray[np.intp]) -> NDArray[np.float32]:
        """Labels as methods take them; classes without training images have no column."""
        classes = np.unique(self.labels[self.training])
        return (self.labels[positions][:, None] == classes).astype(np.float32)


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

    Raises:
        ValueError: the folder contains results with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_arguments(folder, _RECIPE)
    rows = Rows(folder / "rows.jsonl")
    for study in studies:
        _held_out(study, folder)
        for seed in seeds:
            _described(study, seed, folder)
    learned = [name for name in methods if name in METHODS]
    tuned = [
        Cell(study.key, name, form, TUNED_AT_BITS, _DRAW)
        for study in studies
        for name in learned
        for form in FORMS
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
        for form in (FORMS if name in METHODS else FORMS[:1])
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
    one_hot = study.one_hot(study.training)
    held = np.random.default_rng(_DRAW).random(len(one_hot)) < _HELD_OUT

    def make() -> Described:
        maps = study.maps[study.training]
        return describe(maps, fit_branch(maps[~held], one_hot[~held], _BRANCH_EPOCHS, _DRAW))

    return _kept(folder / f"{study.key}-held-out.npz", make), one_hot, held


def _described(study: Study, seed: int, folder: Path) -> Described:
    """Describe all images by the branch of one seed."""

    def make() -> Described:
        training = study.maps[study.training]
        branch = fit_branch(training, study.one_hot(study.training), _BRANCH_EPOCHS, seed)
        return describe(study.maps, branch)

    return _kept(folder / f"{study.key}-{seed}.npz", make)


def _kept(path: Path, make: Callable[[], Described]) -> Described:
    if not path.exists():
        print(f"{path.stem}: training the branch and computing features", flush=True)
        draft = path.with_suffix(".part.npz")
        np.savez(draft, **make()._asdict())
        draft.replace(path)
    with np.load(path) as file:
        return Described(file["features"], file["logits"])


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
    bare = [
        Study(s.name, s.maps[:0], s.labels, s.training, s.queries, s.databases) for s in studies
    ]
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
    """The global half of the features, or all of them."""
    return features[:, : features.shape[1] // 2] if form == "global" else features


def _best_rate(cell: Cell, tried: dict[_OfRate, dict[float, float]]) -> list[Row]:
    """Find the learning rate with the best mAP on held-out images, each of which is a query."""
    study = _studies[cell.study]
    seen, one_hot, held = _held_out(study, _folder)
    features = _of_form(seen.features, cell.form)
    found = dict(tried.get(_of_rate(cell), {}))
    for rate in set(RATES) - set(found):
        method = METHODS[cell.method](one_hot.shape[1], cell.bits, cell.seed)
        layer = fit_layer(features[~held], one_hot[~held], method, _LAYER_EPOCHS, rate)
        codes = pack(layer.values(features[held]))
        labels = study.labels[study.training][held]
        found[rate] = mean_by_code(codes, labels, np.arange(len(codes)))
    return [{"kind": "rate", **cell._asdict(), "rate": _best(found), "held_out_map": found}]


def _measured(cell: Cell, rates: dict[_OfRate, float]) -> list[Row]:
    """Code all images, and measure the codes on each protocol of the study."""
    study, start = _studies[cell.study], time.perf_counter()
    seen = _features(cell.study, cell.seed)
    rate = rates.get(_of_rate(cell))
    if cell.method == "float":
        rows = [_of_float(study, name, seen) for name in study.databases]
    else:
        codes = pack(_values(study, cell, seen, rate))
        rows = [_of_codes(study, name, codes) for name in study.databases]
    seconds = round(time.perf_counter() - start, 2)
    return [
        {"kind": "cell", **cell._asdict(), "rate": rate, "seconds": seconds, **row} for row in rows
    ]


def _values(study: Study, cell: Cell, seen: Described, rate: float | None) -> NDArray[np.floating]:
    training = seen.features[study.training]
    if cell.method == "class-id":
        return baselines.class_id(seen.logits, cell.bits)
    features = _of_form(seen.features, cell.form)
    if cell.method in BASELINES:
        own = _of_form(training, cell.form)
        fit = (
            baselines.lsh(own, cell.bits, cell.seed)
            if cell.method == "lsh"
            else baselines.pca_itq(own, cell.bits)
        )
        weight, threshold = (part.astype(np.float32) for part in fit)
        return HashLayer(weight, threshold).values(features)
    assert rate is not None
    one_hot = study.one_hot(study.training)
    method = METHODS[cell.method](one_hot.shape[1], cell.bits, cell.seed)
    layer = fit_layer(_of_form(training, cell.form), one_hot, method, _LAYER_EPOCHS, rate)
    return layer.values(features)


def _of_codes(study: Study, protocol: str, codes: NDArray[np.uint8]) -> Row:
    database = study.databases[protocol]
    ranking = levels_among(codes, study.labels, study.queries, database)
    precision, ball = average_precision(ranking), by_radius(ranking)
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
