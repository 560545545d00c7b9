"""Run many cases in child processes, and report crashes, hangs and memory growth with the seed.

A case is a function from a seed to a word for the summary.
"""

import argparse
import ctypes
import faulthandler
import gc
import multiprocessing
import os
import random
import resource
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait

Case = Callable[[int], str]

_WARM_CASES = 200
# A runaway allocation must end the case, not the machine.
_ADDRESS_SPACE = 8 << 30
_PAGE_MB = resource.getpagesize() / 2**20


class Violation(Exception):
    """A case that failed, with the seed that reproduces it."""


def run(
    make_case: Callable[[], Case],
    seeds: Sequence[int],
    *,
    jobs: int = 1,
    seconds: float = 20,
    peak_mb: float = 300,
    growth_mb: float = 40,
) -> Counter[str]:
    """Run a case for each seed.

    Args:
        make_case: called once in each child, returns the case; must be picklable.
        seeds: one for each case.
        jobs: number of child processes.
        seconds: time limit of a case.
        peak_mb: maximum growth of the peak resident memory by a single case.
        growth_mb: maximum growth of the resident memory by all cases after the first few.

    Returns:
        How often each word was returned.

    Raises:
        Violation: a case raised, crashed, hung, or used too much memory.
    """
    context = multiprocessing.get_context("spawn")
    words: Counter[str] = Counter()
    children = {}
    last: dict[Connection, int | None] = {}
    for job in range(jobs):
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(
            target=_child,
            args=(theirs, make_case, list(seeds[job::jobs]), seconds, peak_mb, growth_mb),
        )
        child.start()
        theirs.close()
        children[ours], last[ours] = child, None
    try:
        while children:
            for pipe in wait(list(children)):
                try:
                    kind, content = pipe.recv()
                except EOFError:
                    child = children.pop(pipe)
                    child.join()
                    if child.exitcode != 0:
                        raise Violation(
                            f"seed {last[pipe]}: the process ended with {child.exitcode}"
                            " (a hang where a stack was printed above)"
                        ) from None
                    continue
                if kind == "begin":
                    last[pipe] = content
                elif kind == "word":
                    words[content] += 1
                else:
                    raise Violation(f"seed {last[pipe]}: {content}")
    finally:
        for child in children.values():
            child.kill()
            child.join()
    return words


def _child(
    pipe: Connection,
    make_case: Callable[[], Case],
    seeds: list[int],
    seconds: float,
    peak_mb: float,
    growth_mb: float,
) -> None:
    # Hide what decoders print to stderr, but keep the stacks of faulthandler.
    stacks = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    faulthandler.enable(stacks)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, resource.RLIM_INFINITY))
    warnings.simplefilter("ignore")
    case = make_case()
    warm = _resident_mb()
    for done, seed in enumerate(seeds):
        pipe.send(("begin", seed))
        faulthandler.dump_traceback_later(seconds, exit=True, file=stacks)
        random.seed(seed)
        before = _peak_mb()
        try:
            word = case(seed)
        except BaseException:
            pipe.send(("violation", traceback.format_exc()))
            return
        faulthandler.cancel_dump_traceback_later()
        pipe.send(("word", word))
        peak = _peak_mb() - before
        if done > 0 and peak > peak_mb:
            pipe.send(("violation", f"took {peak:.0f} MB"))
            return
        if done == _WARM_CASES:
            warm = _resident_mb()
    grown = _resident_mb() - warm
    if len(seeds) > _WARM_CASES and grown > growth_mb:
        pipe.send(("violation", f"{len(seeds)} cases left {grown:.0f} MB behind"))


def _peak_mb() -> float:
    try:
        # Not getrusage: on Linux, a child's peak starts at its parent's.
        with open("/proc/self/status") as file:  # noqa: PTH123
            line = next(line for line in file if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _resident_mb() -> float:
    """Resident memory, after returning freed memory to the system if the C library can."""
    gc.collect()
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * _PAGE_MB
    except OSError:  # not Linux: use the peak instead
        return _peak_mb()


def main(
    description: str, count_name: str, default: int, work: Callable[[range, int], Counter[str]]
) -> int:
    """Run a script: parse the number of cases, the first seed and the number of processes.

    Prints one line; returns 1 after a violation, else 0.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(f"--{count_name}", type=int, default=default, dest="count")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first case; the others count up from it"
    )
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    try:
        words = work(seeds, arguments.jobs)
    except Violation as violation:
        print(f"VIOLATION: {violation}")
        return 1
    listed = ", ".join(f"{count} {word}" for word, count in sorted(words.items()))
    print(f"{words.total()} cases from seed {arguments.seed}: {listed}")
    return 0
