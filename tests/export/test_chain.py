"""The whole way: `koma export`, `koma export compile`, `koma serve --device neuron`, and answers over HTTP that are the CPU's.

The compiler and the runtime are stand-ins (`stand_in_cc.py`, `tests/fake_nrt`): what the "device" gives are the rows that XLA computed
of the exported module for the same bucket. So this proves everything around a device, and nothing about Neuron.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import GOLDEN, ROOT, case, koma, manifest

# Weights in the modules for one, beside them for the others.
MODELS = {"intent": "distilbert_classify", "rerank": "bert_cross", "embed": "bert_embed_mean"}
NEAR = 1e-4


def rows_of(name: str) -> list[dict[str, Any]]:
    """What the texts of a fixture become; of pairs, each query with each document."""
    inputs = case(name)["inputs"]
    if name != MODELS["rerank"]:
        return inputs

    def part(row: dict[str, Any], segment: int) -> list[int]:
        return [i for i, kind in zip(row["ids"], row["type_ids"]) if kind == segment]

    pairs = [(part(query, 0), part(document, 1)) for query in inputs for document in inputs]
    return [{"ids": q + d, "type_ids": [0] * len(q) + [1] * len(d)} for q, d in pairs]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The models, each with its compiled export."""
    folder = tmp_path_factory.mktemp("chain")
    compiler = folder / "neuronx-cc"
    compiler.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/tests/export/stand_in_cc.py" "$@"\n', encoding="utf-8")
    compiler.chmod(0o755)
    for name, fixture in MODELS.items():
        model = folder / name
        shutil.copytree(GOLDEN / fixture / "model", model)
        weights = "inline" if name == "intent" else "separate"
        flags = ["--batch", "1,4", "--seq", case(fixture)["limit"], "--weights", weights]
        done = koma(model, "--out", model / "neuron", *flags)
        assert done.returncode == 0, done.stderr
        rows = folder / "rows.json"
        rows.write_text(json.dumps(rows_of(fixture)), encoding="utf-8")
        environment = {"NEURON_CC": str(compiler), "STAND_IN_ROWS": str(rows)}
        done = koma("compile", model / "neuron", "--target", "inf2", environment=environment)
        assert done.returncode == 0, done.stderr
        buckets = manifest(model / "neuron")["buckets"]
        assert all(bucket["neff"]["compiler"] == "neuronx-cc 0.0.stand-in" for bucket in buckets)
    return folder


