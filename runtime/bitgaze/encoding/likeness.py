"""Whether two images are one image, altered: what two distances say together.

The structural code (structure.py) settles what was resized, compressed, recoloured or blurred; the
semantic code of the model supports it where a crop or caption moved the structure. What was cropped
further, bordered, mirrored or turned is a part of the other image (parts.py). None is believed by
itself where everything around looks alike: see `Surroundings`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitgaze.encoding.parts import agreements

# Two codes with 128 of 256 bits set at random differ in 128 bits; standard deviation 8.02.
_TYPICAL, _LEAST_TYPICAL = 128.0, 64.0
# Three quarters of normally distributed distances are below the mean and 0.674 deviations.
_QUARTILE, _QUARTILE_OFFSET = 0.75, 0.674 * 8
_FEWEST = 4  # hits, to say anything of the surroundings
# Structural distance up to which two images are the same, whatever else is known. Of 500,000 pairs
# of one shop's receipts none is within 16.
SETTLED = 16
# Structural distance beyond which two images are not compared as wholes, but only by parts.
MOST_MOVED = 60
# Numbers of nearest hits that are looked at by themselves: a dozen receipts among photographs.
_NEAREST = (8, 16, 50)
# A gallery of a few images is often of one thing.
_LEAST_ITEMS = 300
# Parts of different photographs: three quarters of the nearest hits agree better than this. Of
# hits, one in four may be no copy.
_USUAL_AGREEMENT, _AGREEMENT_QUARTILE = 3.6, 0.25
_NEAR_MEANING = 0.1
# Nearest hits of which parts are compared: each takes 0.4 ms.
PARTS_COMPARED = 16
# From this probability on, an image is called a copy.
COPY = 0.9
# Images that are parts of each other by their codes are compared by their pixels, from this
# probability on: at most four of the hits, each of which takes up to 50 ms.
WORTH_READING, _MOST_READ = 0.1, 4
# What is said if their pixels agree, and at most if they cannot be read.
_SEEN, _MOST_UNREAD = 0.99, 0.89


@dataclass(frozen=True)
class Surroundings:
    """How far the images around a query are from it: what a distance is compared with.

    Receipts are as near to each other as crops of a photograph to the photograph, by both codes.

    Attributes:
        structural: typical structural distance of its hits that are no copies, 64 to 128.
        semantic: typical semantic distance of its hits, as a share of the code's bits.
        agreement: typical agreement of the best parts of its nearest hits with it, see
            `bitgaze.encoding.parts`: 3.6 or more.
    """

    structural: float = _TYPICAL
    semantic: float = 0.5
    agreement: float = _USUAL_AGREEMENT


@dataclass(frozen=True)
class StructuralLaw:
    """How frequent structural distances are, of copies and of different images.

    Those of different images are normally distributed around what is usual; `related` of them
    around a nearer and wider mean (one scene twice, one kind of garment). Of copies, `settled`
    hardly moved (an exponential distribution), the others to anywhere. Set by hand with
    copies of photographs and groceries, more carefully than the most likely constants, so that in
    catalogues without copies, clothes too, at most 1 % of the best hits reach .9. Checked on other
    images by export/copies_table.py.

    Attributes:
        deviation: standard deviation of different images, in bits.
        related: share of different images that are related.
        nearer: how much nearer these are, in bits.
        related_deviation: their standard deviation, in bits.
        settled: share of copies that are settled.
        settled_scale: their mean distance, in bits.
        moved: density of other copies, per bit.
        sharpness: what the logarithm of the odds is multiplied by, as in Platt scaling (1999):
            most galleries are not as full of related images as `related` has it.
    """

    deviation: float = 9.0
    related: float = 1 / 300
    nearer: float = 24.0
    related_deviation: float = 17.0
    settled: float = 0.6
    settled_scale: float = 4.0
    moved: float = 0.005
    sharpness: float = 2.0


@dataclass(frozen=True)
class SemanticEvidence:
    """What a semantic distance says of copies, as opposed to images of the same kind.

    A logarithm of odds that falls in a line, within limits. It differs between models; the values
    are those of the model that ships. `limit` 0 is for a model whose distances of copies are not
    known.

    Attributes:
        middle: distance at which copies are as frequent as others, as a share of the bits.
        slope: decrease of the logarithm per share of the bits.
        limit: the largest logarithm, >= 0; the smallest is two thirds of it, negative, of settled
            copies: blur hardly changes the structure, but the meaning. Beyond 16 bits of structural
            distance it falls by the limit a bit: what is cropped keeps its meaning.
    """

    middle: float = 0.15
    slope: float = 45.0
    limit: float = 3.0


@dataclass(frozen=True)
class PartLaw:
    """What the agreement of parts says of copies, as the logarithm of odds.

    Set by hand like those of `StructuralLaw`, starting from the most likely ones: with searches for
    2,000 copies of photographs, groceries and generated screens, and in catalogues without copies.

    Attributes:
        middle: excess over the usual agreement at which copies are as frequent as others, of the
            hit that is next in meaning, at a share of .1 of the bits.
        slope: increase per standard deviation of excess.
        spread: how much less each of these counts, per standard deviation by which the usual
            agreement exceeds that of photographs.
        meaning: decrease per share of the bits by which meanings differ.
        rank: decrease per logarithm of one and the number of hits that are nearer in meaning.
        unknown: share of the bits that is assumed, at least, of models whose distances of copies
            are not known.
    """

    middle: float = 3.6
    slope: float = 4.0
    spread: float = 0.2
    meaning: float = 20.0
    rank: float = 1.4
    unknown: float = 0.3


def surroundings(
    structural: ArrayLike, semantic: ArrayLike, bits: int, agreement: ArrayLike = ()
) -> Surroundings:
    """Describe a query's surroundings by its nearest hits.

    Of the 8, 16 and 50 nearest that are no settled copies, those say what is usual that are
    nearest themselves; of each, three in four may be copies.

    Args:
        structural: integers, shape (k,): structural distances of the k hits that are semantically
            nearest and have a structural code. 50 suffice.
        semantic: integers, shape (k,): their semantic distances.
        bits: length of the semantic code.
        agreement: shape (m,), m <= k: agreements of parts of those of the hits that are
            semantically nearest, nearest first; empty if not known.

    Returns:
        The surroundings; those of unrelated photographs if k < 4.
    """
    by_meaning = np.argsort(np.asarray(semantic), kind="stable")
    distances = np.asarray(structural)[by_meaning], np.asarray(semantic)[by_meaning]
    different = distances[0] > SETTLED
    distances = distances[0][different], distances[1][different]
    if len(distances[0]) < _FEWEST:
        return Surroundings()
    usual, share = (
        min(float(np.quantile(found[:number], _QUARTILE)) for number in _NEAREST)
        for found in distances
    )
    usual = min(max(usual - _QUARTILE_OFFSET, _LEAST_TYPICAL), _TYPICAL)
    of_parts = np.asarray(agreement, np.float64)
    of_parts = of_parts[different[: len(of_parts)]]
    parts = [_USUAL_AGREEMENT]
    if len(of_parts) >= _FEWEST:
        parts += [float(np.quantile(of_parts[:number], _AGREEMENT_QUARTILE)) for number in _NEAREST]
    return Surroundings(usual, share / bits, max(parts))


def chances(
    code: NDArray[np.uint8],
    codes: NDArray[np.uint8],
    semantic: ArrayLike,
    bits: int,
    items: int,
    evidence: SemanticEvidence = SemanticEvidence(),
    nearer: ArrayLike | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probability that images found in a search are the query, altered, and that one is a part.

    Parts are compared of the 16 that are semantically nearest.

    Args:
        code: structural code of the query, uint8, shape (32,), not zero.
        codes: structural codes of the hits, uint8, shape (k, 32), none of them zero. They have to
            contain the 50 that are semantically nearest, which say what is usual.
        semantic: integers in 0..bits, shape (k,): their semantic distances.
        bits: length of the semantic code.
        items: number of images in the gallery.
        evidence: of the model.
        nearer: shape (k,): how many images of the gallery are semantically nearer than each hit; by
            default as many as there are among the hits.

    Returns:
        `same_image`, 0 beyond 60 bits of structural distance, and `same_part`, 0 where parts are
        not compared: float64, shape (k,), in [0, 1].
    """
    meanings = np.asarray(semantic)
    order = np.argsort(meanings, kind="stable")[:PARTS_COMPARED]
    agreement = agreements(code, codes[order], turned=True)
    structural = np.unpackbits(codes ^ code, axis=1).sum(axis=1, dtype=np.int64)
    around = surroundings(structural, meanings, bits, agreement)
    found = same_image(structural, meanings, bits, items, around, evidence)
    found[structural > MOST_MOVED] = 0
    if nearer is None:
        nearer = np.searchsorted(np.sort(meanings), meanings)
    before = np.asarray(nearer)[order]
    parts = np.zeros_like(found)
    parts[order] = same_part(agreement, meanings[order], bits, before, around, evidence)
    return found, parts


