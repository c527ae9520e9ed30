"""The command line of scripts/bench-peers."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Iterator

from . import processes
from .cases import CASES, FORMATS, chosen
from .chart import svg
from .contender import Setting
from .discover import models, versions
from .join import join
from .measure import Plan, Row, rows
from .report import document, environment, lines, markdown, subtitle


def parser() -> argparse.ArgumentParser:
    """The flags."""
    cases = ", ".join(case.name for case in CASES)
    flags = argparse.ArgumentParser(
        prog="bench-peers",
        description="Measures Koma and every peer found, in turns on this machine, and writes Markdown, JSON and a chart.",
        epilog="benches/peers/README.md says how peers and models get there and what each number means.",
    )
    flags.add_argument("--peers", type=Path, default=_path("KOMA_PEERS"), help="their folder [default: $KOMA_PEERS]")
    flags.add_argument("--koma", type=Path, default=_path("KOMA_BIN"), help="Koma's binary, a release build [default: $KOMA_BIN]")
    flags.add_argument("--model", default="", help="names of models/ in the peers' folder, by commas [default: all]")
    flags.add_argument("--case", default="", help=f"of {cases}, by commas [default: all]")
    flags.add_argument("--format", default="", help=f"of {', '.join(FORMATS)}, by commas [default: all]")
    flags.add_argument("--goals", action="store_true", help="of these only what a goal is set for: a fifth of the time")
    flags.add_argument("--only", default="", help="only peers whose names begin so, by commas [default: all]")
    flags.add_argument("--reps", type=int, default=5, help="repetitions [default: 5]")
    flags.add_argument("--timeout", type=float, default=120, help="seconds of one measurement at most [default: 120]")
    flags.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="[default: all cores]")
    flags.add_argument("--isa", choices=("native", "avx2"), default="native", help="avx2 holds everyone to AVX2")
    flags.add_argument("--lock", type=Path, help="hold this file alone during each case")
    flags.add_argument("--join", type=Path, nargs="+", metavar="JSON", help="measure nothing, put these results together")
    flags.add_argument("--out", type=Path, default=Path("bench-peers"), help="files written: OUT.md, OUT.json, OUT.svg")
    return flags


def _path(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def main(arguments: list[str]) -> int:
    """Runs; 1 where a goal was missed, 2 where nothing can be measured."""
    flags = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    done: list[Row] = []
    try:
        if flags.join:
            done, about = join(flags.join)
            write(flags.out, done, about)
        else:
            for row, about in _measured(flags):
                done.append(row)
                write(flags.out, done, about)  # what is there stays if a later case is cut off
    except (ValueError, OSError, processes.Failed) as error:
        print(f"bench-peers: {error}", file=sys.stderr)
        return 2
    return 1 if any(line.reached is False for line in lines(done)) else 0


def _measured(flags: argparse.Namespace) -> Iterator[tuple[Row, dict[str, object]]]:
    """Row by row, with what they hold for. Raises ValueError where a flag names what is not there."""
    setting = _setting(flags)
    wanted = chosen(_names(flags.case), _names(flags.format), flags.goals)
    found = models(setting.peers)
    names = _names(flags.model) or list(found)
    for name in names:
        if name not in found:
            raise ValueError(f"--model: {name!r} is none of {', '.join(found) or 'no models'}")
    koma = processes.output([str(setting.koma), "--version"], setting.env, setting.timeout).strip()
    about = environment(setting, koma, versions(setting.peers))
    plan = Plan(setting, flags.reps, flags.lock, only=tuple(_names(flags.only)), koma=koma)
    for name in names:
        cases = [(case, format) for case, format in wanted if found[name].has(case, format)]
        for row in rows(plan, found[name], cases):
            yield row, about


def _setting(flags: argparse.Namespace) -> Setting:
    if flags.peers is None or not flags.peers.is_dir():
        raise ValueError("--peers: the folder of the peers; benches/peers/install fills one")
    if flags.koma is None or not flags.koma.is_file():
        raise ValueError("--koma: Koma's binary; cargo build --release makes one")
    if flags.reps < 1 or flags.threads < 1:
        raise ValueError("--reps, --threads: at least 1")
    peers, koma = flags.peers.resolve(), flags.koma.resolve()
    return Setting(flags.threads, flags.isa, peers, koma, flags.timeout, above_avx2=processes.above_avx2())


def write(out: Path, done: list[Row], about: dict[str, object]) -> None:
    """The three files; each is whole or as it was."""
    texts = {
        ".md": markdown(done, about),
        ".json": json.dumps(document(done, about), indent=1) + "\n",
        ".svg": svg(lines(done), "Koma beside its peers", subtitle(done, about)),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    for ending, text in texts.items():
        file = out.with_name(out.name + ending)
        part = file.with_name(file.name + ".part")
        part.write_text(text)
        part.replace(file)