def stand_in(models: pathlib.Path, faults: str) -> pathlib.Path:
    """A library of its own in the place of the runtime."""
    place = models / f"nrt-{len(list(models.glob('nrt-*')))}"
    place.mkdir()
    library = place / "libnrt.so.1"
    source = ROOT / "tests" / "fake_nrt" / "fake_nrt.c"
    words = ["cc", "-std=c11", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(words, check=True)
    library.with_name("libnrt.so.1.conf").write_text(f"cores 2\n{faults}", encoding="utf-8")
    return library


class Server:
    """A server over the models: on the stand-in for a device that is told `faults`, or on the CPU."""

    def __init__(self, models: pathlib.Path, faults: str | None):
        self.told = None
        flags = ["--dtype", "f32"]
        if faults is not None:
            library = stand_in(models, faults)
            self.told = library.with_name("libnrt.so.1.live")
            flags += ["--device", "neuron", "--neuron-library", str(library)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        words = [os.environ["KOMA_BIN"], "serve", *(f"{name}={models / name}" for name in MODELS), *flags]
        self.log: list[str] = []
        self.process = subprocess.Popen([*words, "--port", str(self.port)], stderr=subprocess.PIPE, text=True)
        threading.Thread(target=lambda: self.log.extend(self.process.stderr or []), daemon=True).start()

    def __enter__(self) -> Server:
        waiter = threading.Event()
        for _ in range(3000):
            assert self.process.poll() is None, "".join(self.log)
            try:
                if self.ask("GET", "/ready")[0] == 200:
                    return self
            except OSError:
                pass
            waiter.wait(0.1)
        raise AssertionError("".join(self.log))

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=120) == 0, "".join(self.log)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request(method, path, body and json.dumps(body), {"content-type": "application/json"})
            reply = connection.getresponse()
            text = reply.read().decode()
            return reply.status, json.loads(text) if text.startswith(("{", "[")) else text
        finally:
            connection.close()

    def post(self, path: str, body: Any) -> Any:
        status, reply = self.ask("POST", path, body)
        assert status == 200, (path, body, status, reply)
        return reply

    def closed(self) -> dict[str, int]:
        """What the stand-in counted until it was closed."""
        assert self.told is not None
        words = self.told.read_text(encoding="utf-8").split()
        return {name: int(count) for name, count in (word.split("=") for word in words)}


def texts(name: str) -> list[dict[str, Any]]:
    return [one for one in case(MODELS[name])["inputs"] if one["text"]]


def answers(server: Server) -> dict[str, Any]:
    """Every route, one text and many at once, what stands beside the numbers left out."""
    single, many = texts("intent"), [one["text"] for one in texts("intent")]
    pairs, found = texts("rerank"), {}
    with ThreadPoolExecutor(8) as pool:
        found["one by one"] = list(
            pool.map(lambda one: server.post("/classify", {"model": "intent", "input": one["text"]})["data"], single)
        )
    found["together"] = server.post("/classify", {"model": "intent", "input": many})["data"]
    found["raw"] = server.post("/classify", {"model": "intent", "input": many, "raw_scores": True})["data"]
    found["ranks"] = [
        server.post(
            "/v1/rerank",
            {"model": "rerank", "query": query["text"], "documents": [one["pair"] for one in pairs]},
        )["results"]
        for query in pairs
    ]
    sentences = [one["text"] for one in texts("embed")]
    found["vectors"] = server.post("/v1/embeddings", {"model": "embed", "input": sentences})["data"]
    whole = {"model": "embed", "input": sentences, "normalize": False}
    found["whole vectors"] = server.post("/v1/embeddings", whole)["data"]
    return found


def check_same(left: Any, right: Any, where: str = "") -> int:
    """Fails if two answers differ by more than rounding; how many numbers were compared."""
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        return sum(check_same(left[key], right[key], f"{where}.{key}") for key in left)
    if isinstance(left, list):
        assert len(left) == len(right), where
        return sum(check_same(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(left, right)))
    if isinstance(left, float):
        assert abs(left - right) <= NEAR, (where, left, right)
        return 1
    assert left == right, where
    return 0


@pytest.fixture(scope="session")
def of_the_cpu(models: pathlib.Path) -> dict[str, Any]:
    with Server(models, None) as server:
        return answers(server)


def test_a_device_answers_as_the_cpu_does(models: pathlib.Path, of_the_cpu: dict[str, Any]) -> None:
    with Server(models, "") as server:
        found = answers(server)
        listed = {one["id"]: one for one in server.ask("GET", "/v1/models")[1]["data"]}
        metrics = server.ask("GET", "/metrics")[1]
    numbers = check_same(found, of_the_cpu)
    # 3 labels of 7 texts, three ways; 3 queries with as many documents; 7 vectors, two ways.
    assert numbers == 3 * 7 * 3 + 3 * 3 + 2 * 7 * 32
    for key, unit in [("vectors", True), ("whole vectors", False)]:
        lengths = [math.hypot(*one["embedding"]) for one in found[key]]
        assert all((abs(length - 1) < 1e-4) == unit for length in lengths), (key, lengths)
    assert all("neuron" in json.dumps(listed[name]) for name in MODELS), listed
    executed = [float(line.rpartition(" ")[2]) for line in metrics.splitlines() if re.match(r"koma_neuron_executions_total\{", line)]
    closed = server.closed()
    assert closed["executions"] == sum(executed) > 0
    assert closed["core0"] > 0 and closed["core1"] > 0
    assert [closed[kind] for kind in ("models", "tensors", "sets", "misuse")] == [0, 0, 0, 0], closed


def test_wrong_rows_would_be_noticed(models: pathlib.Path, of_the_cpu: dict[str, Any]) -> None:
    wrong = json.loads(json.dumps(of_the_cpu))
    wrong["vectors"][0]["embedding"][0] += 1e-3
    with pytest.raises(AssertionError):
        check_same(wrong, of_the_cpu)
    with Server(models, "") as server:
        # Nobody recorded this text: the stand-in refuses it, it does not make something up.
        status, reply = server.ask("POST", "/classify", {"model": "intent", "input": "manga manga manga"})
    assert status == 500, reply


def test_the_device_is_verified_against_transformers(models: pathlib.Path) -> None:
    library = stand_in(models, "")
    for name, fixture in MODELS.items():
        folder = pathlib.Path(shutil.copytree(models / name, models / "verified" / name)) / "neuron"
        assert koma("verify", folder).returncode == 0
        flags = ["--device", "neuron", "--neuron-library", library, "--golden", GOLDEN / fixture]
        done = koma("verify", folder, *flags)
        assert done.returncode == 0, done.stdout + done.stderr
        written = manifest(folder)
        assert written["status"] == "device-verified"
        for bucket in written["buckets"]:
            found = bucket["neff"]["device_parity"]
            assert found["reference"].startswith("transformers") and found["runner"] == "libnrt 2.99.1.0"
            assert 0 < found["max_abs"] <= 2e-5 and found["cases"] == len(case(fixture)["inputs"])
    done = koma("verify", models / "intent" / "neuron", "--device", "neuron", "--neuron-library", "/nowhere/libnrt.so.1")
    assert done.returncode == 1 and "/nowhere/libnrt.so.1" in done.stderr, done.stderr


def test_what_gives_no_numbers_is_computed_by_the_cpu(models: pathlib.Path, of_the_cpu: dict[str, Any]) -> None:
    """The other faults of a device: `server/tests/neuron.rs`."""
    body = {"model": "intent", "input": texts("intent")[0]["text"]}
    with Server(models, "nrt_execute 1003 1 1\n") as server:
        found = [server.post("/classify", body)["data"] for _ in range(3)]
        metrics = server.ask("GET", "/metrics")[1]
    for answered in found:
        check_same(answered, of_the_cpu["one by one"][0])
    # The one in the middle to the last digit.
    assert found[1] == of_the_cpu["one by one"][0]
    reruns = [line for line in metrics.splitlines() if re.match(r"koma_neuron_cpu_reruns_total\{", line)]
    assert sum(float(line.rpartition(" ")[2]) for line in reruns) == 1, reruns
    closed = server.closed()
    assert [closed[kind] for kind in ("models", "tensors", "sets", "misuse")] == [0, 0, 0, 0], closed
