"""Classifier, reranker, SageMaker's contract and the plain routes, over plain HTTP."""

from __future__ import annotations

import json
import os
import pathlib
import threading

import pytest

from conftest import ROOT, Server, start, stop, wait_ready

EXPECTED = json.loads((ROOT / "tests/models/expected.json").read_text(encoding="utf-8"))


def test_classify_equals_transformers(server: Server) -> None:
    cases = EXPECTED["intent"]
    reply = server.post("/classify", {"model": "intent", "input": [c["text"] for c in cases]})
    assert reply.status == 200, reply.body
    data = reply.json()["data"]
    assert [d["index"] for d in data] == list(range(len(cases)))
    assert [d["label"] for d in data] == [c["label"] for c in cases]
    for got in data:
        assert abs(sum(got["probs"]) - 1) < 1e-5 and got["num_classes"] == len(got["probs"])
    raw = server.post("/classify", {"model": "intent", "input": [c["text"] for c in cases], "raw_scores": True}).json()["data"]
    for got, case in zip(raw, cases, strict=True):
        largest = max(map(abs, case["logits"]))
        assert max(abs(a - b) for a, b in zip(got["probs"], case["logits"], strict=True)) < 1e-4 * largest


def test_classify_bits_do_not_depend_on_the_batch(server: Server) -> None:
    texts = [c["text"] for c in EXPECTED["intent"]]
    together = server.post("/classify", {"model": "intent", "input": texts}).json()["data"]
    for text, expected in zip(texts, together, strict=True):
        alone = server.post("/classify", {"model": "intent", "input": text}).json()["data"][0]
        assert alone["probs"] == expected["probs"]


def test_rerank_equals_transformers(server: Server) -> None:
    for case in EXPECTED["rerank"]:
        documents = [p["text"] for p in case["passages"]]
        reply = server.post("/v1/rerank", {"model": "rerank", "query": case["query"], "documents": documents})
        assert reply.status == 200, reply.body
        results = reply.json()["results"]
        scores = {r["index"]: r["relevance_score"] for r in results}
        assert [r["relevance_score"] for r in results] == sorted(scores.values(), reverse=True)
        for i, passage in enumerate(case["passages"]):
            assert abs(scores[i] - passage["score"]) < 1e-5


def test_rerank_top_n_and_documents(server: Server) -> None:
    case = EXPECTED["rerank"][0]
    documents = [p["text"] for p in case["passages"]]
    body = {"model": "rerank", "query": case["query"], "documents": documents, "top_n": 2, "return_documents": True}
    results = server.post("/v1/rerank", body).json()["results"]
    assert len(results) == 2
    for r in results:
        assert r["document"]["text"] == documents[r["index"]]


@pytest.mark.parametrize("path", ["/ping", "/health", "/ready", "/version", "/metrics", "/v1/models"])
def test_plain_routes(server: Server, path: str) -> None:
    assert server.get(path).status == 200


def test_invocations_follow_payload_and_model(server: Server) -> None:
    chat = server.post("/invocations", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4})
    assert chat.status == 200 and chat.json()["choices"][0]["message"]["role"] == "assistant"
    text = server.post("/invocations", {"prompt": "Hi", "max_tokens": 4})
    assert text.status == 200 and "text" in text.json()["choices"][0]
    rank = server.post("/invocations", {"query": "pirates", "documents": ["a pirate story", "a cook book"]})
    assert rank.status == 200 and len(rank.json()["results"]) == 2
    label = server.post("/invocations", {"model": "intent", "input": "where is my order?"})
    assert label.status == 200 and label.json()["data"][0]["label"]
    vector = server.post("/invocations", {"model": "embed", "input": "where is my order?"})
    assert vector.status == 200 and len(vector.json()["data"][0]["embedding"]) == 384
    assert server.post("/invocations", {"nothing": 1}).status == 400


def test_metrics_use_the_field_s_names(server: Server) -> None:
    before = server.metric("vllm:generation_tokens_total", model_name="chat")
    server.post("/v1/completions", {"model": "chat", "prompt": "Hi", "max_tokens": 5, "ignore_eos": True})
    assert server.metric("vllm:generation_tokens_total", model_name="chat") == before + 5
    names = server.get("/metrics").body.decode()
    for name in ["vllm:num_requests_running", "vllm:kv_cache_usage_perc", "vllm:time_to_first_token_seconds_bucket", "vllm:cache_config_info"]:
        assert name in names, name


def test_request_id_comes_back(server: Server) -> None:
    assert server.get("/v1/models", {"x-request-id": "panel-7"}).headers["x-request-id"] == "panel-7"
    assert server.get("/v1/models").headers["x-request-id"]


