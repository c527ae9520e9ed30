"""The progress bars of work other than loading, as a person at a terminal meets them."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ROOT, Server
from terminal import Terminal

KOMA = os.environ["KOMA_BIN"]
MODEL = ROOT / "tests/golden/bert_classify/model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def terminal() -> Iterator:
    """Starts `koma` in a terminal."""
    started: list[Terminal] = []

    def start(*arguments: str, **changes: str) -> Terminal:
        started.append(Terminal(KOMA, *arguments, **changes))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def gone(terminal: Terminal) -> None:
    """The program ends well, and no bar is left on the last line that had one."""
    assert terminal.end() == 0, terminal.text
    assert "\x1b[2K" in terminal.raw, "a bar is wiped away when the work is done"


class Hub(BaseHTTPRequestHandler):
    """A repository with the files of `MODEL`, whose weights come only when `release` is set."""

    release = threading.Event()

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path.startswith("/api/"):
            siblings = [{"rfilename": path.name} for path in sorted(MODEL.iterdir())]
            info = {"_id": "1", "id": "owner/tiny", "sha": COMMIT, "siblings": siblings}
            self.answer(json.dumps(info).encode(), Content_Type="application/json")
            return
        name = self.path.rsplit("/", 1)[1]
        body = (MODEL / name).read_bytes()
        if name.endswith(".safetensors") and self.command == "GET":
            assert self.release.wait(120)
        self.answer(body, ETag=f'"{hashlib.sha256(body).hexdigest()}"')

    do_HEAD = do_GET


def test_fetching_is_shown(terminal, tmp_path: pathlib.Path) -> None:
    hub = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
    shown = terminal("run", "classify", "owner/tiny", "Hello", HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path))
    shown.until(r"fetching tiny \[[^\]]*\] +\d+ % of [\d.]+ \w+, ")
    Hub.release.set()
    gone(shown)
    hub.shutdown()


def test_unpacking_is_shown(terminal, tmp_path: pathlib.Path) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        for path in sorted(MODEL.iterdir()):
            packed.add(path, path.name)
    shown = terminal("run", "classify", str(archive), "Hello", XDG_CACHE_HOME=str(tmp_path))
    shown.until(r"unpacking model \[")
    gone(shown)


def test_measuring_is_shown(terminal) -> None:
    shown = terminal("bench", "latency", str(ROOT / "tests/models/intent"), "--runs", "3", "--input-len", "8")
    shown.until(r"measuring \[[^\]]*\] \d+ of 5, ")
    shown.until("end to end")
    gone(shown)


def test_measuring_a_server_is_shown_and_stopped(server: Server, terminal, tmp_path: pathlib.Path) -> None:
    result = tmp_path / "result.json"
    url = f"http://127.0.0.1:{server.port}"
    arguments = ["bench", "serve", "--url", url, "--model", "intent", "--endpoint", "classify", "--input-len", "8"]
    # The second pace would take for ever.
    arguments += ["--requests", "5", "--concurrency", "2", "--json", str(result)]
    shown = terminal(*arguments)
    shown.until(r"warming up \[[^\]]*\] \d+ of 8, ")
    shown.until(r"2 at once \[[^\]]*\] \d+ of 5, ")
    shown.until("5 of 5 requests answered")
    gone(shown)
    assert json.loads(result.read_text())["series"][0]["answered"] == 5
    # What was measured before Ctrl-C is kept.
    arguments = [*arguments[:-4], "--rate", "1000,0.000001", "--json", str(result)]
    shown = terminal(*arguments)
    shown.until(r"0.000001 a second \[")
    shown.type("\x03")
    shown.until("5 of 5 requests answered")
    shown.until("stopped: 1 of 2 measurements are whole")
    assert shown.end() == 1
    assert len(json.loads(result.read_text())["series"]) == 1
