"""What came out: a JSON document with every sample, and Markdown tables."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

from .cases import DEFINITIONS, GOALS, LIMITS, METRICS
from .contender import Setting
from .measure import Row
from .stats import Summary, best, paired_ratios, ratio

#: A change that breaks readers takes the next number.
SCHEMA = "koma.bench.peers/1"


@dataclass(frozen=True)
class Line:
    """One metric of one row, compared."""

    row: Row
    metric: str
    ours: Summary | None
    peers: dict[str, Summary]

    @property
    def best(self) -> str | None:
        """The best peer."""
        return best(self.peers, METRICS[self.metric].higher_is_better)

    @property
    def ratio(self) -> float | None:
        """Koma to the best peer, above 1 is better; None where one of them is missing."""
        if self.ours is None or self.best is None:
            return None
        return ratio(self.ours, self.peers[self.best], METRICS[self.metric].higher_is_better)

    @property
    def goal(self) -> float | None:
        """What the ratio must reach."""
        return GOALS.get((self.row.model, self.row.case.name, self.row.format, self.metric))

    @property
    def limit(self) -> float | None:
        """What Koma's own median must reach."""
        return LIMITS.get((self.row.model, self.row.case.name, self.row.format, self.metric))

    @property
    def reached(self) -> bool | None:
        """Whether goal and limit are; None where there is none or nothing to compare."""
        verdicts = []
        if self.goal is not None and self.ratio is not None:
            verdicts.append(self.ratio >= self.goal)
        if self.limit is not None and self.ours is not None:
            higher = METRICS[self.metric].higher_is_better
            verdicts.append(self.ours.median >= self.limit if higher else self.ours.median <= self.limit)
        return all(verdicts) if verdicts else None


def lines(rows: list[Row]) -> list[Line]:
    """Every metric of every row that has a sample."""
    found = []
    for row in rows:
        for metric in row.case.metrics:
            summaries = row.summaries(metric)
            ours = summaries.pop("Koma", None)
            if ours or summaries:
                found.append(Line(row, metric, ours, summaries))
    return found


def environment(setting: Setting, koma: str, peers: dict[str, str]) -> dict[str, object]:
    """What the figures hold for."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "threads": setting.threads,
        "isa": setting.isa,
        "load_average": list(os.getloadavg()),
        "unix_time": int(time.time()),
        "koma": koma,
        "peers": peers,
    }


def _cpu() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else None


def document(rows: list[Row], about: dict[str, object], repetitions: int) -> dict[str, object]:
    """Everything, for programs."""
    return {
        "schema": SCHEMA,
        "environment": about,
        "repetitions": repetitions,
        "definitions": DEFINITIONS,
        "rows": [
            {
                "model": line.row.model,
                "case": line.row.case.name,
                "title": line.row.case.title,
                "format": line.row.format,
                "metric": line.metric,
                "unit": METRICS[line.metric].unit,
                "higher_is_better": METRICS[line.metric].higher_is_better,
                "batch": line.row.case.batch,
                "input_len": line.row.case.input_len,
                "output_len": line.row.case.output_len,
                "koma": _json(line.ours),
                "peers": {name: _json(summary) for name, summary in line.peers.items()},
                "best_peer": line.best,
                "ratio": line.ratio,
                "paired_ratios": _paired(line),
                "goal": line.goal,
                "limit": line.limit,
                "reached": line.reached,
                "not_measured": line.row.failed,
                "others_use": line.row.company,
                "disturbed": line.row.disturbed,
            }
            for line in lines(rows)
        ],
    }


def _paired(line: Line) -> list[float]:
    if line.ours is None or line.best is None:
        return []
    return paired_ratios(line.ours, line.peers[line.best], METRICS[line.metric].higher_is_better)


def _json(summary: Summary | None) -> dict[str, object] | None:
    if summary is None:
        return None
    return {"median": summary.median, "min": summary.low, "max": summary.high, "samples": list(summary.samples)}


def markdown(rows: list[Row], about: dict[str, object], repetitions: int) -> str:
    """Everything but the samples, for people."""
    text = [
        "# Koma beside its peers",
        "",
        f"{about['koma']} on {about['cpu']}, {about['cores']} cores; {about['threads']} threads, instruction set: {about['isa']}; medians of "
        f"{repetitions} [lowest to highest]. Koma and the peers took turns within each repetition. The figures of this page "
        "compare with each other and with nothing else: the machine's memory speed drifts from hour to hour.",
    ]
    for model in dict.fromkeys(row.model for row in rows):
        mine = [row for row in rows if row.model == model]
        text += ["", f"## {model}", "", *_summary(lines(mine)), "", *_details(lines(mine))]
    text += ["", "## What the numbers are", ""]
    kinds = dict.fromkeys(row.case.kind for row in rows)
    text += [f"- **{kind.replace('_', ' ')}**: {DEFINITIONS[kind]}" for kind in kinds]
    text += ["", *_disturbed(rows), *_missing(rows)]
    text += ["", "Versions: " + ", ".join(f"{name} {version}" for name, version in about["peers"].items()) + "."]
    return "\n".join(text).rstrip() + "\n"


def _summary(all: list[Line]) -> list[str]:
    table = ["| case | format | metric | Koma | best peer | | ratio | goal | |", "|---|---|---|---|---|---|---|---|---|"]
    for line in all:
        metric = METRICS[line.metric]
        peer = line.peers[line.best] if line.best else None
        goals = [f"{line.goal:g} x"] if line.goal is not None else []
        goals += [f"{line.limit:g} {metric.unit}"] if line.limit is not None else []
        reached = {None: "", True: "reached", False: "**missed**"}[line.reached]
        cells = [line.row.case.title, line.row.format, f"{metric.title}, {metric.unit}", _range(line.ours), _range(peer)]
        cells += [line.best or "-", f"{line.ratio:.2f} x" if line.ratio is not None else "-", ", ".join(goals), reached]
        table.append(f"| {' | '.join(cells)} |")
    return table


def _details(all: list[Line]) -> list[str]:
    names = list(dict.fromkeys(name for line in all for name in line.peers))
    table = [f"| case | format | metric | Koma | {' | '.join(names)} |", "|---" * (len(names) + 4) + "|"]
    for line in all:
        cells = [line.row.case.title, line.row.format, METRICS[line.metric].unit]
        found = [line.ours, *(line.peers.get(name) for name in names)]
        table.append(f"| {' | '.join(cells + [_number(one.median) if one else '-' for one in found])} |")
    return ["All of them, medians:", "", *table]


def _disturbed(rows: list[Row]) -> list[str]:
    where = [f"{row.model} {row.case.name} {row.format} ({max(row.company):.0%})" for row in rows if row.disturbed]
    if not where:
        return []
    return ["## Not on a quiet machine", "", f"Other processes used the cores: {', '.join(where)}. Measure these again.", ""]


def _missing(rows: list[Row]) -> list[str]:
    said: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, why in row.failed.items():
            said.setdefault((name, why), []).append(f"{row.model} {row.case.name} {row.format}")
    if not said:
        return []
    return ["## Not measured", ""] + [f"- {name}: {why} ({', '.join(where)})" for (name, why), where in said.items()]


def _range(summary: Summary | None) -> str:
    if summary is None:
        return "-"
    if len(summary.samples) == 1:
        return _number(summary.median)
    return f"{_number(summary.median)} [{_number(summary.low)} to {_number(summary.high)}]"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"
