"""A gallery whose locks were lost, whose file was replaced, or whose process was forked."""

import dis
import os
import shutil
import subprocess
import sys
import threading
import traceback
from contextlib import suppress

import pytest

from bitgaze import Gallery, GalleryError, verify_gallery
from bitgaze.gallery import forks
from galleries import BITS, codes, items

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX locks and fork")


@pytest.fixture
def gallery(path):
    with Gallery(path, bits=BITS) as gallery:
        gallery.upsert(items(30))
        yield gallery


def add_in_another_process(path, count):
    code = (
        "import numpy as np, sys\n"
        "from bitgaze import Gallery\n"
        "with Gallery(sys.argv[1], create=False) as gallery:\n"
        "    for n in range(int(sys.argv[2])):\n"
        "        gallery.add_code(f'theirs {n}', np.zeros(16, np.uint8))\n"
    )
    subprocess.run([sys.executable, "-c", code, path, str(count)], check=True)


def in_a_child(function):
    """Call a function in a forked child; returns whether it raised nothing."""
    child = os.fork()
    if child == 0:
        try:
            function()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("is_written_between", [False, True])
def test_nothing_is_lost_when_the_process_copies_its_gallery(gallery, is_written_between):
    shutil.copy(gallery.path, gallery.path.with_name("copy"))  # drops SQLite's locks
    if is_written_between:
        gallery.add_code("between", codes(1)[0])
    add_in_another_process(gallery.path, 20)
    gallery.add_code("ours", codes(1)[0])
    assert len(gallery) == 51 + is_written_between
    gallery.close()
    found = verify_gallery(gallery.path)
    assert found.is_sound
    assert found.items == 51 + is_written_between


def test_a_transaction_that_lost_its_locks_writes_nothing(gallery):
    shutil.copy(gallery.path, gallery.path.with_name("copy"))
    for end in ("", "-shm", "-wal"):  # as if replaced by another gallery
        shutil.copy(f"{gallery.path}{end}", f"{gallery.path}.new{end}")

    def write():
        with gallery.transaction():
            gallery.add_code("ours", codes(1)[0])
            for end in ("", "-shm", "-wal"):
                os.replace(f"{gallery.path}.new{end}", f"{gallery.path}{end}")  # noqa: PTH105

    with pytest.raises(GalleryError, match="use backup"):
        write()
    assert len(gallery) == 30
    assert "ours" not in gallery


def test_a_gallery_that_replaces_the_file_is_read(gallery, tmp_path):
    with Gallery(tmp_path / "other", bits=BITS) as other:
        other.upsert(items(3, seed=1))
    for end in ("-wal", "-shm"):
        os.unlink(f"{gallery.path}{end}")  # noqa: PTH108
    (tmp_path / "other").replace(gallery.path)
    assert len(gallery) == 3
    gallery.add_code("ours", codes(1)[0])
    assert len(gallery) == 4


def test_a_forked_child_reads_and_does_not_write(gallery):
    def use():
        assert gallery.get("item 3").metadata == {"i": 3}
        for write in (
            lambda: gallery.add_code("child", codes(1)[0]),
            lambda: gallery.remove("item 1"),
        ):
            with pytest.raises(GalleryError, match=r"before this process was forked.* open it"):
                write()
        with Gallery(gallery.path, create=False) as own:
            own.add_code("child", codes(1)[0])
        assert "child" in gallery
        gallery.close()

    assert in_a_child(use)
    gallery.add_code("parent", codes(1)[0])
    assert len(gallery) == 32
    gallery.close()
    assert verify_gallery(gallery.path).is_sound


def test_a_child_that_was_forked_in_a_transaction_leaves_it_alone(gallery):
    def use():
        with pytest.raises(GalleryError, match="a transaction was open when this process was for"):
            len(gallery)
        with Gallery(gallery.path, create=False) as own:
            assert len(own) == 30

    with gallery.transaction():
        gallery.remove("item 1")
        gallery.add_code("parent", codes(1)[0])
        gallery.add_code("parent 2", codes(1)[0])
        assert in_a_child(use)
    assert len(gallery) == 31
    gallery.close()
    assert verify_gallery(gallery.path).is_sound


@pytest.mark.parametrize("fails", [False, True])
def test_a_child_that_leaves_the_transaction_changes_nothing(gallery, fails):
    """Neither its commit, nor its exception, nor closing reaches what the parent writes."""
    parent = os.getpid()
    try:
        with gallery.transaction():
            gallery.upsert(items(500, seed=2))
            child = os.fork()
            if child == 0 and fails:
                raise SystemExit
    except BaseException as error:
        if os.getpid() == parent:
            raise
        gallery.close()
        is_refused = isinstance(error, GalleryError) and "was forked" in str(error)
        os._exit(0 if is_refused or fails else 1)
    if os.getpid() != parent:
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(gallery) == 500
    gallery.close()
    assert verify_gallery(gallery.path).is_sound


