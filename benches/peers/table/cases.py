"""What is measured: the cases, the exact meaning of each number, and the goals.

A number holds within one run on one machine only: memory speed drifts by a quarter from hour to hour. Koma and the peers
take turns within each repetition, with the same thread count, batch, prompt length and output length.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Weight formats, as the model files are named.
FORMATS = ("q4_0", "q4_k_m", "q8_0", "bf16", "q4_1", "int8")
#: Those of models that generate, and of encoders.
DECODER_FORMATS, ENCODER_FORMATS = ("q4_0", "q4_k_m", "q8_0", "bf16", "q4_1"), ("int8", "bf16")


@dataclass(frozen=True)
class Metric:
    """A quantity: how it is written and which way is better."""

    title: str
    unit: str
    higher_is_better: bool


METRICS = {
    "rate": Metric("tokens/s", "tok/s", True),
    "first_token": Metric("exec to first streamed token", "s", False),
    "served": Metric("output tokens/s over HTTP", "tok/s", True),
    "itl_p99": Metric("p99 time between tokens", "ms", False),
    "memory": Metric("peak resident memory", "MiB", False),
    "share": Metric("part of the quiet rate", "%", True),
    "intent_p99": Metric("p99 of intents", "ms", False),
    "chat_share": Metric("chat, part of chat alone", "%", True),
    "chat_rate": Metric("chat beside the rest", "tok/s", True),
    "prompts_done": Metric("long prompts answered in time", "%", True),
    "itl_growth": Metric("worst p99 between tokens, to that alone", "x", False),
    "reranks_p99": Metric("p99 of reranks", "ms", False),
    "batch_ms": Metric("time of all texts", "ms", False),
    "requests": Metric("requests/s over HTTP", "req/s", True),
    "request_p50": Metric("p50 of requests", "ms", False),
    "request_p99": Metric("p99 of requests", "ms", False),
    "ready": Metric("exec to ready", "s", False),
}


#: Long prompts of a mixed case: how many may run beside the chats, their tokens, and room for one of them.
LONG_PROMPTS, PROMPT_LEN, LONG_LEN = 2, 2000, 2048


@dataclass(frozen=True)
class Case:
    """One case. `kind` chooses the procedure, the lengths are tokens of each request."""

    name: str
    title: str
    #: decode | prefill | first_token | http | company | crowded | quota | mixed | mixed_rerank; encode | classify | rerank | ready
    kind: str
    batch: int = 1
    input_len: int = 128
    output_len: int = 64
    formats: tuple[str, ...] = ("q4_0",)
    #: Tokens that all long prompts of a mixed case begin with.
    shared_len: int = 0
    #: Tokens of the shortest text of an encoder's load, where lengths are spread evenly up to `input_len`.
    shortest: int = 0
    #: The models that it makes sense for; all of its formats if none is named.
    models: tuple[str, ...] = ()

    @property
    def encodes(self) -> bool:
        """Whether it is for encoders."""
        return self.kind in ("encode", "classify", "rerank", "ready")

    @property
    def lens(self) -> list[int]:
        """Tokens of each text of an encoder's load; `koma bench` spreads them in the same way."""
        spread, last = self.input_len - (self.shortest or self.input_len), self.batch - 1
        return [self.input_len - spread * (last - place) // max(last, 1) for place in range(self.batch)]

    @property
    def metrics(self) -> tuple[str, ...]:
        """What the procedure yields."""
        return {
            "decode": ("rate",),
            "prefill": ("rate",),
            "first_token": ("first_token",),
            "http": ("served", "itl_p99", "memory"),
            "company": ("share",),
            "crowded": ("share",),
            "quota": ("share",),
            "mixed": ("intent_p99", "chat_share", "chat_rate", "prompts_done"),
            "mixed_rerank": ("itl_growth", "reranks_p99"),
            "encode": ("batch_ms",),
            "classify": ("requests", "request_p50", "request_p99"),
            "rerank": ("request_p50", "request_p99"),
            "ready": ("ready",),
        }[self.kind]

    @property
    def slots(self) -> int:
        """Requests that a server must have room for: the clients, and in mixed cases long prompts that wait."""
        return self.batch + (LONG_PROMPTS if self.kind == "mixed" else 0)

    @property
    def slot_len(self) -> int:
        """Tokens of the longest of them."""
        return LONG_LEN if self.kind == "mixed" else self.input_len + self.output_len


#: How each kind of number is defined. The reports quote these.
DEFINITIONS = {
    "decode": (
        "Tokens per second of `batch` sequences that each have `input` tokens in the cache and generate `output` more, prompts "
        "excluded. Koma: tokens after the last sequence's first one, over the time from then to the end (`koma bench "
        "throughput`). llama.cpp, ik_llama.cpp: `speed_tg` of `llama-batched-bench`, which takes random tokens and so has no "
        "sampler. OpenVINO, ONNX Runtime, vLLM: batch x (output - 1) / (time of the run - time of the same run with one output "
        "token). The same load runs once, unmeasured, before each measurement. Greedy, end of text ignored."
    ),
    "prefill": (
        "Prompt tokens per second: batch x input / time to the first token of all, one unmeasured run before. No prefix is shared "
        "or cached."
    ),
    "first_token": (
        "Seconds from exec of the server to the first streamed token of a completion of a short prompt, asked for again every "
        "10 ms until it is answered. The file is in the page cache: an unmeasured start comes first."
    ),
    "http": (
        "Clients that each have one streamed completion in flight until all requests are done (`koma bench serve` against every "
        "server, prompts as token ids of exact length, end of text ignored): output tokens per second of the whole, the 99th "
        "percentile of times between tokens, and the server's peak resident memory (VmHWM summed over its processes, file pages "
        "of the weights included). Every server has room for the same number of cache tokens where it lets one say so."
    ),
    "company": (
        "The decode rate beside two processes that do nothing but count, as a part of the rate measured just before without "
        "them. An equal share of two cores among these and two busy processes is 50 %."
    ),
    "crowded": (
        "The decode rate with four times as many threads, on the same cores, as a part of the rate measured just before with the "
        "threads of the run."
    ),
    "quota": (
        "The decode rate in a control group that grants half of the time of the run's threads, as a part of the rate measured "
        "just before without one. In proportion is 50 %. Koma chooses the number of its threads by the quota; the peers, which do "
        "not look at it, keep theirs."
    ),
    "mixed": (
        "On the same cores at the same time: streamed chats, one after the other for each client; prompts of 2,000 new tokens, one "
        "a second on average at random times; intents of 16 tokens, 20 a second at random times (`koma bench serve`). One Koma "
        "process serves all; the peer is `llama-server` and beside it the classifier in ONNX Runtime behind HTTP. The tail of "
        "the intents; tokens a second of the chats, and as a part of what they were just before without the rest; how many of the long "
        "prompts were answered until the end. In `mixed-prefix` all long prompts begin with the same 1,936 tokens, as under one "
        "system prompt, and end with 64 of their own; one of them is answered before anything is measured."
    ),
    "mixed_rerank": (
        "Streamed chats, one after the other for each client, and in the same Koma (`minilm` in bf16) one request of 50 documents a second. "
        "The 99th percentile of the times between a stream's tokens while reranks come, over what it was just before without them: that of the "
        "stream for which it grew most; and the tail of the reranks."
    ),
    "encode": (
        "Milliseconds for all texts of the load, token ids of exact length, without tokenizing; the median of runs one after the other for "
        "a second. Koma: requests handed to its engine as the inputs of one call (`koma bench throughput`). Peers: all texts padded in one "
        "batch, or in five batches of neighbours in length where lengths differ, the better; CTranslate2, which has no heads, "
        "computes the layers alone. `int8`: the peers in int8 (ONNX Runtime dynamic with a scale for each output, OpenVINO by NNCF, "
        "CTranslate2); `bf16`: the peers in bf16 or f32."
    ),
    "classify": (
        "Clients that each have one request in flight on a connection that is kept (`koma bench serve --endpoint classify --words` "
        "against every server): requests a second, and percentiles of their times. Tokenizing is in it."
    ),
    "rerank": (
        "One client, one request of 50 documents of 30 to 178 tokens with their query after the other on a connection that is kept, the "
        "same texts for every server; tokenizing is in it."
    ),
    "ready": "Seconds from exec of the server until it answers that it is ready (Koma: `/ping`), the second of two starts.",
}

_ALL = DECODER_FORMATS
_ENCODED = ENCODER_FORMATS

CASES = (
    Case("decode1", "decode 1, context 128", "decode", formats=_ALL),
    Case("decode1@2048", "decode 1, context 2048", "decode", input_len=2048, formats=_ALL),
    Case("decode4", "decode 4", "decode", batch=4, formats=_ALL),
    Case("decode16", "decode 16", "decode", batch=16, formats=_ALL),
    Case("decode32", "decode 32", "decode", batch=32, formats=_ALL),
    Case("prefill512", "prefill 512", "prefill", input_len=512, output_len=1, formats=_ALL),
    Case("prefill2048", "prefill 2048", "prefill", input_len=2048, output_len=1, formats=_ALL),
    Case("first-token", "exec to first token", "first_token", input_len=1, output_len=2, formats=("q4_1", "q4_0")),
    Case("http16", "served, 16 clients, 128 in, 64 out", "http", batch=16, formats=_ALL),
    Case("company", "beside two busy processes", "company", output_len=256, formats=("q4_0", "q4_1")),
    Case("crowded", "four times as many threads", "crowded", output_len=256, formats=("q4_0", "q4_1")),
    Case("quota", "half of the time by a control group", "quota", output_len=256, formats=("q4_0", "q4_1")),
    Case("mixed", "chats, long prompts and intents together", "mixed", batch=8, formats=("q4_0", "q4_1")),
    Case(
        "mixed-prefix",
        "the same, long prompts begin alike",
        "mixed",
        batch=8,
        formats=("q4_0", "q4_1"),
        shared_len=1936,
    ),
    Case("mixed-rerank", "chats and reranks of 50 documents together", "mixed_rerank", batch=8, formats=("q4_0",), models=("smollm2",)),
    Case("encode1x20", "1 text of 20 tokens", "encode", input_len=20, formats=_ENCODED),
    Case("encode32x32", "32 texts of 32 tokens", "encode", batch=32, input_len=32, formats=_ENCODED),
    Case("encode32x128", "32 texts of 128 tokens", "encode", batch=32, input_len=128, formats=_ENCODED),
    Case("encode50", "50 texts of 30 to 178 tokens", "encode", batch=50, input_len=178, shortest=30, formats=_ENCODED),
    Case("classify1", "one client, short texts", "classify", input_len=12, formats=_ENCODED, models=("intent", "distilbert")),
    Case("classify32", "32 clients, short texts", "classify", batch=32, input_len=12, formats=_ENCODED, models=("intent", "distilbert")),
    Case("rerank50", "rerank, 50 documents", "rerank", batch=50, input_len=178, shortest=30, formats=_ENCODED, models=("minilm",)),
    Case("ready", "exec to ready", "ready", formats=_ENCODED),
)

#: Koma's ratio to the best peer, at least: (model, case, format, metric).
GOALS = {
    ("smollm2", "decode1", "q4_0", "rate"): 1.5,
    ("smollm2", "decode1", "q4_k_m", "rate"): 1.7,
    ("smollm2", "decode1", "q8_0", "rate"): 1.4,
    ("smollm2", "decode1", "bf16", "rate"): 1.03,
    ("smollm2", "decode1", "q4_1", "rate"): 1.8,
    ("smollm2", "decode1@2048", "q4_1", "rate"): 2.5,
    ("smollm2", "decode1@2048", "q4_0", "rate"): 2.8,
    ("smollm2", "decode4", "q4_0", "rate"): 1.8,
    ("smollm2", "decode16", "q4_0", "rate"): 1.8,
    ("smollm2", "decode32", "q4_0", "rate"): 2.1,
    ("smollm2", "decode16", "bf16", "rate"): 1.7,
    ("smollm2", "decode16", "q8_0", "rate"): 1.7,
    ("smollm2", "prefill512", "q4_0", "rate"): 1.1,
    ("smollm2", "prefill512", "bf16", "rate"): 1.0,
    ("smollm2", "prefill2048", "q4_0", "rate"): 1.4,
    ("smollm2", "http16", "q4_0", "served"): 1.7,
    ("smollm2", "http16", "q4_0", "itl_p99"): 1.0,
    ("smollm2", "http16", "q4_0", "memory"): 1.0,
}

_ENCODERS = {
    ("minilm", "encode50"): (2.1, 1.35),
    ("minilm", "encode32x128"): (2.0, 1.2),
    ("minilm", "encode1x20"): (1.6, 2.2),
    ("distilbert", "encode1x20"): (2.1, 1.7),
    ("distilbert", "encode32x32"): (1.35, None),
    ("distilbert", "encode32x128"): (1.5, None),
}
GOALS |= {(*key, format, "batch_ms"): goal for key, both in _ENCODERS.items() for format, goal in zip(_ENCODED, both) if goal}
GOALS |= {
    ("distilbert", "classify32", "int8", "requests"): 2.0,
    ("distilbert", "classify32", "int8", "request_p99"): 1.0,
    ("minilm", "rerank50", "int8", "request_p50"): 1.9,
}

#: The same of each of these lines where everyone is held to AVX2.
GOAL_AVX2 = 1.0

#: Koma's own median, at most or at least (as the metric points), whatever the peers do.
LIMITS = {
    ("smollm2", "first-token", "q4_1", "first_token"): 0.20,
    ("smollm2", "company", "q4_0", "share"): 45.0,
    ("smollm2", "mixed", "q4_0", "intent_p99"): 25.0,
    ("smollm2", "mixed", "q4_0", "chat_share"): 85.0,
    ("smollm2", "mixed-prefix", "q4_0", "intent_p99"): 25.0,
    ("smollm2", "mixed-prefix", "q4_0", "chat_share"): 85.0,
    ("smollm2", "mixed-rerank", "q4_0", "itl_growth"): 2.0,
    ("minilm", "ready", "bf16", "ready"): 0.15,
    ("minilm", "ready", "int8", "ready"): 0.15,
    ("intent", "classify1", "bf16", "request_p50"): 1.0,
    ("intent", "classify1", "bf16", "request_p99"): 3.0,
}


def chosen(names: list[str], formats: list[str], goals: bool = False) -> list[tuple[Case, str]]:
    """The cases of these names in these formats, in the order of the table; all names or formats if none is given; with `goals`
    only what a goal is set for.

    Raises ValueError with the names there are.
    """
    known = [case.name for case in CASES]
    for name in names:
        if name not in known:
            raise ValueError(f"--case: {name!r} is none of {', '.join(known)}")
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"--format: {name!r} is none of {', '.join(FORMATS)}")
    set_for = {key[1:3] for key in (*GOALS, *LIMITS)}
    return [
        (case, format)
        for case in CASES
        for format in case.formats
        if (not names or case.name in names) and (not formats or format in formats) and (not goals or (case.name, format) in set_for)
    ]
