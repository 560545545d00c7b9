"""Likely classes, what words mean, and searches by words."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import word_table
import words_table
from bitgaze import Contract, Gallery, Item, WordError
from bitgaze.cli.main import main
from bitgaze.encoding.images import Preprocess
from bitgaze.encoding.likely import MAX_VIEWS, Likely, of_any_view, pack, shown
from bitgaze.encoding.words import Vocabulary
from bitgaze.gallery.store import Store
from conftest import ROOT

WORDS = Vocabulary(None)
DOGS = set(range(151, 269))


def view(*pairs):
    numbers, probabilities = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(numbers, np.int64), np.array(probabilities, np.float32)


def own(text, vocabulary=WORDS):
    """Numbers of the classes that a single word means."""
    ((meaning,),) = vocabulary.meanings(text)
    return set(np.flatnonzero(meaning.weights == 1).tolist())


def test_likely_classes_have_the_bytes_that_the_format_says():
    block = pack([view((258, 1.0), (3, 0.5)), view((7, 2**-10), (8, 2**-10.1))])
    assert block == bytes([2, 2, 1, 2, 1, 0, 3, 0, 16, 7, 0, 160])


def test_likely_classes_survive_packing():
    blocks = [
        pack([view((1, 0.5), (2, 0.25)), view((1, 0.125))]),
        None,
        pack([view()]),
        pack([view((999, 1.0))] * MAX_VIEWS),
    ]
    likely = Likely.of(blocks)
    assert likely.is_known.tolist() == [True, False, True, True]
    weights = np.zeros(1000, np.float32)
    weights[[1, 2, 999]] = 1, 0.5, 1
    found = likely.probabilities(weights)
    expected = np.zeros((4, MAX_VIEWS))
    expected[0, :2], expected[3] = (0.625, 0.125), 1
    assert np.allclose(found, expected)
    assert of_any_view(found) == pytest.approx([1 - 0.375 * 0.875, 0, 0, 1])


def test_probabilities_are_stored_to_two_hundredths():
    probabilities = np.random.default_rng(0).uniform(2**-9, 1, 200).astype(np.float32)
    numbers = np.arange(200)
    likely = Likely.of([pack([(numbers, probabilities)])])
    found = [likely.probabilities(row.astype(np.float32))[0, 0] for row in np.eye(200)]
    assert np.allclose(found, probabilities, rtol=0.022)


@pytest.mark.parametrize("block", [b"\0", b"\x09", b"\1", b"\1\1", b"\1\0\0", b"\2\1\1\0\0\0"])
def test_damaged_likely_classes_are_noticed(block):
    with pytest.raises(ValueError, match="likely classes"):
        Likely.of([pack([view((1, 0.5))]), block])


def test_a_class_that_the_model_does_not_have_counts_for_nothing():
    likely = Likely.of([pack([view((10, 0.5), (3, 0.25))])])
    assert likely.probabilities(np.ones(10, np.float32))[0, 0] == 0.25


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("dog", DOGS),
        ("Domestic_Dog", DOGS),
        ("the dogs", DOGS),
        ("tabby", {281}),
        ("pug-dog", {254}),
        ("crane", {134, 517}),  # the bird and the machine
        ("fire engine", {555}),
        ("airplane", {404}),
        ("aeroplane", {404}),
        ("television", {851}),
        ("mice", {673}),
        ("train", {466, 547, 565, 705, 820}),  # and its members: locomotives and carriages
    ],
)
def test_words_mean_classes(text, numbers):
    assert own(text) == numbers


def test_kinds_contain_kinds():
    assert own("dog") | own("bird") | own("fish") < own("animal")
    assert own("car") | own("truck") | own("boat") < own("vehicle")
    assert own("church") < own("building")
    assert own("table") >= own("dining table") | own("desk")


def test_a_word_without_classes_has_the_next_kind_that_has_some():
    ((cow,),) = WORDS.meanings("cow")
    assert cow.stand_in == "cattle"
    assert WORDS.classes[345] == "ox"
    assert own("cow") == {345}
    ((dog,),) = WORDS.meanings("dog")
    assert not dog.stand_in


def random_chunks(generator, counts):
    """Likely classes of images of two views each, some thousand entries."""
    chunks = []
    for count in counts:
        blocks = []
        for _ in range(count):
            p = generator.dirichlet(np.full(30, 0.1), 2).astype(np.float32)
            kept = [np.flatnonzero(row > 2**-9) for row in p]
            views = [(numbers, row[numbers]) for numbers, row in zip(kept, p, strict=True)]
            blocks.append(pack(views))
        chunks.append(Likely.of(blocks))
    return chunks


def test_the_company_of_a_class_speaks_for_it():
    """A leash is seen with dogs, a cup is not: the image of a leash comes before that of a cup."""
    dog, leash, cup = 0, 1, 2
    with_dogs = [pack([view((dog, 0.9)), view((leash, 0.8))])] * 5
    others = [pack([view((cup, 0.9))])] * 5
    chunk = Likely.of([*with_dogs, *others, pack([view((leash, 0.5))])])
    found = shown([chunk], np.array([1, 0, 0], np.float32))
    share = 5 * 0.8 * 0.9 / (5 * 0.8 + 0.5 + 1)  # of what shows leashes, that shows dogs
    assert found[-1] == pytest.approx(0.3 * share * 0.5, rel=0.03)
    assert (found[5:10] == 0).all()
    assert (found[:5] > 0.9).all()


def test_company_is_as_defined(monkeypatch):
    """Written out: over all images, or those that most probably show the word."""
    generator = np.random.default_rng(0)
    chunks = random_chunks(generator, [7, 1, 12])
    every = np.eye(30, dtype=np.float32)
    p = np.concatenate([np.stack([c.probabilities(e) for e in every], 2) for c in chunks])
    weights = np.isin(np.arange(30), [3, 4]).astype(np.float32)
    own = of_any_view(np.minimum(p @ weights, 1))
    for most in (20, 5):
        considered = np.argsort(-own)[:most]
        with_them = np.einsum("nvc,n->c", p[considered], own[considered])
        company = 0.3 * with_them / (p.sum((0, 1)) + 1)
        expected = own.copy()
        both = np.minimum(p[considered] @ np.maximum(weights, company), 1)
        expected[considered] = of_any_view(both)
        monkeypatch.setattr("bitgaze.encoding.likely._MOST_CONSIDERED", most)
        assert np.allclose(shown(chunks, weights), expected, atol=1e-5)


def test_some_images_have_their_own_likely_classes():
    (chunk,) = random_chunks(np.random.default_rng(1), [9])
    some = chunk.some(np.arange(9) % 3 == 1)
    weights = np.ones(30, np.float32)
    assert np.array_equal(some.probabilities(weights), chunk.probabilities(weights)[1::3])
    assert len(chunk.some(np.zeros(9, bool)).is_known) == 0


def test_words_are_alternatives_or_all_asked_for():
    found = WORDS.meanings("a dog with a ball, cat")
    assert [[meaning.word for meaning in every] for every in found] == [["dog", "ball"], ["cat"]]


@pytest.mark.parametrize("text", ["doggo", "doog"])
def test_an_unknown_word_names_near_ones(text):
    with pytest.raises(WordError, match=f"{text!r}.*near it are.*'dog'"):
        WORDS.meanings(text)


@pytest.mark.parametrize("text", ["person", "people", "dog granny", "", " , ", "the", "x" * 2000])
def test_what_is_not_known_is_an_error(text):
    with pytest.raises(WordError):
        WORDS.meanings(text)


def test_a_trained_model_knows_its_classes_and_their_kinds():
    vocabulary = Vocabulary(["automobile", "Dog", "horse", "widget_a"])
    assert own("car", vocabulary) == {0}
    assert own("widget a", vocabulary) == {3}
    assert own("animal", vocabulary) == {1, 2}
    with pytest.raises(WordError):
        vocabulary.meanings("cat")


def test_a_model_that_does_not_name_its_classes_knows_no_words():
    contract = Contract("mine", 64, Preprocess(size=32), "MIT")
    with pytest.raises(WordError, match="'mine' does not name its classes"):
        Vocabulary.of(contract)
    assert Vocabulary.of(replace(contract, classes=("dog",))).classes == ("dog",)
    general = Vocabulary.of(replace(contract, training={"attention": "the ImageNet classifier's"}))
    assert general.classes == WORDS.classes


def test_the_table_is_small_and_has_its_licence():
    content = (ROOT / "runtime" / "bitgaze" / "encoding" / "words.txt").read_bytes()
    assert len(content) < 100_000
    assert b"WordNet 3.0 Copyright 2006 by Princeton University" in content
    assert b"provided that you agree to comply" in content
    assert len(WORDS.classes) == len(set(range(1000)))
    assert (WORDS.classes[0], WORDS.classes[207], WORDS.classes[999]) == (
        "tench",
        "golden retriever",
        "toilet tissue",
    )


def test_the_table_is_made_of_synsets():
    synset = words_table.Synset
    synsets = {
        "1": synset(["thing"], [], [], []),
        "2": synset(["dog", "hound"], ["1"], [], []),
        "3": synset(["pug"], ["2"], [], ["6"]),
        "4": synset(["pack"], ["1"], ["2"], []),
        "5": synset(["mongrel", "cur"], ["2"], [], []),
        "6": synset(["snout"], ["1"], [], []),
        "7": synset(["rare dog"], ["2"], [], []),
        "8": synset(["dog", "fellow"], ["1"], [], []),
        "9": synset(["sled"], ["1"], [], []),
    }
    senses = {
        word: ([o for o, s in synsets.items() if word in s.words], int(word != "rare dog"))
        for word in {word for s in synsets.values() for word in s.words}
    }
    senses["dog"] = (["8", "2"], 2)
    text = words_table.table(synsets, senses, ["3", "9"])
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    # Of the vague senses of "dog", the one with classes; "rare dog" occurs in no text.
    assert lines[:4] == ["3\t\tpug", "2\t\tsled", "\t\tthing", "2\t\tdog, hound"]
    assert "3\t\tmongrel, cur" in lines
    assert "0\t\tsnout" in lines  # a part of the class
    assert "2\t3\tpack" in lines
    assert not any("rare dog" in line for line in lines)


@pytest.mark.parametrize("looks", [0, 3])
def test_the_encoder_stores_what_the_model_says(encoder, pets, looks):
    encoded = encoder.encode([pets / "birds/owl.jpg", b"no image"], looks=looks)
    assert encoded.classes[1] == b""
    likely = Likely.of(encoded.classes[:1])
    each = np.arange(1000)
    best = max(each, key=lambda n: likely.probabilities((each == n).astype(np.float32))[0, 0])
    assert WORDS.classes[best] == "great grey owl"
    views = np.unique(likely.views)
    is_look = (encoded.boxes[0] != (0, 0, 1, 1)).any(axis=1)
    assert len(views) == 1 + is_look.sum()


def test_words_find_what_images_show(pets_gallery, pets):
    fish = pets_gallery.search_words("fish")
    assert {hit.path for hit in fish[:2]} == {
        str(pets / "fish/goldfish.jpg"),
        str(pets / "fish/clownfish.jpg"),
    }
    assert [hit.probability for hit in fish] == sorted((h.probability for h in fish), reverse=True)
    birds = pets_gallery.search_words("bird", 2)
    assert {hit.metadata["kind"] for hit in birds} == {"birds"}
    either = pets_gallery.search_words("goldfish, owl", least=0.2)
    assert {hit.key for hit in either} == {
        str(pets / "fish/goldfish.jpg"),
        str(pets / "birds/owl.jpg"),
    }
    assert pets_gallery.search_words("goldfish owl", least=0.2) == []


def test_where_k_and_least_limit_the_hits(pets_gallery, monkeypatch):
    assert len(pets_gallery.search_words("animal", least=0)) == 5
    assert len(pets_gallery.search_words("animal", 2)) == 2
    (hit,) = pets_gallery.search_words("animal", where={"rank": 1})
    assert hit.metadata["rank"] == 1
    assert pets_gallery.search_words("steam locomotive", least=0.5) == []
    # Refused before the items are read, which takes seconds in a large gallery.
    monkeypatch.setattr(Store, "read_likely", lambda store: pytest.fail("has read the items"))
    with pytest.raises(ValueError, match="least is 2"):
        pets_gallery.search_words("dog", least=2)
    with pytest.raises(ValueError, match="k"):
        pets_gallery.search_words("dog", 0)
    with pytest.raises(ValueError, match=r"operator '\?'"):
        pets_gallery.search_words("dog", where={"rank": {"?": 1}})


def test_the_box_is_that_of_the_look_that_shows_it(pets_gallery):
    for hit in pets_gallery.search_words("animal", least=0.5):
        item = pets_gallery.get(hit.key)
        likely = Likely.of([item.classes])
        weights = WORDS.meanings("animal")[0][0].weights
        best = int(likely.probabilities(weights)[0].argmax())
        expected = None if best == 0 else tuple(item.boxes[best - 1].tolist())
        assert hit.box == expected


def test_words_follow_changes_of_the_gallery(path, encoder, pets):
    with Gallery(path, encoder=encoder) as gallery, Gallery(path, encoder=encoder) as other:
        gallery.add("owl", pets / "birds/owl.jpg")
        gallery.add("goldfish", pets / "fish/goldfish.jpg")
        for reader in (gallery, other):
            assert [hit.key for hit in reader.search_words("bird", least=0.5)] == ["owl"]
        gallery.remove("owl")
        for reader in (gallery, other):
            assert reader.search_words("bird", least=0.5) == []
            assert [hit.key for hit in reader.search_words("fish", least=0.5)] == ["goldfish"]
        with gallery.transaction():
            gallery.add("duck", pets / "birds/duck.jpg")
            assert [hit.key for hit in gallery.search_words("bird", least=0.5)] == ["duck"]
    with Gallery(path) as again:
        assert [hit.key for hit in again.search_words("bird", least=0.5)] == ["duck"]


def test_galleries_without_classes_say_so(path, tmp_path, gallery):
    assert gallery.search_words("dog") == []
    gallery.upsert([Item("old", np.zeros(16, np.uint8))])
    with pytest.raises(WordError, match="no likely classes"):
        gallery.search_words("dog")
    own_codes = Gallery(tmp_path / "own.bitgaze", bits=64)
    with own_codes, pytest.raises(WordError, match="your own codes"):
        own_codes.search_words("dog")
    with pytest.raises(ValueError, match="classes of 'damaged': likely classes have another leng"):
        gallery.upsert([Item("damaged", np.zeros(16, np.uint8), classes=b"\1\1")])
    animals = "dog cat horse sheep cow fish bear lion tiger wolf fox hare pig goose duck owl ant"
    with pytest.raises(WordError, match="at most 16 words"):
        gallery.search_words(animals.replace(" ", ","))
    found = gallery.vocabulary.meanings("dog dog, dog")
    assert [[meaning.word for meaning in every] for every in found] == [["dog"]]


def test_bitgaze_search_takes_words(pets_gallery, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where = ["-g", str(pets_gallery.path)]
    assert main(["search", "bird", "-k", "2", *where]) == 0
    printed = capsys.readouterr()
    assert "no file 'bird': images that show 'bird'" in printed.err
    assert all("birds" in line for line in printed.out.splitlines())
    assert main(["search", "bird", "--json", "--where", "rank=0", *where]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["words"] == "bird"
    assert [hit["metadata"]["rank"] for hit in found["hits"]] == [0]
    assert main(["search", "cow", *where]) == 0
    assert "'cow' is no class of the model, 'cattle' stands for it" in capsys.readouterr().err
    assert main(["search", "birdd", *where]) == 2
    error = capsys.readouterr().err
    assert "birdd: no such file; as words" in error
    assert "'bird'" in error
    assert main(["search", "bird", "--radius", "3", *where]) == 2
    assert "--radius goes with an image" in capsys.readouterr().err


def test_words_can_be_forced(pets_gallery, pets, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(pets / "fish/goldfish.jpg", tmp_path / "bird")
    where = ["-g", str(pets_gallery.path), "-k", "1"]
    assert main(["search", "bird", *where]) == 0
    assert "goldfish" in capsys.readouterr().out
    assert main(["search", "bird", "--words", *where]) == 0
    assert "birds" in capsys.readouterr().out


def test_average_precision_is_that_of_the_mean_order():
    relevant = np.array([True, False, True])
    assert word_table.tie_aware(np.array([0.9, 0.5, 0.1]), relevant) == pytest.approx(5 / 6)
    assert word_table.tie_aware(np.array([0.9, 0.5, 0.5]), relevant) == pytest.approx(11 / 12)
    flat = np.zeros(3)
    assert word_table.tie_aware(flat, relevant) == pytest.approx((1 + 5 / 6 + 7 / 12) / 3)


def test_the_words_of_labelled_images_are_measured(tmp_path, pets, monkeypatch, capsys):
    folder = tmp_path / "pets"
    shutil.copytree(pets, folder)
    lines = ["birds/owl.jpg\tbird", "birds/duck.jpg\tbird", "fish/goldfish.jpg\tfish,gizmo"]
    (folder / "annotations.tsv").write_text("\n".join(lines) + "\n", "utf-8")
    out = tmp_path / "results.md"
    monkeypatch.setattr("sys.argv", ["word_table.py", str(folder), "--out", str(out)])
    word_table.main()
    text = out.read_text("utf-8")
    assert "| bird | 2 | 1.000 | 1.000 |" in text
    assert "| fish | 1 | 1.000 | 1.000 |" in text
    assert "Not known: gizmo." in text
    assert "mean of 2 words is **1.000** by the whole image and **1.000** with looks" in text
