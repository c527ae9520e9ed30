"""What is measured of servers: time from exec to the first streamed token, and load over HTTP with peak memory."""

from __future__ import annotations

import http.client
import json
import random
import socket
import statistics
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Iterator

from . import processes
from .cases import Case
from .contender import Contender, ServerCommand, Setting

#: vLLM compiles its model before it answers.
START_SECONDS = 600.0
#: Between two attempts to get an answer from a server that is starting.
PAUSE_SECONDS = 0.01
#: Requests of a measurement for each client.
REQUESTS_EACH = 4
#: Requests of a measurement of texts.
REQUESTS_CLASSIFY, REQUESTS_RERANK, WARMUP_RERANK = 3000, 20, 3
WORDS = "the of and to in is that for it as was with be by on not he his but at are this have from they which one you were all".split()
#: Words of a query, and tokens that a pair has beside its words.
QUERY_WORDS, SPECIAL = 8, 3


def first_token(contender: Contender, case: Case) -> dict[str, float]:
    """Of the second of two starts: the first brings the file into the page cache."""
    for _ in range(2):
        with running(contender.server, case) as (_, seconds):
            pass
    return {"first_token": seconds}


def http_load(contender: Contender, case: Case, setting: Setting) -> dict[str, float]:
    """Load, and the peak memory of the server after it."""
    with running(contender.server, case) as (server, _):
        command = [setting.koma, "bench", "serve", "--url", f"http://127.0.0.1:{server.port}", "--model", "model"]
        command += ["--input-len", case.input_len, "--output-len", case.output_len, "--concurrency", case.batch]
        command += ["--requests", REQUESTS_EACH * case.batch, "--warmup", case.batch]
        # A connection each: llama-server drops some that are kept.
        command += ["--new-connections", "--json", "-"]
        text = processes.output([str(part) for part in command], setting.environment(), setting.timeout)
        found = load(text, case)
        found["memory"] = processes.peak_bytes(server.process.pid) / 2**20
    return found


def ready(contender: Contender, case: Case) -> dict[str, float]:
    """Of the second of two starts, as in `first_token`."""
    for _ in range(2):
        with running(contender.server, case, contender.health) as (_, seconds):
            pass
    return {"ready": seconds}


def classify(contender: Contender, case: Case, setting: Setting) -> dict[str, float]:
    """Rate and percentiles. Raises Failed where a request failed."""
    with running(contender.server, case, contender.health) as (server, _):
        command = [setting.koma, "bench", "serve", "--url", f"http://127.0.0.1:{server.port}", "--model", "model"]
        command += ["--endpoint", "classify", "--words", "--input-len", case.input_len, "--concurrency", case.batch]
        command += ["--warmup", 2 * case.batch, "--requests", REQUESTS_CLASSIFY, "--json", "-"]
        text = processes.output([str(part) for part in command], setting.environment(), setting.timeout)
    series = series_of(text)
    whole = series["results"]["end_to_end"]
    return {"requests": series["requests_per_second"], "request_p50": whole["p50"] * 1e3, "request_p99": whole["p99"] * 1e3}


def rerank(contender: Contender, case: Case, setting: Setting) -> dict[str, float]:
    """Times of requests one after the other on one connection. Raises Failed where one failed.

    Servers count the tokens of texts in ways of their own, so the texts themselves are the same for all.
    """
    with running(contender.server, case, contender.health) as (server, _):
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=setting.timeout)
        times = []
        try:
            for number in range(WARMUP_RERANK + REQUESTS_RERANK):
                body = json.dumps(rerank_body(case, number))
                begun = time.perf_counter()
                client.request("POST", "/v1/rerank", body, {"content-type": "application/json"})
                reply = client.getresponse()
                found = json.loads(reply.read())
                times.append(time.perf_counter() - begun)
                if reply.status != 200 or len(found["results"]) != case.batch:
                    raise processes.Failed(f"http {reply.status}: {str(found)[:150]}")
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise processes.Failed(f"{type(error).__name__}: {error}") from None
        finally:
            client.close()
    times = sorted(times[WARMUP_RERANK:])
    return {"request_p50": statistics.median(times) * 1e3, "request_p99": times[-1 - len(times) // 100] * 1e3}


def rerank_body(case: Case, number: int) -> dict[str, object]:
    """A query and a document for each length, of frequent words, one token each; in another order in every request."""
    rng = random.Random(number)
    text = lambda words: " ".join(rng.choices(WORDS, k=words))
    lens = rng.sample(case.lens, case.batch)
    return {"model": "model", "query": text(QUERY_WORDS), "documents": [text(n - QUERY_WORDS - SPECIAL) for n in lens]}


def series_of(text: str) -> dict:
    """The one series of the JSON of `koma bench serve`. Raises Failed where a request failed."""
    report = json.loads(text)
    if report.get("schema") != "koma.bench.serve/1":
        raise processes.Failed(f"schema {report.get('schema')!r} of koma bench serve is not known here")
    (series,) = report["series"]
    if series["failed"]:
        raise processes.Failed(f"{series['failed']} requests failed: {series['errors']}")
    return series


def load(text: str, case: Case) -> dict[str, float]:
    """Rate and tail of the JSON of `koma bench serve`. Raises Failed where a request failed or had another length."""
    series = series_of(text)
    asked = REQUESTS_EACH * case.batch
    for which in ("input_lengths", "output_lengths"):
        if series[which]["exact"] != asked:
            raise processes.Failed(f"{which} of {asked} requests: {series[which]}")
    return {
        "served": series["output_tokens_per_second"],
        "itl_p99": series["results"]["inter_token_latency"]["p99"] * 1e3,
    }


@dataclass(frozen=True)
class Server:
    """A process and the port it was told."""

    process: subprocess.Popen
    port: int


@contextmanager
def running(server: ServerCommand, case: Case, path: str = "/v1/completions") -> Iterator[tuple[Server, float]]:
    """A server that has answered, and the seconds from exec to its first token; to any answer of another `path`."""
    port = _free_port()
    command, env = server(port, case)
    nothing = subprocess.DEVNULL
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=nothing, stderr=nothing, start_new_session=True)
        try:
            _until_answered(process, port, start, path)
            yield Server(process, port), time.perf_counter() - start
        finally:
            processes.end(process)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _until_answered(process: subprocess.Popen, port: int, start: float, path: str) -> None:
    while time.perf_counter() - start < START_SECONDS:
        if process.poll() is not None:
            raise processes.Failed(f"the server ended with {process.returncode}")
        try:
            if _answers(port, path):
                return
        except OSError:
            pass
        time.sleep(PAUSE_SECONDS)
    raise processes.Failed(f"the server does not answer after {START_SECONDS:.0f} s")


def _answers(port: int, path: str) -> bool:
    """Asks for two tokens, or for what is at another `path`; true when the first of it has come."""
    body = {"model": "model", "prompt": "Hello", "max_tokens": 2, "stream": True, "temperature": 0}
    data, awaited = (json.dumps(body).encode(), b"data:") if path == "/v1/completions" else (b"", b"\r\n\r\n")
    head = f"{'POST' if data else 'GET'} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), START_SECONDS) as connection:
        connection.sendall(head.encode() + data)
        reply = b""
        while awaited not in reply:
            part = connection.recv(65536)
            if not part:
                return False
            reply += part
        return b" 200 " in reply.split(b"\r\n", 1)[0]
