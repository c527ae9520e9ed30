"""A running `koma serve` with the four demo models, shared by all HTTP tests.

`KOMA_BIN` names the binary, `KOMA_TEST_MODELS` the folder of fetched demo models (scripts/test sets both).
"""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_TIMEOUT = 300


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@dataclass
class Reply:
    """One HTTP reply."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def error(self) -> dict[str, Any]:
        """The body of OpenAI's error envelope; fails if the reply is no such envelope."""
        error = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert error["message"], error
        return error


@dataclass
class Server:
    """A server process and ways to talk to it."""

    process: subprocess.Popen[str]
    port: int
    log: list[str] = field(default_factory=list)

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """One request on a connection of its own. `body`: JSON-able, or bytes as they are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            raw = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
            connection.request(method, path, raw, {"content-type": "application/json"} | (headers or {}))
            reply = connection.getresponse()
            return Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def get(self, path: str, headers: dict[str, str] | None = None) -> Reply:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Reply:
        return self.request("POST", path, body, headers)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a series' samples whose labels include `labels`."""
        total = 0.0
        for line in self.get("/metrics").body.decode().splitlines():
            series, _, value = line.rpartition(" ")
            head, _, rest = series.partition("{")
            if head == name and all(f'{k}="{v}"' in rest for k, v in labels.items()):
                total += float(value)
        return total

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="unused", max_retries=0, timeout=600)


def start(*arguments: str, port: int | None = None, env: dict[str, str] | None = None) -> Server:
    """Starts `koma serve` and reads its log in the background."""
    port = port or free_port()
    process = subprocess.Popen(
        [os.environ["KOMA_BIN"], "serve", *arguments, "--port", str(port)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=os.environ | (env or {}),
    )
    server = Server(process, port)

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            server.log.append(line.rstrip("\n"))

    threading.Thread(target=read, daemon=True).start()
    return server


def wait_ready(server: Server) -> None:
    """Polls /ready until it answers 200; fails if the process ends before."""
    waiter = threading.Event()
    for _ in range(START_TIMEOUT * 10):
        assert server.process.poll() is None, "the server ended:\n" + "\n".join(server.log)
        try:
            if server.get("/ready").status == 200:
                return
        except OSError:
            pass
        waiter.wait(0.1)
    raise AssertionError("not ready:\n" + "\n".join(server.log))


def stop(server: Server) -> int:
    """Asks the server to end and returns its exit status."""
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
    return server.process.wait(timeout=60)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo server: chat, embed, intent, rerank; the encoders in f32, as what they answer is compared with references."""
    models = pathlib.Path(os.environ["KOMA_TEST_MODELS"])
    sources = {
        "chat": (models / "chat.gguf", "auto"),
        "embed": (models / "embed", "f32"),
        "intent": (ROOT / "tests/models/intent", "f32"),
        "rerank": (ROOT / "tests/models/rerank", "f32"),
    }
    table = "[[model]]\nname = {}\nsource = {}\ndtype = {}\n"
    tables = [table.format(*map(json.dumps, (name, str(source.resolve()), dtype))) for name, (source, dtype) in sources.items()]
    config = tmp_path_factory.mktemp("server") / "koma.toml"
    config.write_text("\n".join(['kv-cache-memory = "512M"', *tables]), encoding="utf-8")
    running = start("--config", str(config))
    try:
        wait_ready(running)
        yield running
        assert running.process.poll() is None, "the server died during the tests:\n" + "\n".join(running.log)
    finally:
        status = stop(running)
    assert status == 0, f"exit status {status}:\n" + "\n".join(running.log)


@pytest.fixture(scope="session")
def client(server: Server) -> openai.OpenAI:
    return server.client()
