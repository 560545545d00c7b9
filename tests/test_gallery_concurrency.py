"""Connections, threads and processes that use one gallery at the same time."""

import sqlite3
import threading
from pathlib import Path

import numpy as np

from bitgaze import Gallery, GalleryError, Item
from conftest import smooth_image
from galleries import codes, items, run_processes


def test_creating_a_gallery_waits_for_another_writer(path):
    """As when two processes create the same gallery at the same time."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    end = threading.Timer(0.2, other.execute, ["ROLLBACK"])
    end.start()
    with Gallery(path) as gallery:
        assert len(gallery) == 0
    end.join()
    other.close()


def test_one_of_several_threads_that_add_the_same_key_wins(path, encoder):
    everyone = threading.Barrier(4)

    class Slow:
        """An encoder that returns once all threads are encoding."""

        model, fingerprint = encoder.model, encoder.fingerprint

        def encode(self, sources, looks):
            everyone.wait(timeout=60)
            return encoder.encode(sources, looks=looks)

    outcome = []

    def add(number):
        try:
            gallery.add("same", smooth_image(number), {"number": number})
            outcome.append(number)
        except GalleryError:
            outcome.append(None)

    with Gallery(path, encoder=Slow()) as gallery:
        threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winner = max(number for number in outcome if number is not None)
        assert outcome.count(None) == 3
        assert gallery.get("same").metadata == {"number": winner}


def test_each_connection_sees_the_commits_of_others(path):
    with Gallery(path) as writer, Gallery(path) as reader:
        writer.upsert(items(3))
        assert len(reader) == 3
        assert reader.search("item 1", k=1)[0].key == "item 1"
        writer.remove("item 0")
        assert "item 0" not in reader
        assert {hit.key for hit in reader.search_code(codes(1)[0])} == {"item 1", "item 2"}
        reader.upsert([Item("from the other", codes(1, seed=5)[0])])
        assert len(writer) == 3


def test_two_writers_keep_each_others_items(path):
    with Gallery(path) as one, Gallery(path) as two:
        for i in range(20):
            (one, two)[i % 2].upsert([Item(f"k{i}", codes(1, seed=i)[0])])
        for gallery in (one, two):
            assert len(gallery) == 20
            for i in range(20):
                assert np.array_equal(gallery.get(f"k{i}").code, codes(1, seed=i)[0])


def _write(path: Path, name: str) -> None:
    with Gallery(path) as gallery:
        for i in range(25):
            gallery.upsert([Item(f"{name}{i}", codes(1, seed=i)[0])])


def test_processes_can_create_and_write_concurrently(path):
    assert run_processes(_write, (path, "a"), (path, "b")) == [0, 0]
    with Gallery(path) as gallery:
        assert len(gallery) == 50


def test_threads_can_search_during_writes(path):
    with Gallery(path) as gallery:
        gallery.upsert(items(200))
        wrong = []

        def search():
            for i in range(100):
                hit = gallery.search(f"item {i}", k=1)[0]
                if (hit.key, hit.distance) != (f"item {i}", 0):
                    wrong.append(hit)

        threads = [threading.Thread(target=search) for _ in range(3)]
        for thread in threads:
            thread.start()
        for i in range(50):
            gallery.upsert([Item(f"new {i}", codes(1, seed=1000 + i)[0])])
            gallery.remove(f"item {199 - i}")
        for thread in threads:
            thread.join()
        assert not wrong
