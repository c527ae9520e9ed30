"""llama.cpp and ik_llama.cpp as contenders: `llama-batched-bench` and `llama-server`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from . import processes
from .cases import Case
from .contender import ALONE, CROWDED, SERVED, Model, ServerCommand, Setting

#: Cells that a file of the cache is rounded up to by these engines.
CELLS = 256


@dataclass
class Ggml:
    """One engine of the family with some flags of its own."""

    name: str
    setting: Setting
    model: Model
    format: str
    folder: Path
    flags: tuple[str, ...] = ()
    server_flags: tuple[str, ...] = ()
    jsonl: bool = True
    #: Whether flash attention works with several sequences (the fork's stops with an assertion, `S > 0`).
    flash_batches: bool = True
    kinds: frozenset[str] = ALONE | CROWDED | SERVED
    classifier: ServerCommand | None = None

    def rate(self, case: Case) -> float:
        """Of the second of two equal rounds in one process."""
        cells = case.batch * (case.input_len + case.output_len)
        command = [self.folder / "bin/llama-batched-bench", "-m", self.model.file(self.format)]
        command += ["-c", max(cells, CELLS), "-b", 2048, "-npp", case.input_len, "-ntg", case.output_len]
        command += ["-npl", f"{case.batch},{case.batch}", *self._flash(case.batch), *self._threads(), *self.flags]
        command += ["--output-format", "jsonl"] if self.jsonl else []
        # Where there are no lines of JSON there is a table, of the fork on standard error.
        words = [str(part) for part in command]
        text = processes.output(words, self._environment(), self.setting.timeout, errors=not self.jsonl)
        return batched_bench(text, case)

    def with_threads(self, threads: int) -> Self:
        """The same on as many threads."""
        return replace(self, setting=replace(self.setting, threads=threads))

    def granted(self) -> Self:
        """It does not look at quotas."""
        return self

    def close(self) -> None:
        """Nothing is kept."""

    def server(self, port: int, case: Case) -> tuple[list[str], dict[str, str]]:
        """`llama-server` with a slot for each client."""
        each = -(-case.slot_len // 64) * 64
        command = [self.folder / "bin/llama-server", "-m", self.model.file(self.format), "--port", port]
        command += ["-np", case.slots, "-c", case.slots * each, *self._flash(case.slots), *self._threads()]
        command += [*self.flags, *self.server_flags]
        return [str(part) for part in command], self._environment()

    def _flash(self, sequences: int) -> list[str]:
        return ["-fa", "on" if self.flash_batches or sequences == 1 else "off"]

    def _threads(self) -> list[int | str]:
        return ["-t", self.setting.threads, "-tb", self.setting.threads]

    def _environment(self) -> dict[str, str]:
        if not self.setting.held:
            return self.setting.environment()
        # The programs are the same, the libraries that compute are another build's.
        held = self.folder.with_name(f"{self.folder.name}-avx2")
        libraries = {str(file.parent) for file in held.rglob("libggml*.so*")}
        if not libraries:
            raise processes.Failed(f"no AVX2 build in {held.name}")
        return self.setting.environment(LD_LIBRARY_PATH=":".join(sorted(libraries)))


def batched_bench(text: str, case: Case) -> float:
    """The phase's speed in the last row of `llama-batched-bench` that has the case's lengths, JSON lines or a table."""
    found = None
    for line in text.splitlines():
        row = _row(line)
        if row and (row["pp"], row["tg"], row["pl"]) == (case.input_len, case.output_len, case.batch):
            found = row["speed_tg" if case.kind == "decode" else "speed_pp"]
    if found is None:
        raise processes.Failed(f"no row of {case.batch} x {case.input_len} + {case.output_len} in the output")
    return found


def _row(line: str) -> dict[str, float] | None:
    if line.startswith("{"):
        return json.loads(line)
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return None
    keys = ("pp", "tg", "pl", "n_kv", "t_pp", "speed_pp", "t_tg", "speed_tg", "t", "speed")
    return dict(zip(keys, numbers)) if len(numbers) == len(keys) else None