def chances_inside(
    code: NDArray[np.uint8],
    codes: NDArray[np.uint8],
    semantic: ArrayLike,
    bits: int,
    items: int,
    evidence: SemanticEvidence = SemanticEvidence(),
) -> NDArray[np.float64]:
    """Probability that what is inside the query's frame is one of the images found, altered.

    Meanings were compared of all of the query, with its frame, so they say little for a copy; the
    structure has to settle it.

    Args:
        code: structural code of what is inside, uint8, shape (32,), not zero.
        codes: as for `chances`.
        semantic: as for `chances`.
        bits: length of the semantic code.
        items: number of images in the gallery, times two: whole and inside are compared.
        evidence: of the model.

    Returns:
        float64, shape (k,), in [0, 1], 0 beyond 16 bits of structural distance.
    """
    meanings = np.asarray(semantic)
    structural = np.unpackbits(codes ^ code, axis=1).sum(axis=1, dtype=np.int64)
    around = surroundings(structural, meanings, bits)
    found = same_image(structural, meanings, bits, items, around, evidence)
    found[structural > SETTLED] = 0
    return found


def same_image(
    structural: ArrayLike,
    semantic: ArrayLike,
    bits: int,
    items: int,
    around: Surroundings = Surroundings(),
    evidence: SemanticEvidence = SemanticEvidence(),
    law: StructuralLaw = StructuralLaw(),
) -> NDArray[np.float64]:
    """Probability that images found in a search are the query, altered.

    Bayes' rule: the gallery is assumed to contain one copy of every second query, and at least 300
    items. Below the distances that were counted, the law of different images is extrapolated: of
    380 million pairs of photographs and drawings none is within 24 but the same image twice, of
    500,000 pairs of one shop's receipts 3 are within 20 and none within 16.

    Args:
        structural: integers in 0..256, shape (n,): structural distances. Of pairs that both have a
            structural code; of others the probability is unknown.
        semantic: integers in 0..bits, shape (n,): semantic distances of the same pairs.
        bits: length of the semantic code.
        items: number of images that were compared with the query, times the number of versions of
            the query (mirrored, turned, cropped) of which the nearest was taken.
        around: of the query.
        evidence: of the model.
        law: of structural distances.

    Returns:
        float64, shape (n,), in [0, 1]. Never rises with either distance, nor with `items`.
    """
    distance = np.minimum(np.asarray(structural, np.float64), around.structural)
    share = np.asarray(semantic, np.float64) / bits
    near = around.structural - law.nearer
    different = (1 - law.related) * _normal(distance, around.structural, law.deviation)
    different += law.related * _normal(distance, near, law.related_deviation)
    settled = law.settled / law.settled_scale * np.exp(-distance / law.settled_scale)
    # Distances that are usual around the query say nothing for a copy.
    middle = min(evidence.middle, 0.4 * around.semantic)
    least = -evidence.limit * (2 / 3 + np.maximum(distance - SETTLED, 0))
    support = np.clip(evidence.slope * (middle - share), least, evidence.limit)
    # Never rises with distance, which the ratio of the two densities could.
    ratio = np.log(different / (settled + law.moved)) - support + np.log(max(items, _LEAST_ITEMS))
    return np.asarray(1 / (1 + np.exp(law.sharpness * ratio)))


