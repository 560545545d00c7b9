"""Several galleries that answer as one: candidates and their merge, without a cluster."""

import pytest

from bitgaze import Encoder, Gallery, Item, WhereError
from bitgaze.gallery.filters import conditions
from bitgaze.gallery.query import Query
from bitgaze.gallery.search import SearchParams
from bitgaze.gallery.shards import candidates, merge, reading
from bitgaze.gallery.store import Store
from codes import clustered_codes

VIEWS = 3


def shards_of(folder, items, sizes, **options):
    """Galleries of consecutive items, and one of all."""
    paths, start = [], 0
    for number, size in enumerate(sizes):
        paths.append(folder / f"{number}.bitgaze")
        with Gallery(paths[-1], **options) as gallery:
            gallery.upsert(items[start : start + size])
        start += size
    assert start == len(items)
    with Gallery(folder / "one.bitgaze", **options) as gallery:
        gallery.upsert(items)
    return [Store(path, None, 5.0) for path in paths], Gallery(folder / "one.bitgaze")


def merged(stores, query, k, radius=None, where=None):
    params = SearchParams(k, radius, conditions(where))
    answers = []
    for groups in ([stores], [stores[:2], stores[2:]], [[store] for store in stores]):
        with reading(stores):
            answers.append(merge([candidates(some, query, params) for some in groups], params))
    assert answers[0] == answers[1] == answers[2]  # however the galleries are grouped
    return answers[0]


@pytest.fixture(scope="module")
def own_codes(tmp_path_factory):
    """Four shards, one empty, of codes with many ties; field "n" in two of them."""
    codes = clustered_codes(300, 2)
    items = [Item(f"{i}", code, {"n": i} if i >= 100 else {}) for i, code in enumerate(codes)]
    items[-1] = Item("299", codes[-1], {"n": "text", "only": 1})
    return shards_of(tmp_path_factory.mktemp("own"), items, [100, 0, 150, 50], bits=16)


@pytest.mark.parametrize("k", [1, 7, 60, 400])
@pytest.mark.parametrize("radius", [None, 0, 3])
def test_hits_are_those_of_one_gallery_with_all_ties(own_codes, k, radius):
    stores, one = own_codes
    for code in clustered_codes(20, 2):
        found = merged(stores, Query(code[None], (None,)), k, radius)
        assert found == one.search_code(code, k, radius=radius)


@pytest.mark.parametrize(
    "where",
    [
        {"n": {">=": 150}},
        {"n": {"!=": 120}},
        {"n": None},
        {"n": {"!=": None}},
        {"only": 1},
        {"only": {"!=": 1}},
        {"@key": {"like": "1%"}},
        {"width": {"!=": 3}, "n": {"<": 110}},
    ],
)
def test_conditions_on_fields_that_only_some_shards_have(own_codes, where):
    stores, one = own_codes
    code = clustered_codes(1, 2)[0]
    expected = one.search_code(code, 300, where=where)
    assert merged(stores, Query(code[None], (None,)), 300, where=where) == expected


@pytest.mark.parametrize("where", [{"m": 1}, {"only": {"<": "a"}}])
def test_conditions_that_no_shard_can_meet_are_refused_as_one_gallery_does(own_codes, where):
    stores, one = own_codes
    code = clustered_codes(1, 2)[0]
    for search in (
        lambda: one.search_code(code, where=where),
        lambda: merged(stores, Query(code[None], (None,)), 10, where=where),
    ):
        with pytest.raises(WhereError, match="no item .*has a field 'm'|compared with 'a'"):
            search()


def test_images_with_looks_and_probabilities(examples, tmp_path, encoder: Encoder):
    """`same_image` depends on what is around a query among all items."""
    paths = [path for path in sorted(examples.rglob("*")) if path.is_file()][::12]
    encoded = encoder.encode(paths, looks=1)
    items = [Item.of_image(path.name, encoded, row) for row, path in enumerate(paths)]
    stores, one = shards_of(tmp_path, items, [5, len(items) - 11, 6], encoder=encoder, looks=1)
    with one:
        for path in paths[::5]:
            query = one.query(path)
            expected = one.search(query, k=8)
            assert expected[0].same_image is not None
            assert merged(stores, query, 8) == expected
            assert merged(stores, query, 60, radius=40) == one.search(query, k=60, radius=40)
