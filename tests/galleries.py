"""Helpers for tests of galleries: items to store, and changes behind a gallery's back."""

import multiprocessing
import os
import sqlite3
from contextlib import closing

import numpy as np

from bitgaze import Item
from bitgaze.encoding.calibration import Calibration, false_match_rates, probabilities

BITS = 128


def codes(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, BITS // 8), dtype=np.uint8)


def items(count, seed=0):
    return [Item(f"item {i}", code, {"i": i}) for i, code in enumerate(codes(count, seed))]


def calibrate(duplicates, kinds, unrelated, bits):
    """A calibration from the distances of pairs whose relation is known; kinds may be empty."""
    return Calibration(
        probabilities(duplicates, unrelated, bits),
        probabilities(kinds, unrelated, bits) if len(kinds) else (),
        false_match_rates(unrelated, bits),
    )


def execute(path, *statements):
    """Run SQL on a gallery's file."""
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def run_processes(target, *arguments):
    """Call a function in one process for each tuple of arguments, all at the same time."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=args) for args in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def touch(path):
    """Advance a file's modification time by a second, as an edit would."""
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000_000))
