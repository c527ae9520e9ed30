"""What every driver of encoders speaks: a loaded peer that waits on standard input and runs one load for each line.

In: `{"lens": [..], "seconds": S}`, a text of so many random ids for each length. Out: `{"seconds": T}`, the median time of the load,
which is repeated for S seconds after one unmeasured run; of all texts padded in one batch and of five batches of neighbours in
length, the better. The first line out is `{"ready": true}`. What a peer prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import time
from typing import Callable

#: Computes a batch of texts, each a list of ids.
Run = Callable[[list[list[int]]], None]
BUCKETS = 5
IDS = range(1000, 20000)


def serve(load: Callable[[], Run]) -> None:
    """Loads and answers until standard input ends. A failure is an answer `{"error": text}`."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a peer's own prints must not break the protocol
    run = load()
    print(json.dumps({"ready": True}), file=replies)
    for line in sys.stdin:
        try:
            reply = {"seconds": seconds(run, **json.loads(line))}
        except Exception as error:  # the table names the peer and the reason, and goes on
            reply = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(reply), file=replies)


def seconds(run: Run, lens: list[int], seconds: float) -> float:
    """The better of one batch and buckets, where there are different lengths to put into some."""
    rng = random.Random(0)
    texts = [rng.choices(IDS, k=n) for n in sorted(lens)]
    ways = [[texts]]
    if len(set(lens)) > 1:
        step = -(-len(texts) // BUCKETS)
        ways.append([texts[i : i + step] for i in range(0, len(texts), step)])
    return min(_median(run, way, seconds) for way in ways)


def _median(run: Run, batches: list[list[list[int]]], seconds: float) -> float:
    def once() -> float:
        begun = time.perf_counter()
        for batch in batches:
            run(batch)
        return time.perf_counter() - begun

    once()
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        times.append(once())
    return statistics.median(times)


def padded(texts: list[list[int]]) -> dict[str, "numpy.ndarray"]:
    """The three inputs of a BERT, as long as the longest text."""
    import numpy  # what comes before is tested without it

    longest = max(map(len, texts))
    ids = numpy.zeros((len(texts), longest), dtype="int64")
    seen = numpy.zeros_like(ids)
    for i, text in enumerate(texts):
        ids[i, : len(text)] = text
        seen[i, : len(text)] = 1
    return {"input_ids": ids, "attention_mask": seen, "token_type_ids": numpy.zeros_like(ids)}
