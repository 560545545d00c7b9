"""`bitgaze serve` as a process: its output, errors and requirements."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest

from bitgaze import Gallery
from bitgaze.server import run
from bitgaze.server.observe import SHARED_COUNTS
from serving import TOKEN, client_of, refusal


@pytest.fixture(scope="module")
def gallery(pets_gallery):
    return pets_gallery


@pytest.fixture
def owl_bytes(pets):
    return (pets / "birds" / "owl.jpg").read_bytes()


def started(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "bitgaze.cli", "serve", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def test_the_command_prints_its_address_and_nothing_else(gallery, owl_bytes):
    server = started("-g", gallery.path, "--port", 0)
    try:
        assert server.stdout.readline() == f"{gallery.path}: 5 images\n"
        address = re.fullmatch(
            r"(http://127\.0\.0\.1:\d+/)  \(press Ctrl-C to stop\)\n", server.stdout.readline()
        )[1]
        assert httpx.post(f"{address}api/search", content=owl_bytes).status_code == 200
        assert httpx.post(f"{address}api/search", content=b"no image").status_code == 422
    finally:
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=30)
    assert (out, err) == ("", "")
    assert server.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, 127.0.0.2 is not configured")
def test_another_loopback_address_requires_no_token(gallery):
    server = started("-g", gallery.path, "--port", 0, "--host", "127.0.0.2", "--json")
    try:
        address = json.loads(server.stdout.readline())["address"]
        assert address.startswith("http://127.0.0.2:")
        assert httpx.get(f"{address}api/gallery").status_code == 200
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)


@pytest.mark.parametrize("given", [None, "option", "environment"])
def test_a_non_loopback_address_requires_a_token(gallery, given):
    arguments = ["-g", gallery.path, "--port", 0, "--host", "0.0.0.0", "--json"]
    environment = {}
    if given == "option":
        arguments += ["--token", TOKEN]
    if given == "environment":
        environment["BITGAZE_TOKEN"] = TOKEN
    server = started(*arguments, **environment)
    try:
        facts = json.loads(server.stdout.readline())
        assert facts["items"] == 5
        place = urlsplit(facts["address"])
        token = re.fullmatch(r"token=([\w-]+)", place.query)[1]
        assert len(token) >= 16
        assert given is None or token == TOKEN
        with httpx.Client(base_url=f"http://127.0.0.1:{place.port}") as client:
            assert client.get("/api/gallery").status_code == 401
            assert client.get(f"/?token={token}").status_code == 303
            assert client.get("/api/gallery").status_code == 200
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)


def test_workers_are_replaced_and_log_a_line_of_json_a_request(gallery, owl_bytes):
    server = started("-g", gallery.path, "--port", 0, "--json", "--workers", 2, "--log")
    log = []
    reading = threading.Thread(target=lambda: log.extend(map(json.loads, server.stderr)))
    reading.start()

    def workers():
        """Those that serve, the oldest first."""
        begun = [e["process"] for e in log if e["event"].startswith("Started server process")]
        return [process for process in begun if Path(f"/proc/{process}").exists()]

    def wait_for(condition):
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, log
            assert client.get("api/gallery").status_code == 200  # all the while
            time.sleep(0.05)

    try:
        address = json.loads(server.stdout.readline())["address"]
        limits = httpx.Limits(max_keepalive_connections=0)  # to reach any worker
        with httpx.Client(base_url=address, timeout=60, limits=limits) as client:
            wait_for(lambda: len(workers()) == 2)
            first, second = workers()
            server.send_signal(signal.SIGHUP)
            wait_for(lambda: len(workers()) == 2 and not {first, second} & {*workers()})
            killed = workers()[0]
            os.kill(killed, signal.SIGKILL)
            wait_for(lambda: len(workers()) == 2 and killed not in workers())
            assert client.post("api/search?k=1", content=owl_bytes).status_code == 200
            assert client.get("secret?key=owl").status_code == 404
            counts = client.get("metrics").text  # of all workers, also those that have ended
    finally:
        server.terminate()
        out, _ = server.communicate(timeout=30)
        reading.join()
    assert (out, server.returncode) == ("", 0)
    requests = [entry for entry in log if entry["event"] == "request"]
    answered = Counter((e["method"], e["route"], e["status"]) for e in requests)
    assert answered.pop(("GET", "/metrics", 200)) == 1
    assert answered[("POST", "/api/search", 200)] == answered[("GET", "other", 404)] == 1
    counted = {
        (method, route, int(status)): float(number)
        for method, route, status, number in re.findall(
            r'^bitgaze_requests_total{method="(.*)",route="(.*)",status="(.*)"} (.*)$', counts, re.M
        )
    }
    assert counted == answered
    assert "owl" not in json.dumps(log)
    assert {entry["process"] for entry in log} > {first, second, killed, server.pid}


def test_a_worker_that_cannot_start_stops_the_server(gallery, tmp_path):
    path = tmp_path / "g.bitgaze"
    gallery.backup(path)
    (tmp_path / "serve.py").write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from bitgaze.cli import serve\n"
        "from bitgaze.cli.main import main\n"
        "from bitgaze.server import run\n"
        "run._WORKER_SECONDS = 5  # the time it takes to notice that one has ended\n"
        "serve.say = lambda *lines: Path(sys.argv[1]).unlink()  # before the workers start\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(main(['serve', '-g', sys.argv[1], '--port', '0', '--workers', '1']))\n"
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "serve.py", path], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no such gallery" in done.stderr
    assert "no worker could start" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_logs_no_malformed_form(gallery, caplog):
    logging.getLogger("python_multipart").setLevel(logging.NOTSET)  # as in a new process
    app = run._worker_app(lambda: gallery, log=False)
    with client_of(app) as client:
        form = {"content-type": "multipart/form-data; boundary=abc"}
        answer = client.post("/api/search", content=b"no form", headers=form)
    assert refusal(answer, 400)[0] == "bad_request"
    assert caplog.records == []


def test_an_error_of_a_worker_is_a_line_of_json_in_the_log():
    for error, has_traceback in (("bitgaze.BitgazeError", False), ("KeyError", True)):
        script = (
            "import bitgaze\n"
            "from bitgaze.server.run import _worker_app\n"
            "def fail():\n"
            f"    raise {error}('no such gallery')\n"
            "_worker_app(fail, log=True)\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 3
        (entry,) = map(json.loads, done.stderr.splitlines())
        assert entry["level"] == "error"
        assert "no such gallery" in entry["event"]
        assert ("error" in entry) is has_traceback


@pytest.mark.parametrize("before", [None, "/metrics of another server"])
def test_the_environment_is_as_before_when_workers_have_ended(monkeypatch, before):
    if before is None:
        monkeypatch.delenv(SHARED_COUNTS, raising=False)
    else:
        monkeypatch.setenv(SHARED_COUNTS, before)
    folders = []

    class Supervisor:
        processes = ()

        def __init__(self, config, sockets):
            pass

        def run(self):
            folders.append(Path(os.environ[SHARED_COUNTS]))
            assert folders[-1].is_dir()
            if len(folders) == 2:
                raise OSError("no more processes")

    monkeypatch.setattr(run, "Multiprocess", Supervisor)
    run.serve_with_workers(Gallery, 1, port=0, on_start=lambda address: None)
    with pytest.raises(OSError, match="no more processes"):
        run.serve_with_workers(Gallery, 1, port=0, on_start=lambda address: None)
    assert os.environ.get(SHARED_COUNTS) == before
    assert not any(folder.exists() for folder in folders)


def test_wrong_options_stop_with_a_message(gallery, tmp_path):
    def stopped(*arguments):
        with started("-g", gallery.path, *arguments) as server:
            out, err = server.communicate()
        assert (out, server.returncode) == ("", 2)
        assert err.startswith("bitgaze: ")
        assert "Traceback" not in err
        return err

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1 port {port}" in (err := stopped("--port", port))
        assert "choose another with --port" in err
    # An address reserved for documentation.
    assert "192.0.2.1: not an address of this machine" in stopped("--host", "192.0.2.1")
    assert "no.such.host.invalid" in stopped("--host", "no.such.host.invalid")
    assert "port is 70000, expected 0 to 65535" in stopped("--port", 70000)
    for token in ("", "short", "with spaces and ; more", "\u20ac" * 16):
        assert "expected 16 or more" in stopped("--token", token, "--port", 0)
    assert "expected 16 or more" in stopped("--token", "", "--host", "0.0.0.0", "--port", 0)
    assert "no such gallery" in stopped("-g", tmp_path / "none.bitgaze")
    assert "workers is 0, expected at least 1" in stopped("--workers", 0)
    assert "expected 16 or more" in stopped("--token", "short", "--workers", 1)


def test_a_missing_package_is_named(gallery):
    for name in ("starlette", "uvicorn", "python_multipart", "prometheus_client", "anyio"):
        script = (
            f"import sys; sys.modules[{name!r}] = None\n"
            "from bitgaze.cli.main import main; sys.exit(main(sys.argv[1:]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, "serve", "-g", gallery.path],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert done.stderr == (
            f"bitgaze: bitgaze serve requires {name}, which is not installed: "
            "pip install 'bitgaze[serve]'\n"
        )