def same_part(
    agreement: ArrayLike,
    semantic: ArrayLike,
    bits: int,
    nearer: ArrayLike,
    around: Surroundings = Surroundings(),
    evidence: SemanticEvidence = SemanticEvidence(),
    law: PartLaw = PartLaw(),
) -> NDArray[np.float64]:
    """Probability that images found in a search are a part of the query, or the query one of them.

    The number of other images matters by how many of them are nearer in meaning. One copy of every
    second query is assumed, as for `same_image`.

    Args:
        agreement: shape (n,): agreements of the best parts, see `bitgaze.encoding.parts`.
        semantic: integers in 0..bits, shape (n,): semantic distances of the same pairs.
        bits: length of the semantic code.
        nearer: integers, shape (n,): how many images of the gallery are semantically nearer.
        around: of the query.
        evidence: of the model; here it matters only whether its distances of copies are known.
        law: of agreements.

    Returns:
        float64, shape (n,), in [0, 1]. Never rises with `semantic` or `nearer`, nor falls with
        `agreement`.
    """
    unusual = 1 + law.spread * (around.agreement - _USUAL_AGREEMENT)
    excess = (np.asarray(agreement, np.float64) - around.agreement) / unusual
    share = np.asarray(semantic, np.float64) / bits
    if evidence.limit == 0:
        share = np.maximum(share, law.unknown)
    odds = law.slope * (excess - law.middle) - law.meaning * (share - _NEAR_MEANING)
    odds -= law.rank * np.log1p(np.asarray(nearer, np.float64))
    return np.asarray(1 / (1 + np.exp(-odds)))


def decided(
    whole: NDArray[np.float64],
    part: NDArray[np.float64],
    is_part: Callable[[int], bool | None],
) -> NDArray[np.float64]:
    """What is said of images in the end, once likely parts were compared by their pixels.

    Other photographs of one thing, and products in one packaging, agree as well as crops by their
    codes, but not by their pixels.

    Args:
        whole: float64, shape (n,), `same_image` of each.
        part: float64, shape (n,), `same_part` of each.
        is_part: whether an image, by number, is a part of the query or the query one of it; None if
            one of them cannot be read. Called for the four likeliest at most.

    Returns:
        float64, shape (n,). Of parts that were not compared, below .9.
    """
    found = whole.copy()
    likely = np.flatnonzero((whole < COPY) & (part >= WORTH_READING))
    for number, row in enumerate(likely[np.argsort(-part[likely], kind="stable")].tolist()):
        verdict = is_part(row) if number < _MOST_READ else None
        if verdict is None:
            found[row] = max(found[row], min(part[row], _MOST_UNREAD))
        elif verdict:
            found[row] = _SEEN
    return found


def _normal(values: NDArray[np.float64], mean: float, deviation: float) -> NDArray[np.float64]:
    density: NDArray[np.float64] = np.exp(-0.5 * ((values - mean) / deviation) ** 2) / (
        deviation * np.sqrt(2 * np.pi)
    )
    return density
