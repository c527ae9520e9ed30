"""What the runner asks of every engine, and the context all of them get."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Protocol

from .cases import Case


@dataclass(frozen=True)
class Model:
    """One model's files, and what the runs must know of its shape."""

    name: str
    folder: Path
    #: Prompt ids are below this; every file of the model has at least as many.
    vocab: int
    #: Keys and values of one token: layers x kv heads x head width x 2.
    kv_values: int
    #: Most tokens of one request.
    window: int
    #: Whether it gives one row for each text instead of generating.
    encoder: bool = False

    def has(self, case: Case, format: str) -> bool:
        """Whether the case is for it, and it has the file."""
        if case.encodes != self.encoder or (case.models and self.name not in case.models):
            return False
        return self.encoder or self.file(format).exists()

    def file(self, format: str) -> Path:
        """The GGUF file of a format; it may be missing."""
        return self.folder / f"{format}.gguf"


@dataclass(frozen=True)
class Setting:
    """The same for all contenders of a run."""

    threads: int
    isa: str  # native | avx2
    peers: Path | None
    koma: Path
    timeout: float = 120.0
    #: What children inherit; OpenMP-based peers also read the number of threads from it.
    env: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    #: Whether the processor has vector instructions that AVX2 lacks.
    above_avx2: bool = True

    @property
    def held(self) -> bool:
        """Whether peers must be kept from instructions that the processor has."""
        return self.isa != "native" and self.above_avx2

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a child; an empty value takes a variable away."""
        all = {**self.env, "OMP_NUM_THREADS": str(self.threads), **more}
        return {name: value for name, value in all.items() if value}


#: Kinds of cases that need no server, the same in processes that are started anew for them, and those that need a server.
ALONE = frozenset({"decode", "prefill", "company"})
CROWDED = frozenset({"crowded", "quota"})
SERVED = frozenset({"http", "first_token"})
#: Several models at once, by one server or by one for each.
MIXED = frozenset({"mixed"})
#: Chats and a reranker in one process.
RERANKED = frozenset({"mixed_rerank"})
#: Kinds of cases of encoders that need no server, and those that need one.
ENCODED = frozenset({"encode"})
TEXTS = frozenset({"classify", "rerank", "ready"})

#: The command and environment of a server that listens on a port with room for this many requests of this many tokens.
ServerCommand = Callable[[int, Case], "tuple[list[str], dict[str, str]]"]


class Contender(Protocol):
    """One engine with one file in one setting."""

    name: str
    #: The kinds of cases it takes part in.
    kinds: frozenset[str]
    #: None where no kind of its cases needs a server.
    server: ServerCommand | None
    #: Where a server of texts answers that it is ready.
    health: str
    #: The server of intents in mixed cases; None where `server` answers them too.
    classifier: ServerCommand | None

    def rate(self, case: Case) -> float:
        """Tokens per second of a decode or prefill case, warmed up. Raises Failed."""

    def encode(self, case: Case) -> float:
        """Seconds for all texts of an encoder's load, warmed up; asked of those that take part in such cases. Raises Failed."""

    def with_threads(self, threads: int) -> Contender:
        """The same with another number of threads; asked of those that take part in crowded cases."""

    def granted(self) -> Contender:
        """The same as it starts by itself in a control group with a quota; asked of those that take part in such cases."""

    def close(self) -> None:
        """Ends what was started and kept."""
