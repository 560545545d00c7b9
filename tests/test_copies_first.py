"""Copies of the query come first in a search, however far they are by meaning."""

import json
from contextlib import ExitStack, closing
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from bitgaze import Gallery, Item
from bitgaze.cli.main import main
from bitgaze.gallery.filters import conditions
from bitgaze.gallery.hits import UNRELATED
from bitgaze.gallery.info import ModelInfo
from bitgaze.gallery.query import Query
from bitgaze.gallery.search import SearchParams, search
from bitgaze.gallery.shards import candidates, merge, reading
from bitgaze.gallery.store import Store

BITS, STRUCTURE = 64, 256
COUNT = 300
RNG = np.random.default_rng(5)


def structural_code():
    bits = np.zeros(STRUCTURE, np.uint8)
    bits[RNG.choice(STRUCTURE, STRUCTURE // 2, replace=False)] = 1
    return np.packbits(bits)


def moved(code, bits):
    """A structural code at a distance, an even number of bits: half of them set, half cleared."""
    values = np.unpackbits(code)
    for old in (0, 1):
        chosen = RNG.choice(np.flatnonzero(np.unpackbits(code) == old), bits // 2, replace=False)
        values[chosen] = 1 - old
    return np.packbits(values)


def random_items(looks):
    boxes = np.tile(np.array([[0.1, 0.1, 0.6, 0.6]], np.float32), (looks, 1))
    codes = RNG.integers(0, 256, (COUNT, 1 + looks, BITS // 8), np.uint8)
    return [
        Item(
            f"k{n:03}",
            views[0],
            {"n": n},
            looks=views[1:],
            boxes=boxes,
            structure=structural_code() if n % 10 else None,
        )
        for n, views in enumerate(codes)
    ]


def store_of(path, items, looks=0, structure=STRUCTURE):
    store = Store(path, lambda: ModelInfo("", "", BITS, None, looks, structure), 5.0)
    with store.writing():
        store.put_all(items)
    return store


class Case:
    """A gallery of 300 items, two of which are copies of a query, and far from it by meaning."""

    copies = ("k007", "k201")

    def __init__(self, folder, looks):
        self.looks = looks
        # An image without places to look at repeats its own code.
        views = np.tile(RNG.integers(0, 256, (1, BITS // 8), np.uint8), (1 + looks, 1))
        self.query = Query(views, (None,) * (1 + looks), structure=structural_code())
        self.items = random_items(looks)
        for n in (7, 201):
            self.items[n] = replace(self.items[n], code=~views[0], looks=~views[1:])
        self.plain = store_of(folder / f"plain {looks}.bitgaze", self.items, looks)
        for n in (7, 201):
            structure = moved(self.query.structure, 6)
            self.items[n] = replace(self.items[n], structure=structure)
        self.store = store_of(folder / f"copied {looks}.bitgaze", self.items, looks)

    def search(self, store, k=10, query=None, ranking="hamming", where=None, **params):
        found = SearchParams(k, params.pop("radius", None), conditions(where), **params)
        query = self.query if query is None else query
        return search(store, None, query, found, ranking=ranking, exclude_self=False)


@pytest.fixture(scope="module", params=[0, 2])
def case(request, tmp_path_factory):
    found = Case(tmp_path_factory.mktemp("copies"), request.param)
    with closing(found.plain), closing(found.store):
        yield found


def keys(hits):
    return [hit.key for hit in hits]


@pytest.mark.parametrize("k", [1, 2, 3, 10, 60, 300])
def test_copies_come_first_and_others_keep_their_order(case, k):
    by_distance = case.search(case.plain, 300)
    assert set(keys(by_distance[-2:])) == set(case.copies)  # the farthest of all
    others = [key for key in keys(by_distance) if key not in case.copies]
    hits = case.search(case.store, k)
    assert keys(hits) == [*case.copies, *others][:k]
    assert [hit.is_copy for hit in hits] == [True, True, *[False] * 298][:k]
    assert hits[0].distance == by_distance[-1].distance
    assert hits[0].same_image > 0.99


def test_the_order_of_copies_is_by_distance_then_slot(case, tmp_path):
    nearer = [
        replace(item, code=case.query.views[0]) if item.key == "k201" else item
        for item in case.items
    ]
    with closing(store_of(tmp_path / "g.bitgaze", nearer, case.looks)) as store:
        assert keys(case.search(store, 2)) == ["k201", "k007"]


def test_a_radius_holds_for_copies_too(case):
    far = case.search(case.store, 1)[0].distance
    assert keys(case.search(case.store, 3, radius=int(far)))[:2] == list(case.copies)
    hits = case.search(case.store, 300, radius=int(far) - 1)
    assert keys(hits) == keys(case.search(case.plain, 300, radius=int(far) - 1))
    assert case.search(case.store, 3, radius=0) == []
    assert case.search(case.store, 3, radius=0, fold=True) == []


def test_conditions_hold_for_copies_too(case):
    hits = case.search(case.store, 4, where={"n": {">": 7}})
    assert keys(hits)[0] == "k201"
    assert "k007" not in keys(hits)
    assert case.search(case.store, 4, where={"n": {"in": [7, 9]}})[0].key == "k007"
    without = {"n": {"!=": 7}, "@key": {"!=": "k201"}}
    assert case.search(case.store, 9, where=without) == case.search(case.plain, 9, where=without)


def test_an_item_finds_its_copies_but_not_itself(case):
    params = SearchParams(3, None, ())
    arguments = {"ranking": "hamming", "exclude_self": True}
    assert search(case.store, None, "k007", params, **arguments)[0].key == "k201"
    with_itself = search(case.store, None, "k007", params, **arguments | {"exclude_self": False})
    assert keys(with_itself)[:2] == ["k007", "k201"]


def test_removed_and_replaced_items_are_no_copies(case, tmp_path):
    with closing(store_of(tmp_path / "g.bitgaze", case.items, case.looks)) as store:
        with store.writing():
            store.delete("k007")  # the last item moves into its slot
            store.put(replace(case.items[201], structure=None))
        assert not any(hit.is_copy for hit in case.search(store, 300))
        with store.writing():
            store.put(replace(case.items[299], structure=moved(case.query.structure, 2)))
        assert keys(case.search(store, 1)) == ["k299"]
        with closing(Store(tmp_path / "g.bitgaze", None, 5.0)) as other:
            assert keys(case.search(other, 1)) == ["k299"]


def test_without_structural_codes_distance_alone_counts(case, tmp_path):
    unknown = replace(case.query, structure=None)
    by_distance = keys(case.search(case.plain, 20))
    assert keys(case.search(case.store, 20, unknown)) == by_distance
    plain_image = replace(case.query, structure=np.zeros(32, np.uint8))
    assert keys(case.search(case.store, 20, plain_image)) == by_distance
    without = [replace(item, structure=None) for item in case.items]
    with closing(store_of(tmp_path / "g.bitgaze", without, case.looks, structure=0)) as store:
        hits = case.search(store, 20)
        assert keys(hits) == by_distance
        assert all(hit.same_image is None for hit in hits)


def test_an_asymmetric_ranking_begins_with_copies(case):
    signs = np.unpackbits(case.query.views, axis=1).astype(np.float32) - 0.5
    query = replace(case.query, values=signs * RNG.uniform(0.1, 2, signs.shape).astype(np.float32))
    ranked = [
        key
        for key in keys(case.search(case.plain, 30, query, "asymmetric"))
        if key not in case.copies
    ]
    assert keys(case.search(case.store, 9, query, "asymmetric")) == [*case.copies, *ranked[:7]]
    with_all = case.search(case.store, 9, query, "asymmetric", radius=BITS)
    assert keys(with_all)[:2] == list(case.copies)


def test_folding_takes_copies_together(case):
    first, *others = case.search(case.store, 5, fold=True)
    assert (first.key, first.alike) == ("k007", ("k201",))
    assert keys(others) == keys(case.search(case.store, 6))[2:]
    assert case.search(case.store, 5, fold=True, where={"n": {">": COUNT}}) == []


@pytest.mark.parametrize("k", [1, 5, 60])
@pytest.mark.parametrize("radius", [None, 30, BITS])
def test_shards_answer_as_one_gallery(case, tmp_path, k, radius):
    parts = [case.items[:120], [], case.items[120:130], case.items[130:]]
    expected = case.search(case.store, k, radius=radius)
    params = SearchParams(k, radius, ())
    with ExitStack() as stack:
        stores = [
            stack.enter_context(closing(store_of(tmp_path / f"{n}.bitgaze", part, case.looks)))
            for n, part in enumerate(parts)
        ]
        for groups in ([stores], [stores[:1], stores[1:]], [[store] for store in stores]):
            with reading(stores):
                found = [candidates(some, case.query, params) for some in groups]
            assert merge(found, params) == expected


@pytest.fixture(scope="module")
def photos(tmp_path_factory, examples):
    """A folder of images, and one of them strongly blurred, elsewhere."""
    folder = tmp_path_factory.mktemp("photos")
    paths = sorted(examples.rglob("*.jpg"))[::12]
    pan = next(examples.rglob("iron-pan.jpg"))
    for path in {*paths, pan}:
        with Image.open(path) as image:
            image.convert("RGB").save(folder / f"{path.stem}.png")
    blurred = folder.parent / "blurred.png"
    with Image.open(pan) as image:
        filtered = image.convert("RGB").filter(ImageFilter.GaussianBlur(max(image.size) / 50))
    filtered.save(blurred)
    return folder, blurred


def test_a_strongly_blurred_image_finds_itself(photos, tmp_path, monkeypatch, capsys):
    folder, blurred = photos
    monkeypatch.chdir(tmp_path)
    assert main(["index", str(folder), "-g", "g.bitgaze"]) == 0
    with Gallery("g.bitgaze") as gallery:
        hits = gallery.search(blurred, k=3)
        assert hits[0].key.endswith("iron-pan.png")
        assert hits[0].is_copy
        assert hits[0].distance > hits[1].distance  # blur has changed its code
        assert hits[0].chances == {"same kind": ">99%", "a copy": ">99%"}
        assert not hits[1].is_copy
        by_code = gallery.search_code(gallery.encode([blurred]).views[0], k=3)
        assert by_code[0].key == hits[1].key
        near = gallery.search(blurred, radius=int(hits[0].distance) - 1)
        assert not any(hit.is_copy for hit in near)
    capsys.readouterr()
    assert main(["search", str(blurred), "-g", "g.bitgaze", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hits"][0]["key"] == hits[0].key
    assert main(["search", str(blurred), "-g", "g.bitgaze", "--html", "page.html"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "a copy" in lines[0]
    assert lines.index(f"{UNRELATED}:") >= 1
    page = (tmp_path / "page.html").read_text()
    assert page.index("iron-pan.png") < page.index('<li class="divider">')
