"""The openai package against the running server: what its users see."""

from __future__ import annotations

import base64
import struct

import openai
import pytest

QUESTION = [{"role": "user", "content": "Name three manga genres."}]


def test_models_are_listed_in_order(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["chat", "embed", "intent", "rerank"]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 0.8, "seed": 7, "top_p": 0.9},
        {"temperature": 0, "stop": ["and", "\n"]},
        {"temperature": 1.0, "seed": 3, "n": 3},
    ],
)
def test_chat_stream_equals_non_stream(client: openai.OpenAI, options: dict) -> None:
    whole = client.chat.completions.create(model="chat", messages=QUESTION, max_tokens=40, **options)
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    usage = None
    stream = client.chat.completions.create(
        model="chat", messages=QUESTION, max_tokens=40, stream=True, stream_options={"include_usage": True}, **options
    )
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
        usage = chunk.usage or usage
    assert texts == {c.index: c.message.content for c in whole.choices}
    assert reasons == {c.index: c.finish_reason for c in whole.choices}
    assert usage is not None and usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens
    assert len(whole.choices) == options.get("n", 1)


def test_seed_is_honoured(client: openai.OpenAI) -> None:
    def ask(seed: int) -> str:
        reply = client.completions.create(model="chat", prompt="Once upon a time", max_tokens=24, temperature=1.0, seed=seed)
        return reply.choices[0].text

    assert ask(1) == ask(1)
    assert len({ask(seed) for seed in range(4)}) > 1, "four seeds gave one text: the noise does nothing"


def test_completions_take_text_and_ids(client: openai.OpenAI, server) -> None:
    text = "The best manga of all time is"
    ids = server.post("/tokenize", {"model": "chat", "prompt": text}).json()["tokens"]
    by_text = client.completions.create(model="chat", prompt=text, max_tokens=12, temperature=0)
    by_ids = client.completions.create(model="chat", prompt=ids, max_tokens=12, temperature=0)
    both = client.completions.create(model="chat", prompt=[text, text], max_tokens=12, temperature=0)
    assert by_text.choices[0].text == by_ids.choices[0].text
    assert [c.text for c in both.choices] == [by_text.choices[0].text] * 2
    assert server.post("/detokenize", {"model": "chat", "tokens": ids}).json()["prompt"] == text


def test_logprobs(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="chat", messages=QUESTION, max_tokens=8, temperature=0, logprobs=True, top_logprobs=4
    )
    tokens = reply.choices[0].logprobs.content
    assert len(tokens) == 8
    assert "".join(t.token for t in tokens) == reply.choices[0].message.content
    for token in tokens:
        best = [t.logprob for t in token.top_logprobs]
        assert len(best) == 4 and best == sorted(best, reverse=True)
        assert token.logprob == best[0] <= 0, "greedy takes the most probable token"
        assert bytes(token.bytes).decode(errors="replace") == token.token


def test_embeddings_float_and_base64_agree(client: openai.OpenAI) -> None:
    texts = ["A long-running pirate adventure.", "海賊の長編冒険漫画です。"]
    plain = client.embeddings.create(model="embed", input=texts, encoding_format="float")
    coded = client.embeddings.create(model="embed", input=texts, encoding_format="base64")
    for a, b in zip(plain.data, coded.data, strict=True):
        raw = base64.b64decode(b.embedding) if isinstance(b.embedding, str) else struct.pack(f"<{len(b.embedding)}f", *b.embedding)
        assert struct.pack(f"<{len(a.embedding)}f", *a.embedding) == raw
        assert len(a.embedding) == 384
        assert abs(sum(x * x for x in a.embedding) - 1) < 1e-5
    alone = client.embeddings.create(model="embed", input=texts[1], encoding_format="float")
    assert alone.data[0].embedding == plain.data[1].embedding, "the batch changed the bits"


@pytest.mark.parametrize(
    ("options", "error", "code"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "model_not_found"),
        ({"model": "intent"}, openai.BadRequestError, None),
        ({"temperature": -1}, openai.BadRequestError, None),
        ({"top_p": 1.5}, openai.BadRequestError, None),
        ({"max_tokens": 0}, openai.BadRequestError, None),
        ({"max_tokens": 100_000}, openai.BadRequestError, "context_length_exceeded"),
        ({"messages": []}, openai.BadRequestError, None),
        ({"n": 10**9}, openai.BadRequestError, None),
    ],
)
def test_errors_are_the_package_s_own(client: openai.OpenAI, options: dict, error: type, code: str | None) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**({"model": "chat", "messages": QUESTION, "max_tokens": 4} | options))
    assert caught.value.type == "invalid_request_error"
    if code:
        assert caught.value.code == code
