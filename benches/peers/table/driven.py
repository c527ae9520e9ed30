"""Contenders that load slowly: one process each, loaded once, that waits between its turns (see drive/protocol.py)."""

from __future__ import annotations

import json
import select
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from . import processes
from .cases import Case
from .contender import ALONE, ServerCommand

DRIVERS = Path(__file__).parent.parent / "drive"
#: vLLM compiles its model at load.
LOAD_SECONDS = 600.0


@dataclass
class Driven:
    """One driver process, started at its first turn."""

    name: str
    python: Path
    script: str
    arguments: list[str]
    env: dict[str, str]
    timeout: float
    kinds: frozenset[str] = ALONE
    server: ServerCommand | None = None
    classifier: ServerCommand | None = None
    health: str = "/health"
    _process: subprocess.Popen | None = None
    _said: TextIO | None = None
    _failed: str | None = None

    def rate(self, case: Case) -> float:
        """Of one run, after one to warm up that each turn has."""
        self._ask(order_of(case))
        return rate_of(self._ask(order_of(case)), case)

    def encode(self, case: Case) -> float:
        """The median of runs for a second."""
        return self._ask({"lens": case.lens, "seconds": 1.0})["seconds"]

    def close(self) -> None:
        """Ends the process."""
        if self._process:
            processes.end(self._process)
            for pipe in (self._process.stdin, self._process.stdout):
                pipe.close()
            self._process = None

    def _ask(self, order: dict[str, object]) -> dict[str, float]:
        if self._failed:  # a load that failed is not tried again in every turn
            raise processes.Failed(self._failed)
        if self._process is None:
            self._start()
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._reply(self.timeout)

    def _start(self) -> None:
        command = [str(self.python), str(DRIVERS / self.script), *self.arguments]
        pipe = subprocess.PIPE
        self._said = tempfile.TemporaryFile("w+", errors="replace")
        self._process = subprocess.Popen(
            command, env=self.env, stdin=pipe, stdout=pipe, stderr=self._said, text=True, start_new_session=True
        )
        try:
            self._reply(LOAD_SECONDS)
        except processes.Failed as failed:
            self._failed = str(failed)
            raise

    def _reply(self, timeout: float) -> dict[str, float]:
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            self.close()
            raise processes.Failed(self._last_words() if ready else f"no answer after {timeout:.0f} s")
        reply = json.loads(line)
        if "error" in reply:
            raise processes.Failed(reply["error"])
        return reply

    def _last_words(self) -> str:
        with self._said as said:
            said.seek(0)
            return processes.last_line(said.read())


def order_of(case: Case) -> dict[str, object]:
    """What a driver of models that generate is told (see drive/protocol.py)."""
    return {"batch": case.batch, "input_len": case.input_len, "output_len": case.output_len}


def rate_of(reply: dict[str, float], case: Case) -> float:
    """Tokens per second from the two times of a reply (see drive/protocol.py)."""
    if case.kind == "prefill":
        return case.batch * case.input_len / reply["first_seconds"]
    seconds = reply["seconds"] - reply["first_seconds"]
    if seconds <= 0:
        raise processes.Failed("the run was not longer than its prompt alone")
    return case.batch * (case.output_len - 1) / seconds