def test_logs_hold_no_prompt() -> None:
    """Even at the finest level: the requests are logged (their ids are there), what they say is not."""
    marker = "zanzibar-umbrella-42"
    running = start("intent=tests/models/intent", "--log", "trace")
    try:
        wait_ready(running)
        for i, body in enumerate([{"input": marker}, {"input": [marker, 5]}, {"input": marker, "priority": marker}]):
            running.post("/classify", body, {"x-request-id": f"panel-{i}"})
        waiter = threading.Event()
        for _ in range(600):
            if any("panel-2" in line for line in running.log):
                break
            waiter.wait(0.05)
        assert any("panel-0" in line for line in running.log), "requests are not logged at all"
        assert any("panel-2" in line for line in running.log)
        assert not [line for line in running.log if marker in line]
    finally:
        assert stop(running) == 0


def test_memory_is_weights_and_cache() -> None:
    """Peak memory beside the cache blocks in use is the file's size and at most a fifth of file and cache: one copy of the
    weights (a second one would not fit into the bound). The cache is the least one that holds a request of full length."""
    chat = pathlib.Path(os.environ["KOMA_TEST_MODELS"]) / "chat.gguf"
    cache, tokens = 180 << 20, 3000
    running = start(f"chat={chat}", "--kv-cache-memory", str(cache))
    try:
        wait_ready(running)
        reply = running.post("/v1/completions", {"prompt": [100] * tokens, "max_tokens": 2})
        assert reply.status == 200, reply.body
        status = pathlib.Path(f"/proc/{running.process.pid}/status").read_text()
    finally:
        assert stop(running) == 0
    peak = 1024 * int(status.split("VmHWM:")[1].split()[0])
    # 30 layers, 3 heads of 64 keys and 64 values, two bytes each
    used = tokens * 30 * 3 * 2 * 64 * 2
    size = chat.stat().st_size
    assert size < peak - used <= size + (size + cache) // 5, f"{peak >> 20} MiB at most, {used >> 20} MiB of it cache"


def test_intent_accuracy_is_the_reported_one(server: Server) -> None:
    lines = (ROOT / "tests/models/data/intent_test.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    right = 0
    for at in range(0, len(cases), 500):
        part = cases[at : at + 500]
        data = server.post("/classify", {"model": "intent", "input": [c["text"] for c in part]}).json()["data"]
        right += sum(d["label"] == c["intent"] for d, c in zip(data, part, strict=True))
    report = json.loads((ROOT / "tests/models/report.json").read_text(encoding="utf-8"))
    assert right == round(report["intent"]["accuracy"] * len(cases))


BAD = [
    ("POST", "/v1/chat/completions", b"{", 400),
    ("POST", "/v1/chat/completions", b"null", 400),
    ("POST", "/v1/chat/completions", b"[]", 400),
    ("POST", "/v1/chat/completions", {"messages": None}, 400),
    ("POST", "/v1/completions", {"prompt": ""}, 400),
    ("POST", "/v1/completions", {"prompt": []}, 400),
    ("POST", "/v1/completions", {"prompt": [[]]}, 400),
    ("POST", "/v1/completions", {"prompt": [-1]}, 400),
    ("POST", "/v1/completions", {"prompt": [10**9]}, 400),
    ("POST", "/v1/completions", {"prompt": "Hi", "temperature": 1e308}, 400),
    ("POST", "/v1/completions", {"prompt": "Hi", "seed": 1.5}, 400),
    ("POST", "/v1/completions", b'{"prompt": "Hi", "temperature": NaN}', 400),
    ("POST", "/v1/completions", {"prompt": "word " * 20000}, 400),
    ("POST", "/v1/embeddings", {"model": "embed", "input": None}, 400),
    ("POST", "/v1/embeddings", {"model": "embed", "input": "word " * 5000}, 400),
    ("POST", "/v1/embeddings", {"model": "chat", "input": "x"}, 400),
    ("POST", "/classify", {"model": "intent", "input": []}, 400),
    ("POST", "/classify", {"model": "nobody", "input": "x"}, 404),
    ("POST", "/v1/rerank", {"model": "rerank", "query": "x", "documents": []}, 400),
    ("POST", "/v1/rerank", {"model": "rerank", "query": None, "documents": ["x"]}, 400),
    ("POST", "/v1/rerank", b'{"query": "' + b"x" * 30_000_000 + b'"}', 413),
    ("GET", "/nowhere", None, 404),
    ("GET", "/v1/completions", None, 405),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), BAD, ids=range(len(BAD)))
