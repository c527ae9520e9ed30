"""Many clients at once, clients that leave, and all models beside a long prefill. Counts and order, never seconds."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import threading

from conftest import Server

LONG_PROMPT = "In the next panel, the captain of the ship looked at the map and said nothing. " * 180


def test_sixteen_clients_get_what_one_gets(server: Server) -> None:
    bodies = [
        {"model": "chat", "prompt": f"Chapter {i}: the hero", "max_tokens": 24, "temperature": 0.7, "seed": i} for i in range(16)
    ]
    alone = [server.post("/v1/completions", b).json()["choices"][0]["text"] for b in bodies]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = [r.json()["choices"][0]["text"] for r in pool.map(lambda b: server.post("/v1/completions", b), bodies)]
    assert together == alone
    assert len(set(alone)) > 1


def test_a_client_that_leaves_frees_its_blocks(server: Server) -> None:
    aborted = server.metric("vllm:request_success_total", model_name="chat", finished_reason="abort")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = {"model": "chat", "prompt": "Count: 1 2 3", "max_tokens": 4000, "ignore_eos": True, "stream": True}
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    reply = connection.getresponse()
    assert reply.readline().startswith(b"data: ")
    assert server.metric("vllm:num_requests_running", model_name="chat") == 1
    assert server.metric("vllm:kv_cache_usage_perc", model_name="chat") > 0
    reply.close()
    connection.close()
    waiter = threading.Event()
    for _ in range(1200):
        if server.metric("vllm:num_requests_running", model_name="chat") == 0:
            break
        waiter.wait(0.05)
    assert server.metric("vllm:num_requests_running", model_name="chat") == 0
    assert server.metric("vllm:kv_cache_usage_perc", model_name="chat") == 0
    assert server.metric("vllm:request_success_total", model_name="chat", finished_reason="abort") == aborted + 1


def test_small_models_answer_during_a_long_prefill(server: Server) -> None:
    """While chat reads four long prompts, classifier, reranker and embedder are answered: the prompts are still being read
    when each answer is there."""

    def chat(tenant: int) -> int:
        body = {"model": "chat", "prompt": LONG_PROMPT, "max_tokens": 1, "cache_salt": f"long {tenant}"}
        reply = server.post("/v1/completions", body)
        assert reply.status == 200, reply.body
        return reply.json()["usage"]["prompt_tokens"]

    def busy() -> float:
        return sum(server.metric(f"vllm:num_requests_{state}", model_name="chat") for state in ("running", "waiting"))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        long = [pool.submit(chat, tenant) for tenant in range(4)]
        waiter = threading.Event()
        for _ in range(3000):
            if busy() > 0:
                break
            waiter.wait(0.01)
        assert busy() > 0, "no prefill was ever seen"
        for path, body in [
            ("/classify", {"model": "intent", "input": "where is my parcel?"}),
            ("/v1/rerank", {"model": "rerank", "query": "pirates", "documents": ["a pirate story", "cooking"]}),
            ("/v1/embeddings", {"model": "embed", "input": "where is my parcel?"}),
        ]:
            assert server.post(path, body).status == 200
            assert busy() > 0, f"{path} was answered only after the prefills"
        assert not all(prefill.done() for prefill in long)
        assert all(prefill.result(timeout=600) > 2500 for prefill in long)
    assert busy() == 0


def test_a_prefix_is_computed_once(server: Server) -> None:
    prompt = "The old library kept every magazine since the first issue. " * 12
    body = {"model": "chat", "prompt": prompt, "max_tokens": 4, "temperature": 0}
    first = server.post("/v1/completions", body).json()
    again = server.post("/v1/completions", body).json()
    other = server.post("/v1/completions", body | {"cache_salt": "another tenant"}).json()
    cached = [r["usage"]["prompt_tokens_details"]["cached_tokens"] for r in (first, again, other)]
    assert cached[1] > 0 and cached[2] == 0, cached
    assert first["choices"][0]["text"] == again["choices"][0]["text"] == other["choices"][0]["text"]
