"""Mixed load: chats that never pause, long prompts and intents at fixed rates, at the same time on the same cores."""

from __future__ import annotations

import http.client
import json
import random
import socket
import subprocess
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Iterator

from . import processes, served
from .cases import CASES, PROMPT_LEN, Case
from .contender import Contender, Setting

#: Seconds of chat alone, and of everything together.
ALONE_SECONDS = 4.0
MIXED_SECONDS = 12
#: Requests a second, and their tokens.
INTENTS, INTENT_LEN = 20, 16
PROMPTS = 1


def mixed(contender: Contender, case: Case, setting: Setting) -> dict[str, float]:
    """Chat alone, then all three. Raises Failed."""
    with ExitStack() as stack:
        server, _ = stack.enter_context(served.running(contender.server, case))
        classifier = server
        if contender.classifier:
            classifier = stack.enter_context(served.running(contender.classifier, case, path="/v1/models"))[0]
        if case.shared_len and not Prompts(server.port, case).first():
            raise processes.Failed("the first long prompt was not answered")
        chats = stack.enter_context(Chats(server.port, case))
        time.sleep(1)  # until all of them generate
        alone = chats.rate(ALONE_SECONDS)
        prompts = stack.enter_context(Prompts(server.port, case))
        intents = _load(setting, classifier.port, "intent", INTENTS, INTENT_LEN, "--endpoint", "classify")
        together = chats.rate(MIXED_SECONDS)
        found = _report(intents, setting.timeout)
        answered = prompts.answered  # those that are not by now do not count
    if found["failed"]:
        raise processes.Failed(f"{found['failed']} intents failed: {found['errors']}")
    if not alone:
        raise processes.Failed("no chat was answered")
    return {
        "intent_p99": found["results"]["end_to_end"]["p99"] * 1e3,
        "chat_share": 100 * together / alone,
        "chat_rate": together,
        "prompts_done": 100 * answered / (MIXED_SECONDS * PROMPTS),
    }


def mixed_rerank(contender: Contender, case: Case, setting: Setting) -> dict[str, float]:
    """Chat alone, then with reranks. Raises Failed."""
    reranks = next(one for one in CASES if one.kind == "rerank")
    with served.running(contender.server, case, "/ready") as (server, _), Chats(server.port, case) as chats:
        time.sleep(2)  # until all of them generate
        chats.tails()
        time.sleep(MIXED_SECONDS)
        alone = chats.tails()
        times, client = [], http.client.HTTPConnection("127.0.0.1", server.port, timeout=setting.timeout)
        for number in range(MIXED_SECONDS):
            begun = time.perf_counter()
            body = served.rerank_body(reranks, number) | {"model": "rerank"}
            client.request("POST", "/v1/rerank", json.dumps(body), {"content-type": "application/json"})
            reply = client.getresponse()
            if reply.status != 200:
                raise processes.Failed(f"http {reply.status}: {reply.read()[:150]!r}")
            reply.read()
            times.append(time.perf_counter() - begun)
            time.sleep(max(0.0, 1 - times[-1]))
        together = chats.tails()
        client.close()
    growth = [after / before for before, after in zip(alone, together) if before and after]
    if len(growth) != case.batch:
        raise processes.Failed("not every chat was answered")
    return {"itl_growth": max(growth), "reranks_p99": max(times) * 1e3}


def _load(setting: Setting, port: int, model: str, rate: int, length: int, *more: object) -> subprocess.Popen:
    command = [setting.koma, "bench", "serve", "--url", f"http://127.0.0.1:{port}", "--model", model, "--rate", rate]
    command += ["--requests", rate * MIXED_SECONDS, "--warmup", 1, "--input-len", length, "--new-connections", "--json", "-", *more]
    pipe = subprocess.PIPE
    words = [str(part) for part in command]
    return subprocess.Popen(words, env=setting.environment(), stdout=pipe, stderr=pipe, text=True)