def test_bad_input_is_the_caller_s_fault(server: Server, method: str, path: str, body: object, status: int) -> None:
    try:
        reply = server.request(method, path, body)
    except (BrokenPipeError, ConnectionResetError):
        assert status == 413, "only an oversized body may lose its connection"
    else:
        assert reply.status == status, reply.body[:300]
        reply.error()
    assert server.get("/health").status == 200


def test_a_failed_start_is_one_more_json_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["NoSuchModel"]}')
    failed = start(f"x={tmp_path}", "--log-format", "json")
    assert failed.process.wait(timeout=120) == 1
    waiter = threading.Event()
    for _ in range(200):
        if any("koma ends" in line for line in failed.log):
            break
        waiter.wait(0.05)
    lines = [json.loads(line) for line in failed.log]
    assert lines[-1]["level"] == "ERROR" and "NoSuchModel" in lines[-1]["error"], failed.log


@pytest.mark.parametrize(("kv_dtype", "head"), [("auto", 128 * 2), ("int8", 128 + 2 * 4)])
def test_a_cache_for_less_than_one_request_is_refused_before_loading(kv_dtype: str, head: int) -> None:
    """With the number of bytes that are needed: 8,192 tokens of 30 layers, 3 heads of 64 keys and 64 values, two bytes each, or
    one and two scales."""
    chat = pathlib.Path(os.environ["KOMA_TEST_MODELS"]) / "chat.gguf"
    failed = start(f"chat={chat}", "--kv-cache-memory", "1M", "--kv-dtype", kv_dtype)
    assert failed.process.wait(timeout=120) == 1
    waiter = threading.Event()
    for _ in range(200):
        if any("koma ends" in line for line in failed.log):
            break
        waiter.wait(0.05)
    needed = 8192 * 30 * 3 * head
    assert any(f"needs {needed} bytes" in line for line in failed.log), failed.log
    assert not [line for line in failed.log if "loading" in line], failed.log


def test_a_cache_of_int8_answers_and_holds_more() -> None:
    """The same memory, 1.88 times the tokens; what the model is sure of is the same. (Where two answers are nearly as good, the
    coarser cache may take the other.)"""
    chat = pathlib.Path(os.environ["KOMA_TEST_MODELS"]) / "chat.gguf"
    question = {
        "model": "chat",
        "prompt": "1, 2, 3, 4, 5, 6, 7, 8,",
        "temperature": 0,
        "max_tokens": 8,
    }
    answers, blocks = [], []
    for kv_dtype in ("bf16", "int8"):
        served = start(f"chat={chat}", "--kv-cache-memory", "256M", "--kv-dtype", kv_dtype)
        try:
            wait_ready(served)
            answers.append(served.post("/v1/completions", question).json()["choices"][0]["text"])
            line = next(line for line in served.get("/metrics").body.decode().splitlines() if "cache_config_info{" in line)
            assert f'cache_dtype="{kv_dtype}"' in line
            blocks.append(int(line.split('num_gpu_blocks="')[1].split('"')[0]))
        finally:
            assert stop(served) == 0
    each = [30 * 3 * 16 * 128 * 2, 30 * 3 * 16 * (128 + 2 * 4)]
    assert blocks == [(256 << 20) // bytes for bytes in each]
    assert answers[0].strip().startswith("9, 10") and answers[1] == answers[0], answers


def test_longer_input_is_cut_only_when_asked(server: Server) -> None:
    text = "word " * 5000
    assert server.post("/v1/embeddings", {"model": "embed", "input": text}).error()["code"] == "context_length_exceeded"
    cut = server.post("/v1/embeddings", {"model": "embed", "input": text, "truncate": True})
    assert cut.status == 200 and cut.json()["usage"]["prompt_tokens"] == 256


def test_wrong_models_refuse_to_start(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["NoSuchModel"]}')
    for arguments, word in [
        ((f"x={tmp_path}",), "NoSuchModel"),
        ((str(tmp_path / "missing.gguf"),), "missing.gguf"),
        (("a=tests/models/intent", "a=tests/models/rerank"), "a"),
        (("tests/models/intent", "--port", "70000"), "port"),
        (("tests/models/intent", "--kv-dtype", "int4"), "auto, f32, bf16, int8, f16, fp8-e4m3"),
    ]:
        failed = start(*arguments)
        assert failed.process.wait(timeout=120) != 0, arguments
        waiter = threading.Event()
        for _ in range(200):
            if any(word in line for line in failed.log):
                break
            waiter.wait(0.05)
        assert any(word in line for line in failed.log), (arguments, failed.log)
