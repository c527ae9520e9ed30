"""What every driver speaks: a loaded peer that waits on standard input and runs one load for each line.

In: `{"batch": B, "input_len": I, "output_len": O}`. Out: `{"seconds": T, "first_seconds": F}`, where T is the time of the
whole run and F that of the same run with one output token (equal to T where O is 1). Prompts are seeded random ids of exact
length, all different, and end of text is ignored. The first line out is `{"ready": true}`. What a peer prints goes to standard
error. Between the lines the process sleeps in a read.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from typing import Callable

#: Runs prompts to this many output tokens each; returns how many came out in all.
Run = Callable[[list[list[int]], int], int]


def serve(load: Callable[[], Run], vocab: int) -> None:
    """Loads and answers until standard input ends. A failure is an answer `{"error": text}`."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a peer's own prints must not break the protocol
    run = load()
    print(json.dumps({"ready": True}), file=replies)
    rng = random.Random(0)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            reply = answer(run, rng, vocab, **order)
        except Exception as error:  # the table names the peer and the reason, and goes on
            reply = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(reply), file=replies)


def answer(run: Run, rng: random.Random, vocab: int, batch: int, input_len: int, output_len: int) -> dict[str, float]:
    """Times one load and the same load with one output token."""

    def seconds(output: int) -> float:
        prompts = [[rng.randrange(100, vocab) for _ in range(input_len)] for _ in range(batch)]
        start = time.perf_counter()
        count = run(prompts, output)
        taken = time.perf_counter() - start
        if count != batch * output:
            raise ValueError(f"{count} tokens came out instead of {batch * output}")
        return taken

    first = seconds(1)
    return {"first_seconds": first, "seconds": seconds(output_len) if output_len > 1 else first}