def _report(load: subprocess.Popen, timeout: float) -> dict:
    try:
        text, said = load.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        load.kill()
        load.communicate()
        raise processes.Failed(f"load: not done after {timeout:.0f} s") from None
    if not text:
        raise processes.Failed(f"load: {processes.last_line(said)}")
    return json.loads(text)["series"][0]


@dataclass
class _Clients:
    """Threads that talk to a server until the body of the `with` ends."""

    port: int
    case: Case
    _stopped: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self):
        self._threads = [threading.Thread(target=self._life, args=(i,), daemon=True) for i in range(self._count())]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, prompt: list[int], output: int) -> Iterator[int]:
        """Streams a completion; gives the tokens that each part has."""
        body = {"model": "model", "prompt": prompt, "max_tokens": output, "min_tokens": output, "ignore_eos": True}
        data = json.dumps(body | {"stream": True, "temperature": 0}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        with socket.create_connection(("127.0.0.1", self.port), 60) as connection:
            connection.settimeout(1)
            connection.sendall(head.encode() + b"Connection: close\r\n\r\n" + data)
            counter = Counter()
            while not self._stopped.is_set():
                try:
                    part = connection.recv(65536)
                except TimeoutError:
                    continue
                if not part:
                    return
                yield counter.take(part)


@dataclass
class Chats(_Clients):
    """Clients that each have one streamed completion in flight; they count tokens as they come."""

    _tokens: int = 0
    #: For each client, seconds between tokens of one answer.
    _gaps: dict[int, list[float]] = field(default_factory=dict)

    def tails(self) -> list[float | None]:
        """The 99th percentile of each client's times between tokens since it was last asked for; none where there are few."""
        with self._lock:
            taken, self._gaps = self._gaps, {}
        each = [sorted(taken.get(client, [])) for client in range(self._count())]
        return [gaps[len(gaps) * 99 // 100] if len(gaps) > 100 else None for gaps in each]

    def rate(self, seconds: float) -> float:
        """Tokens a second during the next `seconds`."""
        before, begun = self._tokens, time.perf_counter()
        time.sleep(seconds)
        return (self._tokens - before) / (time.perf_counter() - begun)

    def _count(self) -> int:
        return self.case.batch

    def _life(self, client: int) -> None:
        rng = random.Random(client)
        while not self._stopped.is_set():
            try:
                last = None
                for count in self._ask(_ids(rng, self.case.input_len), self.case.output_len):
                    now = time.perf_counter()
                    with self._lock:
                        self._tokens += count
                        if last is not None and count:
                            # Those that came together were one apart and then none.
                            self._gaps.setdefault(client, []).extend([now - last] + [0.0] * (count - 1))
                    last = now if count else last
            except OSError:
                time.sleep(0.01)


@dataclass
class Prompts(_Clients):
    """Long prompts at random times; `answered` is how many have had their token."""

    answered: int = 0

    def first(self) -> bool:
        """Sends one and waits for its answer: what all begin with is known then."""
        return any(self._ask(self._prompt(random.Random(999)), 1))

    def _count(self) -> int:
        return PROMPTS * MIXED_SECONDS

    def _life(self, client: int) -> None:
        rng = random.Random(1000 + client)
        if self._stopped.wait(rng.uniform(0, MIXED_SECONDS)):
            return
        try:
            came = any(self._ask(self._prompt(rng), 1))
        except OSError:
            came = False
        with self._lock:
            self.answered += came

    def _prompt(self, rng: random.Random) -> list[int]:
        shared = self.case.shared_len
        return _ids(random.Random(998), shared) + _ids(rng, PROMPT_LEN - shared)


def _ids(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(300, 1300) for _ in range(count)]


@dataclass
class Counter:
    """Counts events of a stream that has one for each token, whatever parts it comes in."""

    _rest: bytes = b""

    def take(self, part: bytes) -> int:
        """Events that begin in `part`, with what was left of the one before. The end of the stream is none."""
        text = self._rest + part
        keep = len(EVENT) - 1
        self._rest = text[-keep:]
        return text.count(EVENT)


EVENT = b"data: {"