def test_a_child_that_was_forked_in_a_read_goes_on_after_it(gallery):
    def use():
        with pytest.raises(GalleryError, match="a transaction was open when this process was for"):
            len(gallery)

    with gallery._store.reading():
        assert in_a_child(use)
        child = os.fork()
    if child == 0:
        os._exit(0 if len(gallery) == 30 else 1)
    assert os.waitpid(child, 0)[1] == 0
    gallery.add_code("ours", codes(1)[0])


@pytest.mark.parametrize("is_long", [False, True])
def test_a_child_does_not_wait_for_a_thread_of_its_parent(gallery, tmp_path, monkeypatch, is_long):
    """A read that ends in time lets the child read; after a long one it gets an error."""
    monkeypatch.setattr(forks, "_WAIT_S", 0.0 if is_long else 60.0)
    reads, is_forking, end = threading.Event(), threading.Event(), threading.Event()
    others = []
    for n in range(3):
        others.append(Gallery(tmp_path / f"other {n}", bits=BITS))
        others[-1].upsert(items(n))
    others.pop(1).close()
    before_fork = forks._all_locks

    def all_locks():
        is_forking.set()
        return before_fork()

    monkeypatch.setattr(forks, "_all_locks", all_locks)

    def read():
        with gallery._store.reading():
            reads.set()
            (end if is_long else is_forking).wait(60)

    def use():
        if is_long:
            for call in (
                gallery.__len__,
                gallery.compact,
                lambda: gallery.backup(tmp_path / "copy"),
                others[0].__len__,
                lambda: Gallery(gallery.path),
            ):
                with pytest.raises(GalleryError, match="another thread was using a gallery when t"):
                    call()
        else:
            assert [len(one) for one in (gallery, *others)] == [30, 0, 2]
        for other in others:
            other.close()
        gallery.close()

    thread = threading.Thread(target=read)
    thread.start()
    assert reads.wait(60)
    try:
        assert in_a_child(use)
    finally:
        end.set()
        thread.join()
    assert len(gallery) == 30
    gallery.add_code("ours", codes(1)[0])
    for other in others:
        other.close()


def test_a_child_ends_although_a_thread_of_its_parent_was_writing(gallery):
    """At its end Python frees what is left: not the connection that a thread was using."""
    writes, end = threading.Event(), threading.Event()

    def write():
        with gallery.transaction():
            gallery.remove("item 1")
            writes.set()
            end.wait(60)

    thread = threading.Thread(target=write)
    thread.start()
    assert writes.wait(60)
    child = os.fork()
    if child == 0:
        gallery.__dict__.clear()  # frees the store
        os._exit(0)
    try:
        assert os.waitpid(child, 0)[1] == 0
    finally:
        end.set()
        thread.join()
    assert len(gallery) == 29
    gallery.close()
    assert verify_gallery(gallery.path).is_sound


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_locks_are_free_after_a_fork_wherever_it_is_interrupted(gallery):
    """Wherever Python looks for signals: at the start, after a call, and in loops."""

    def looks_for_signals(code, offset):
        before = [one.opname for one in dis.get_instructions(code) if one.offset < offset]
        return before[-1:] and before[-1].startswith(("RESUME", "CALL", "JUMP_BACKWARD"))

    def forked(after):
        steps = 0

        def trace(frame, event, argument):
            nonlocal steps
            if frame.f_code.co_filename != forks.__file__:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode" and looks_for_signals(frame.f_code, frame.f_lasti):
                steps += 1
                if steps == after:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            with suppress(KeyboardInterrupt):
                forks._before_fork()
            forks._forks.clear()
        finally:
            sys.settrace(None)
        return steps >= after

    def is_free(lock):
        free = []

        def take():
            free.append(lock.acquire(blocking=False))
            if free[0]:
                lock.release()

        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
        return free[0]

    after = 1
    while forked(after):
        assert is_free(gallery._store._lock), after
        assert is_free(forks._one_fork), after
        after += 1
    assert after > 15


def test_a_gallery_stays_itself_when_the_working_directory_changes(tmp_path, monkeypatch):
    for name, key in (("a", "mine"), ("b", "other")):
        (tmp_path / name).mkdir()
        with Gallery(tmp_path / name / "g", bits=BITS) as gallery:
            gallery.add_code(key, codes(1)[0])
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    with Gallery("g", bits=BITS) as gallery:
        for folder in ("b", "empty"):
            monkeypatch.chdir(tmp_path / folder)
            assert "mine" in gallery
            assert "other" not in gallery
            gallery.add_code(f"written in {folder}", codes(1)[0])
            gallery.rename(f"written in {folder}", folder)
            gallery.compact()
            gallery.backup("copy")
            assert (tmp_path / folder / "copy").exists()
        add_in_another_process(tmp_path / "a" / "g", 1)
        assert len(gallery) == 4
    with Gallery(tmp_path / "b" / "g") as other:
        assert list(other) == ["other"]
    assert not (tmp_path / "empty" / "g").exists()
