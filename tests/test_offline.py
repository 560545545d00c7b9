"""Nothing leaves the machine: no socket in Python or in a library, no file but the gallery."""

import json
import os
import platform
import signal
import subprocess
import sys

import pytest

from conftest import smooth_image

# Architecture to the number of the `socket` system call.
SOCKET = {"x86_64": 41, "aarch64": 198}

# A kernel filter for this process and all its future threads: opening a socket, even in a library's
# own thread, kills the process with SIGSYS.
FORBID = """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
program = [
    (0x20, 0, 0, 0),                # load the system call number
    (0x15, 0, 1, {number}),         # is it socket?
    (0x06, 0, 0, 0x80000000),       # kill the process
    (0x06, 0, 0, 0x7FFF0000),       # allow
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
filter = Program(len(program), ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0                              # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.byref(filter), 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP
"""

WORK = """
import json, sys
from bitgaze import Encoder, Gallery, verify
with Gallery("g.bitgaze") as gallery:
    gallery.sync("photos")
    distance = gallery.search("photos/a.png")[0].distance
print(json.dumps([distance, verify(Encoder()).is_equal]))
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.jpg"):
        smooth_image(len(name)).save(tmp_path / "photos" / name)
    return tmp_path


def run(script, place):
    inherited = {k: v for k, v in os.environ.items() if k not in {"CI", "ORT_DISABLE_TELEMETRY"}}
    home = {
        "HOME": place / "home",
        "XDG_CACHE_HOME": place / "home",
        "LOCALAPPDATA": place / "home",
    }
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=place,
        env={**inherited, **home},
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(
    platform.machine() not in SOCKET or sys.platform != "linux", reason="Linux only"
)
def test_no_library_opens_a_socket(place):
    forbid = FORBID.format(number=SOCKET[platform.machine()])
    # Test the filter first, with a socket that is not opened by Python code.
    done = run(forbid + f"libc.syscall({SOCKET[platform.machine()]}, 2, 1, 0); print(1)", place)
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, "")
    done = run(forbid + WORK, place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0, True]


def test_no_python_code_opens_a_socket(place):
    forbid = """
import socket
def forbidden(*_, **__):
    raise AssertionError("a socket was opened")
socket.socket = socket.create_connection = socket.getaddrinfo = forbidden
"""
    assert "a socket was opened" in run(forbid + "socket.socket()", place).stderr
    done = run(forbid + WORK, place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0, True]


def test_only_the_gallery_is_written(place):
    """onnxruntime's telemetry keeps a device id and a database in the user's cache folder."""
    done = run(WORK, place)
    assert done.returncode == 0, done.stderr
    assert list((place / "home").rglob("*")) == []
    assert {path.name for path in place.iterdir()} == {"home", "photos", "g.bitgaze"}
