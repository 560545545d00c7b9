"""Target codes of classes: distinct rows of -1 and 1, float32 (classes, bits).

For any number of bits, and for up to 2^bits classes.
"""

import math

import torch
from torch import Tensor

_CSQ_TRIES = 5  # more would take seconds for thousands of classes
_CANDIDATES = 256
_ROUNDS = 3  # of `splits`; further ones change little
_MOST_SPLIT = 128  # classes; with more, random columns are as good, and take seconds


def coins(classes: int, bits: int, seed: int) -> Tensor:
    """Independent fair coins, nearly orthogonal in expectation; duplicates are redrawn.

    Raises:
        ValueError: there are more classes than codes.
    """
    _check(classes, bits)
    return _completed(torch.empty(0, bits), classes, seed)


def hadamard(classes: int, bits: int, seed: int) -> Tensor:
    """CSQ's centres: rows of a Hadamard matrix and of its negative, then coins.

    If bits is a power of two, the rows of Sylvester's matrix and their negatives come first: 2 bits
    rows, each two at least bits / 2 apart. Further classes, and all classes for other numbers of
    bits, get coins, from the best of 5 draws: the one with the largest minimal distance.

    Raises:
        ValueError: there are more classes than codes.
    """
    _check(classes, bits)
    fixed = torch.empty(0, bits)
    if bits & (bits - 1) == 0:
        rows = torch.ones(1, 1)
        while len(rows) < bits:
            rows = torch.cat([torch.cat([rows, rows], 1), torch.cat([rows, -rows], 1)])
        fixed = torch.cat([rows, -rows])[:classes]
    if len(fixed) == classes:
        return fixed
    seeds = torch.randint(2**31, (_CSQ_TRIES,), generator=torch.Generator().manual_seed(seed))
    tries = [_completed(fixed, classes, int(one)) for one in seeds]
    return max(tries, key=least_distance)


def separated(classes: int, bits: int, seed: int) -> Tensor:
    """MDSH's centres: at least `separation` apart, and as balanced as that allows.

    Rows are drawn one by one, at random among the codes far enough from all previous rows; by
    Gilbert's proof there always is one. Then entries are flipped where this balances a bit and
    keeps all rows far enough apart: the sum of all distances is largest if every bit is balanced.

    Raises:
        ValueError: there are more classes than codes.
    """
    apart = separation(classes, bits)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.empty(0, bits)
    while len(rows) < classes:
        draws = torch.randint(0, 2, (_CANDIDATES, bits), generator=generator) * 2.0 - 1
        for draw in draws[(_distances(draws, rows) >= apart).all(1)]:
            if len(rows) < classes and (_distances(draw[None], rows) >= apart).all():
                rows = torch.cat([rows, draw[None]])
    return _balanced(rows, apart, generator)


def splits(classes: int, bits: int, seed: int) -> Tensor:
    """Targets whose bits split the classes in halves, each bit in another way.

    In a Hadamard matrix of 64 rows, the first 10 have only 16 different columns, one of them
    constant. Here every column is balanced, and each in turn is replaced by that of 256 random ones
    which has the least sum of fourth powers of its products with the others, as long as no two rows
    come closer than the closest two are. It starts with `separated`. With few classes all rows end
    up about equally far apart: 34 to 37 of 64 bits for 10 classes. More than 128 classes stay as
    `separated`.

    Raises:
        ValueError: there are more classes than codes.
    """
    rows = separated(classes, bits, seed)
    if classes > _MOST_SPLIT:
        return rows
    generator = torch.Generator().manual_seed(seed)
    half = torch.ones(classes)
    half[: classes // 2] = -1
    least = least_distance(rows)
    for bit in [*range(bits)] * _ROUNDS:
        draws = half[torch.rand(_CANDIDATES, classes, generator=generator).argsort(1)]
        columns = torch.cat([rows[:, bit][None], draws])
        products = columns @ rows / classes
        products[:, bit] = 0
        best = int(products.pow(4).sum(1).argmin())
        if not best:
            continue
        changed = rows.clone()
        changed[:, bit] = columns[best]
        if (distance := least_distance(changed)) >= least:
            rows, least = changed, distance
    return rows


def separation(classes: int, bits: int) -> int:
    """The Gilbert-Varshamov distance: the largest d with sum_{i<d} C(bits, i) <= 2^bits / classes.

    One code per class, each two at least d bits apart, are guaranteed to exist.

    Raises:
        ValueError: there are more classes than codes.
    """
    _check(classes, bits)
    ball, distance = 1, 1  # codes closer than distance to a given one
    while distance < bits and classes * (ball + math.comb(bits, distance)) <= 2**bits:
        ball += math.comb(bits, distance)
        distance += 1
    return distance


def least_distance(rows: Tensor) -> int:
    """Smallest Hamming distance between two rows; the number of bits for a single row."""
    upper = torch.triu(torch.ones(len(rows), len(rows), dtype=torch.bool), 1)
    distances = _distances(rows, rows)[upper]
    return int(distances.min()) if len(distances) else rows.shape[1]


def of_images(labels: Tensor, targets: Tensor, ties: Tensor) -> Tensor:
    """The target of each image: bit by bit the majority of its labels' targets.

    Args:
        labels: (B, classes), 1 for each label of an image, otherwise 0.
        targets: (classes, bits).
        ties: (bits,), -1 or 1, used where the vote is tied.

    Returns:
        (B, bits), -1 or 1.
    """
    votes = labels @ targets
    return torch.where(votes == 0, ties, votes.sign())


def _check(classes: int, bits: int) -> None:
    if classes > 2**bits:
        raise ValueError(f"{classes} classes do not fit {bits} bits")


def _distances(rows: Tensor, others: Tensor) -> Tensor:
    return (rows.shape[1] - rows @ others.T) / 2  # exact: small integers


def _completed(fixed: Tensor, classes: int, seed: int) -> Tensor:
    """Fixed rows followed by coins; duplicates are redrawn."""
    generator = torch.Generator().manual_seed(seed)
    rows = dict.fromkeys(map(tuple, fixed.tolist()))
    while len(rows) < classes:
        draw = torch.randint(0, 2, (fixed.shape[1],), generator=generator)
        rows[tuple((2.0 * draw - 1).tolist())] = None
    return torch.tensor(list(rows), dtype=torch.float32)


def _balanced(rows: Tensor, apart: int, generator: torch.Generator) -> Tensor:
    rows = rows.clone()
    distances = _distances(rows, rows).fill_diagonal_(torch.inf)
    for bit in range(rows.shape[1]):
        for one in torch.randperm(len(rows), generator=generator).tolist():
            excess = rows[:, bit].sum()
            if abs(excess) < 2:
                break
            if rows[one, bit] != excess.sign():
                continue
            # A flip moves the row away from rows that agree in this bit, closer to the others.
            change = rows[:, bit] * rows[one, bit]
            if (distances[one] + change >= apart).all():
                rows[one, bit] *= -1
                distances[one] += change
                distances[:, one] = distances[one]
    return rows
