"""Koma as a contender: `koma bench throughput` and `koma serve`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from . import processes
from .cases import Case
from .contender import ALONE, CROWDED, ENCODED, MIXED, RERANKED, SERVED, TEXTS, Model, ServerCommand, Setting

#: Bytes of a value in the cache, bf16.
KV_BYTES = 2
BLOCK = 16
#: The demo classifier.
INTENT = Path(__file__).resolve().parents[3] / "tests/models/intent"


@dataclass
class Koma:
    """One file of one model."""

    setting: Setting
    model: Model
    format: str
    name: str = "Koma"
    kinds: frozenset[str] = ALONE | CROWDED | SERVED | MIXED | RERANKED
    #: The server of the chat model answers intents too.
    classifier: ServerCommand | None = None

    def rate(self, case: Case) -> float:
        """Of one measured run after one to warm up."""
        lengths = ["--batch", case.batch, "--input-len", case.input_len, "--output-len", case.output_len]
        runs = ["--warmup", 1, "--runs", 1, "--json", "-"]
        runs += ["--threads", self.setting.threads] if self.setting.threads else []
        command = [self.setting.koma, "bench", "throughput", self.model.file(self.format), *lengths, *runs]
        command += ["--log", "error"]
        text = processes.output([str(part) for part in command], self._environment(), self.setting.timeout)
        return throughput(text, case.kind)

    def server(self, port: int, case: Case) -> tuple[list[str], dict[str, str]]:
        """Room for every client's tokens in whole blocks, and a spare block each."""
        clients, length = case.slots, case.slot_len
        tokens = clients * (length // BLOCK + 2) * BLOCK
        cache = tokens * self.model.kv_values * KV_BYTES
        command = [self.setting.koma, "serve", f"model={self.model.file(self.format)}", "--port", port]
        command += ["--threads", self.setting.threads, "--kv-cache-memory", cache, "--max-running", clients]
        command += ["--max-model-len", length + BLOCK, "--log", "error"]
        if case.kind == "mixed":
            command.insert(2, f"intent={INTENT}")
        if case.kind == "mixed_rerank":
            command.insert(2, f"rerank={self.model.folder.parent / 'minilm/hf'}")
        return [str(part) for part in command], self._environment()

    def with_threads(self, threads: int) -> Self:
        """The same on as many threads."""
        return replace(self, setting=replace(self.setting, threads=threads))

    def granted(self) -> Self:
        """It chooses the number of threads by the quota."""
        return self.with_threads(0)

    def close(self) -> None:
        """Nothing is kept."""

    def _environment(self) -> dict[str, str]:
        isa = {} if self.setting.isa == "native" else {"KOMA_ISA": self.setting.isa}
        return self.setting.environment(**isa)


@dataclass
class KomaEncoder(Koma):
    """An encoder in one precision."""

    kinds: frozenset[str] = ENCODED | TEXTS
    health: str = "/ping"

    def encode(self, case: Case) -> float:
        """Of ten runs of a tenth of a second after one to warm up."""
        command = [self.setting.koma, "bench", "throughput", self.model.folder / "hf", "--batch", case.batch]
        command += ["--input-len", case.input_len, "--shortest-input", case.shortest or case.input_len, "--dtype", self.format]
        command += ["--threads", self.setting.threads, "--runs", 10, "--json", "-", "--log", "error"]
        text = processes.output([str(part) for part in command], self._environment(), self.setting.timeout)
        return case.batch / throughput(text, "requests_per_second")

    def server(self, port: int, case: Case) -> tuple[list[str], dict[str, str]]:
        """As it starts by itself."""
        command = [self.setting.koma, "serve", f"model={self.model.folder / 'hf'}", "--port", port, "--dtype", self.format]
        command += ["--threads", self.setting.threads, "--log", "error"]
        return [str(part) for part in command], self._environment()


def throughput(text: str, kind: str) -> float:
    """The median of a phase or another rate in the JSON of `koma bench throughput`. Raises Failed on another schema."""
    report = json.loads(text)
    if report.get("schema") != "koma.bench.throughput/1":
        raise processes.Failed(f"schema {report.get('schema')!r} of koma bench is not known here")
    key = kind if kind.endswith("_per_second") else f"{kind}_tokens_per_second"
    return float(report["results"][key]["median"])
