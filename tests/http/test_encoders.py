"""Token classifiers, prompts, shorter vectors and cross-encoders with labels, over plain HTTP, against the golden fixtures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from conftest import ROOT, Server, start, stop, wait_ready

GOLDEN = ROOT / "tests/golden"
MODELS = {
    "ner": "roberta_tokens",
    "modern": "modernbert_tokens",
    "prompted": "bert_embed_prompted",
    "dense": "bert_embed_dense",
    "xlm": "xlm_roberta_embed_cls",
    "nli": "bert_cross_labels",
}


def case(name: str) -> dict[str, Any]:
    """What a reference library answered."""
    return json.loads((GOLDEN / name / "case.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def encoders() -> Iterator[Server]:
    """A server of tiny encoders."""
    models = [f"{name}={GOLDEN / folder / 'model'}" for name, folder in MODELS.items()]
    running = start(*models, "--dtype", "f32")
    try:
        wait_ready(running)
        yield running
    finally:
        assert stop(running) == 0


@pytest.mark.parametrize("model", ["ner", "modern"])
def test_entities_equal_the_pipeline_s(encoders: Server, model: str) -> None:
    golden = case(MODELS[model])
    texts = [row["text"] for row in golden["inputs"]]
    for strategy in golden["strategies"]:
        reply = encoders.post("/classify", {"model": model, "input": texts, "aggregation_strategy": strategy})
        assert reply.status == 200, reply.body
        for got, want in zip(reply.json()["data"], golden["entities"][strategy], strict=True):
            assert all(0 < entity["score"] <= 1 for entity in got["entities"])
            assert [{k: v for k, v in entity.items() if k != "score"} for entity in got["entities"]] == want


def test_invocations_find_the_token_classifier(encoders: Server) -> None:
    reply = encoders.post("/invocations", {"inputs": "a shop", "parameters": {"aggregation_strategy": "max"}}).json()
    assert reply["model"] == "ner" and isinstance(reply["data"][0]["entities"], list)


def test_openai_s_client_asks_for_shorter_vectors(encoders: Server) -> None:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{encoders.port}/v1", api_key="unused", max_retries=0)
    whole = client.embeddings.create(model="dense", input="manga", encoding_format="float").data[0].embedding
    short = client.embeddings.create(model="dense", input="manga", dimensions=5).data[0].embedding
    length = math.sqrt(sum(x * x for x in whole[:5]))
    assert len(whole) == 12 and len(short) == 5
    assert max(abs(a / length - b) for a, b in zip(whole, short, strict=False)) < 1e-6
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="dense", input="manga", dimensions=13)
    assert refused.value.param == "dimensions"


def test_prompts(encoders: Server) -> None:
    def vector(text: str, **more: Any) -> list[float]:
        reply = encoders.post("/v1/embeddings", {"model": "prompted", "input": text} | more)
        assert reply.status == 200, reply.body
        return reply.json()["data"][0]["embedding"]

    by_hand = vector("order: manga")
    assert vector("manga", input_type="query") == by_hand == vector("manga", prompt_name="query")
    assert vector("manga") != by_hand


def test_all_labels_of_a_pair(encoders: Server) -> None:
    reply = encoders.post("/classify", {"model": "nli", "input": [["manga", "a story"]]}).json()["data"][0]
    assert reply["num_classes"] == 3 and abs(sum(reply["probs"]) - 1) < 1e-5
    assert reply["label"] in case("bert_cross_labels")["labels"]


BAD = [
    ("/classify", {"model": "ner", "input": "x", "aggregation_strategy": "best"}, "aggregation_strategy"),
    ("/classify", {"model": "nli", "input": "x", "aggregation_strategy": "max"}, "aggregation_strategy"),
    ("/classify", {"model": "ner", "input": [["x", "y"]]}, "input"),
    ("/classify", {"model": "ner", "input": "x", "raw_scores": True}, "raw_scores"),
    ("/v1/embeddings", {"model": "prompted", "input": "x", "prompt_name": "nobody"}, "prompt_name"),
    ("/v1/embeddings", {"model": "prompted", "input": "x", "input_type": "classification"}, "input_type"),
    ("/v1/embeddings", {"model": "xlm", "input": "x", "prompt_name": "query"}, "prompt_name"),
    ("/v1/embeddings", {"model": "xlm", "input": "x", "dimensions": 33}, "dimensions"),
    ("/v1/rerank", {"model": "nli", "query": "x", "documents": ["y"]}, "model"),
]


@pytest.mark.parametrize(("path", "body", "param"), BAD, ids=range(len(BAD)))
def test_bad_input_names_its_field(encoders: Server, path: str, body: object, param: str) -> None:
    reply = encoders.post(path, body)
    assert reply.status == 400 and reply.error()["param"] == param, reply.body
