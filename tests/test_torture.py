"""A few cases of each torture test: damage, crashes, Ctrl-C, full disks, concurrent readers."""

import subprocess
import sys

import damage_gallery
import damage_images
import interrupt
import kill
import pytest
import readers
import removed
import renames
import storage
import supervised

from conftest import ROOT

TORTURE = ROOT / "tests" / "torture"


def test_damaged_galleries_give_correct_answers_or_typed_errors():
    words = damage_gallery.damage_galleries(range(150), jobs=2)
    assert words.total() == 165
    assert words["log read in part"] > 3
    assert words["answered in full"] > 10
    assert words["answered in part"] > 10
    assert words["not opened"] > 10


def test_damaged_images_give_pixels_or_typed_errors():
    words = damage_images.damage_images(range(600), jobs=2)
    assert words["read"] > 100
    assert words["refused"] > 100
    assert words["bombs refused"] >= 12


def test_killed_processes_lose_nothing_they_reported():
    words = kill.kill(range(20), jobs=1)
    assert words.total() == 20
    assert len(words) >= 5  # each kind of work, and some of it half done


def test_interrupted_calls_leave_nothing_open():
    words = interrupt.interrupt(range(600), jobs=1)
    assert set(words.values()) == {600 // len(interrupt.CALLS)}


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "can_mount", lambda: False)
    case = storage.make_case(tmp_path)
    words = {case(seed) for seed in range(8)}
    assert any("refused" in word for word in words)


def test_readers_see_single_commits_while_another_process_writes():
    assert "8 readers" in readers.readers(3)


def test_removed_data_are_not_in_the_bytes():
    # Without compaction on close, the last case leaves a copy of a row.
    assert removed.remove(range(164, 169), jobs=1) == {"clean": 5}


def test_images_that_change_during_a_sync_get_their_own_codes():
    assert renames.rename(range(40), jobs=2)["changed"] > 30


def crash(seed):
    import ctypes

    return "fine" if seed < 3 else ctypes.string_at(0)


def hang(seed):
    import time

    return "fine" if seed < 3 else time.sleep(60)


def leak(seed, kept=[]):  # noqa: B006
    kept.append(bytearray(200_000))
    kept[-1][::4096] = b"x" * len(kept[-1][::4096])
    return "fine"


def hog(seed):
    return "fine" if seed < 3 else str(len(b"x" * 50_000_000))


def raise_(seed):
    return "fine" if seed < 3 else 1 / 0


@pytest.mark.parametrize(
    ("case", "count", "message"),
    [
        ("crash", 9, "seed 3: the process ended with -11"),
        ("hang", 9, "seed 3: the process ended with 1"),
        ("leak", 400, "400 cases left [34].* MB behind"),
        ("hog", 9, "seed 3: took [45]. MB"),
        ("raise_", 9, "(?s)seed 3: .*ZeroDivisionError"),
    ],
)
def test_violations_are_reported_with_their_seed(case, count, message):
    with pytest.raises(supervised.Violation, match=message):
        supervised.run(_Make(case), range(count), seconds=1, peak_mb=30, growth_mb=20)


class _Make:
    """Makes a case by name in a child process."""

    def __init__(self, name):
        self.name = name

    def __call__(self):
        return globals()[self.name]


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("damage_images.py", ["--count", "30", "--jobs", "1"], "cases from seed 0: "),
        ("readers.py", ["--seconds", "0.5"], " answers to 8 readers"),
    ],
)
def test_the_scripts_print_one_line(script, arguments, expected):
    done = subprocess.run(
        [sys.executable, TORTURE / script, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert expected in done.stdout
    assert done.stdout.count("\n") == 1
