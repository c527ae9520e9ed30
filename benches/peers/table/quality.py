"""Perplexity and divergence of each format from f32 on its own dequantized weights: Koma and llama.cpp on one file and text.

Both cut the text into chunks of 512 tokens, compute each alone and ask what comes next at every token of a chunk's second half
but the last. Koma's figures come from the example `quality` of koma-tests, llama.cpp's from `llama-perplexity
--kl-divergence`. Each is held to f32 of its own engine; both perplexities of f32 are shown, so that a reader sees that they are
the same truth. llama.cpp keeps the exact probabilities in 16 bits: what f32 shows against itself is the least it can show.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from . import processes
from .cases import DECODER_FORMATS
from .contender import Setting
from .discover import models
from .hold import hold

SCHEMA = "koma.bench.quality/1"
TEXT = Path(__file__).parent.parent / "alice.txt"
CHUNK = 512
#: Tokens of a chunk that are asked about.
ASKED = CHUNK // 2 - 1
#: The rows that are held against each other: each engine as it starts by itself.
OURS, THEIRS = "Koma, bf16 cache", "llama.cpp, f16 cache"
TIMEOUT = 600.0


@dataclass(frozen=True)
class Figure:
    """One engine with one kind of cache on one file."""

    format: str
    engine: str
    perplexity: float
    perplexity_f32: float
    divergence: float
    error: float
    same_top: float


def koma_figures(format: str, text: str) -> tuple[list[Figure], list[int]]:
    """From the JSON of the example; and the ids of the text."""
    report = json.loads(text)
    if report.get("schema") != "koma.quality/1":
        raise processes.Failed(f"schema {report.get('schema')!r} of the example is not known here")
    return [
        Figure(
            format,
            f"Koma, {row['cache']} cache",
            row["perplexity"],
            row["perplexity_f32"],
            row["mean_divergence"],
            row["mean_divergence_error"],
            row["same_top"],
        )
        for row in report["rows"]
    ], report["ids"]


def llama_figure(format: str, engine: str, text: str) -> Figure:
    """From what `llama-perplexity --kl-divergence` prints."""
    number = r"\s*:\s*(-?[0-9.]+)"

    def find(name: str) -> float:
        found = re.search(re.escape(name) + number, text)
        if not found:
            raise processes.Failed(f"llama-perplexity prints no {name!r}")
        return float(found[1])

    error = re.search(r"Mean\s+KLD" + number + r"\s*±\s*([0-9.]+)", text)
    if not error:
        raise processes.Failed("llama-perplexity prints no mean KLD")
    return Figure(
        format,
        engine,
        find("Mean PPL(Q)"),
        find("Mean PPL(base)"),
        float(error[1]),
        float(error[2]),
        find("Same top p") / 100,
    )


def ids_of(text: str) -> list[int]:
    """From what `llama-tokenize --ids` prints: the last list."""
    found = re.findall(r"\[[0-9,\s]*\]", text)
    if not found:
        raise processes.Failed("llama-tokenize prints no ids")
    return json.loads(found[-1])


class Llama:
    """llama.cpp's programs on one text."""

    def __init__(self, setting: Setting, text: Path, chunks: int) -> None:
        self.setting, self.text, self.chunks = setting, text, chunks
        self.bin = setting.peers / "llama.cpp/bin"

    def ids(self, model: Path) -> list[int]:
        """The text as this file's tokenizer reads it."""
        return ids_of(self._run("llama-tokenize", "-m", model, "-f", self.text, "--ids", "--no-bos", "--log-disable"))

    def figures(self, format: str, model: Path) -> list[Figure]:
        """The file as it is, and the floor: f32 against itself."""
        with TemporaryDirectory() as folder:
            exact, base = Path(folder) / "f32.gguf", Path(folder) / "base"
            self._run("llama-quantize", "--allow-requantize", model, exact, "F32")
            plain = ("-ctk", "f32", "-ctv", "f32", "-fa", "off")
            self._perplexity(exact, base, *plain)
            found = self._perplexity(model, base, "--kl-divergence", "-fa", "on")
            floor = self._perplexity(exact, base, "--kl-divergence", *plain)
        return [
            llama_figure(format, THEIRS, found),
            llama_figure(format, "llama.cpp, f32 against itself", floor),
        ]

    def _perplexity(self, model: Path, base: Path, *more: str) -> str:
        given = ("-m", model, "-f", self.text, "-c", CHUNK, "-b", CHUNK, "--chunks", self.chunks)
        threads = ("-t", self.setting.threads, "-tb", self.setting.threads)
        return self._run("llama-perplexity", *given, *threads, "--kl-divergence-base", base, *more)

    def _run(self, program: str, *arguments: object) -> str:
        command = [str(self.bin / program), *(str(argument) for argument in arguments)]
        return processes.output(command, self.setting.environment(), TIMEOUT)


