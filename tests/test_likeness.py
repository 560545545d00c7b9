"""The probability that two images are one, altered, from both distances."""

import numpy as np
import pytest

from bitgaze.encoding.likeness import SemanticEvidence, Surroundings, same_image, surroundings

DISTANCES = np.arange(0, 257)


@pytest.mark.parametrize("around", [Surroundings(), Surroundings(84, 0.07), Surroundings(64, 0.0)])
@pytest.mark.parametrize("items", [1, 10_000, 10_000_000])
def test_it_never_rises_with_distance_or_items(around, items):
    chances = same_image(DISTANCES, np.full(257, 8), 128, items, around)
    assert (np.diff(chances) <= 1e-12).all()
    assert ((chances >= 0) & (chances <= 1)).all()
    semantic = np.arange(129)
    assert (np.diff(same_image(np.full(129, 50), semantic, 128, items, around)) <= 1e-12).all()
    assert (same_image(DISTANCES, np.full(257, 8), 128, 10 * items, around) <= chances).all()


@pytest.mark.parametrize("items", [1, 100, 10_000, 1_000_000, 10_000_000])
@pytest.mark.parametrize("evidence", [SemanticEvidence(), SemanticEvidence(limit=0)])
def test_an_equal_structure_is_believed_among_ten_million(items, evidence):
    assert same_image(0, 0, 128, items, evidence=evidence) >= 0.999
    assert same_image(0, 128, 128, items, evidence=evidence) >= 0.999


def test_an_equal_meaning_alone_is_not_believed():
    for items in (1, 100, 100_000):
        assert same_image(100, 0, 128, items) < 0.5
        assert same_image(128, 0, 128, items) < 0.1


def test_both_together_say_more_than_structure_alone():
    crop = same_image(64, 8, 128, 1000)
    assert crop > 0.9
    assert same_image(64, 40, 128, 1000) < 0.2
    assert same_image(64, 8, 128, 1000, evidence=SemanticEvidence(limit=0)) < crop


def test_what_is_usual_around_a_query_is_no_evidence():
    receipts = surroundings(np.arange(60, 110), np.arange(50) // 4, 128)
    assert receipts.structural < 95
    assert receipts.semantic < 0.1
    assert same_image(44, 3, 128, 100) > 0.9
    assert same_image(44, 3, 128, 100, receipts) < 0.5


def test_surroundings_bear_copies_and_need_four_hits():
    different = np.random.default_rng(0).normal(128, 8, 20).round()
    alone = surroundings(different, np.full(20, 50), 128)
    assert alone.structural == pytest.approx(128, abs=4)
    among_copies = surroundings([0] * 15 + [*different], [0] * 15 + [50] * 20, 128)
    assert among_copies.structural == pytest.approx(128, abs=6)
    assert surroundings([0, 0, 0], [0, 0, 0], 128) == Surroundings()
    assert surroundings([0] * 50, [0] * 50, 128) == Surroundings()  # copies say nothing
    assert surroundings([20] * 50, [0] * 50, 128).structural == 64


def test_a_dozen_alike_among_many_others_are_what_is_usual():
    distances, shares = [*range(60, 112, 4), *[128] * 37], [4] * 13 + [50] * 37
    usual = surroundings(distances, shares, 128)
    assert usual.structural < 80
    assert usual.semantic == 4 / 128
    assert same_image(36, 4, 128, 400, usual) < 0.5
    assert same_image(4, 4, 128, 400, usual) > 0.9


def test_what_is_moved_keeps_its_meaning():
    assert same_image(20, 60, 128, 400) < 0.9
    assert same_image(20, 20, 128, 400) > 0.99
    assert same_image(16, 60, 128, 400) > 0.99
    assert same_image(20, 60, 128, 400, evidence=SemanticEvidence(limit=0)) > 0.99


def test_distances_are_shares_of_the_code():
    short = same_image(70, 4, 64, 1000)
    assert short == same_image(70, 8, 128, 1000)