def worse(figures: list[Figure], chunks: int) -> list[str]:
    """Where Koma's answers are worse than llama.cpp's on the same file, in words.

    The mean divergence may be larger by both standard errors. The perplexity, as a factor of that in f32, may be larger by what
    chance makes of it: the logarithms of both probabilities of a token differ by twice the divergence in variance, if little.
    """
    out = []
    for format in dict.fromkeys(one.format for one in figures):
        ours, theirs = (next(f for f in figures if f.format == format and f.engine == engine) for engine in (OURS, THEIRS))
        if ours.divergence > theirs.divergence + ours.error + theirs.error:
            out.append(f"{format}: the mean divergence is {ours.divergence:.6f}, llama.cpp's {theirs.divergence:.6f}")
        factors = [one.perplexity / one.perplexity_f32 for one in (ours, theirs)]
        chance = math.sqrt(2 * (ours.divergence + theirs.divergence) / (chunks * ASKED))
        if math.log(factors[0] / factors[1]) > chance:
            out.append(f"{format}: the perplexity is {factors[0]:.4f} times that in f32, llama.cpp's {factors[1]:.4f} times")
    return out


def markdown(figures: list[Figure], chunks: int) -> str:
    """The table, and what is worse."""
    text = [
        f"Each file against f32 on its own dequantized weights, {chunks * CHUNK} tokens of *Alice's Adventures in Wonderland* (1865), chunks "
        f"of {CHUNK}.",
        "",
        "| format | engine | perplexity | of f32 | mean divergence, 1e-6 nats | same likeliest token |",
        "|---|---|---|---|---|---|",
    ]
    for one in figures:
        divergence = f"{one.divergence * 1e6:.0f} ± {one.error * 1e6:.0f}"
        cells = [one.format, one.engine, f"{one.perplexity:.4f}", f"{one.perplexity_f32:.4f}", divergence, f"{one.same_top:.2%}"]
        text.append(f"| {' | '.join(cells)} |")
    text += ["", *(worse(figures, chunks) or ["No format is worse than llama.cpp's."])]
    return "\n".join(text) + "\n"


def main(arguments: list[str]) -> int:
    """Runs; 1 where a format is worse than llama.cpp's."""
    flags = argparse.ArgumentParser(prog="bench-quality", description=__doc__.splitlines()[0])
    flags.add_argument("--peers", type=Path, required=True, help="the folder that benches/peers/install filled")
    flags.add_argument("--quality", type=Path, required=True, help="the example `quality` of koma-tests, a release build")
    flags.add_argument("--model", default="smollm2", help="of models/ in the peers' folder [default: smollm2]")
    flags.add_argument("--format", default=",".join(DECODER_FORMATS), help="by commas [default: all]")
    flags.add_argument("--text", type=Path, default=TEXT, help="[default: benches/peers/alice.txt]")
    flags.add_argument("--chunks", type=int, default=4, help="of 512 tokens [default: 4]")
    flags.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="[default: all cores]")
    flags.add_argument("--lock", type=Path, help="hold this file alone during each format")
    flags.add_argument("--out", type=Path, default=Path("bench-quality"), help="files written: OUT.md, OUT.json")
    given = flags.parse_args(arguments)
    setting = Setting(given.threads, "native", given.peers.resolve(), given.quality.resolve(), TIMEOUT)
    model = models(setting.peers)[given.model]
    llama = Llama(setting, given.text.resolve(), given.chunks)
    figures: list[Figure] = []
    for format in given.format.split(","):
        with hold(given.lock):
            found = _of_format(setting, llama, format, model.file(format))
        for one in found:
            print(one, file=sys.stderr)
        figures += found
    document = {"schema": SCHEMA, "model": model.name, "chunks": given.chunks, "figures": [asdict(one) for one in figures]}
    given.out.with_name(given.out.name + ".json").write_text(json.dumps(document, indent=1) + "\n")
    given.out.with_name(given.out.name + ".md").write_text(markdown(figures, given.chunks))
    return 1 if worse(figures, given.chunks) else 0


def _of_format(setting: Setting, llama: Llama, format: str, file: Path) -> list[Figure]:
    command = [str(setting.koma), str(file), str(llama.text), str(llama.chunks)]
    ours, ids = koma_figures(format, processes.output(command, setting.environment(), TIMEOUT))
    theirs = llama.ids(file)
    if ids != theirs:
        raise processes.Failed(f"{file.name}: Koma reads the text as {len(ids)} tokens and llama.cpp as {len(theirs)}")
    return ours + llama.figures(format, file)
