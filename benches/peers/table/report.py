"""What came out: a JSON document with every sample, and Markdown tables."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

from .cases import CASES, DEFINITIONS, FORMATS, GOAL_AVX2, GOALS, LIMITS, METRICS
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
        goal = GOALS.get(self._key)
        return GOAL_AVX2 if goal is not None and self.row.isa == "avx2" else goal

    @property
    def limit(self) -> float | None:
        """What Koma's own median must reach."""
        return LIMITS.get(self._key) if self.row.isa == "native" else None

    @property
    def _key(self) -> tuple[str, str, str, str]:
        return (self.row.model, self.row.case.name, self.row.format, self.metric)

    @property
    def needed(self) -> float | None:
        """The ratio at which goal and limit are reached; None where there is none, or no peer."""
        needed = [self.goal] if self.goal is not None else []
        if self.limit is not None and self.best is not None:
            needed.append(ratio(Summary.of([self.limit]), self.peers[self.best], METRICS[self.metric].higher_is_better))
        return max(needed, default=None)

    def compared(self, peer: str) -> float:
        """A peer's ratio to the best one, 1 at most."""
        return ratio(self.peers[peer], self.peers[self.best], METRICS[self.metric].higher_is_better)

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


def ordered(rows: list[Row]) -> list[Row]:
    """Model by model as they came, in the order of cases and formats."""
    models = list(dict.fromkeys(row.model for row in rows))
    names = [case.name for case in CASES]
    return sorted(rows, key=lambda row: (models.index(row.model), names.index(row.case.name), FORMATS.index(row.format)))


def shown(all: list[Line]) -> list[Line]:
    """The lines that goals are set for, of any model; all where there is none of them."""
    set_for = {key[1:] for key in (*GOALS, *LIMITS)}
    return [line for line in all if (line.row.case.name, line.row.format, line.metric) in set_for] or all


def lines(rows: list[Row]) -> list[Line]:
    """Every metric of every row that has a sample."""
    found = []
    for row in ordered(rows):
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


def document(rows: list[Row], about: dict[str, object]) -> dict[str, object]:
    """Everything, for programs."""
    return {
        "schema": SCHEMA,
        "environment": about,
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
                "shared_len": line.row.case.shared_len,
                "koma_version": line.row.koma,
                "took": line.row.took,
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


def markdown(rows: list[Row], about: dict[str, object]) -> str:
    """Everything but the samples, for people."""
    rows = ordered(rows)
    text = ["# Koma beside its peers", "", f"{subtitle(rows, about)} [lowest to highest]. {TURNS}"]
    text += ["", *_goals(lines(rows))]
    for model in dict.fromkeys(row.model for row in rows):
        mine = lines([row for row in rows if row.model == model])
        text += ["", f"## {model}", "", *_summary(mine), "", *_details(mine)]
    text += ["", "## What the numbers are", ""]
    kinds = dict.fromkeys(row.case.kind for row in rows)
    text += [f"- **{kind.replace('_', ' ')}**: {DEFINITIONS[kind]}" for kind in kinds]
    text += ["", *_disturbed(rows), *_missing(rows)]
    text += ["", "Versions: " + ", ".join(f"{name} {version}" for name, version in about["peers"].items()) + "."]
    return "\n".join(text).rstrip() + "\n"


TURNS = (
    "Koma and the peers took turns within each repetition. The figures of one line compare with each other and with nothing else: "
    "the machine's memory speed drifts from hour to hour."
)


def subtitle(rows: list[Row], about: dict[str, object]) -> str:
    """What was run, on what, how often."""
    counts = sorted({len(line.ours.samples) for line in lines(rows) if line.ours})
    many = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0] if counts else 0}"
    where = f"{about['koma']} on {about['cpu']}, {about['cores']} cores; {about['threads']} threads"
    return f"{where}, instruction set: {about['isa']}; medians of {many}"


def _goals(all: list[Line]) -> list[str]:
    """The lines with a goal: what the ratio is and what it is to be."""
    bound = [line for line in all if line.goal is not None or line.limit is not None]
    if not bound:
        return []
    verdicts = [line.reached for line in bound]
    text = ["## Goals", "", f"Reached: {verdicts.count(True)} of {len(bound)}. `each` is the ratio of every repetition.", ""]
    text += ["| model | case | format | | Koma | best peer | | ratio | each | goal | |", "|---" * 11 + "|"]
    for line in bound:
        metric, pairs = METRICS[line.metric], _paired(line)
        cells = [line.row.model, line.row.case.title, line.row.format, metric.title, *_compared(line)]
        cells += [f"{min(pairs):.2f} to {max(pairs):.2f}" if pairs else "-"]
        goals = [f"{line.goal:g} x"] if line.goal is not None else []
        goals += [f"{line.limit:g} {metric.unit}"] if line.limit is not None else []
        cells += [", ".join(goals), {None: "?", True: "reached", False: "**missed**"}[line.reached]]
        text.append(f"| {' | '.join(cells)} |")
    return text


def _summary(all: list[Line]) -> list[str]:
    table = ["| case | format | metric | Koma | best peer | | ratio |", "|---|---|---|---|---|---|---|"]
    for line in all:
        metric = METRICS[line.metric]
        cells = [line.row.case.title, line.row.format, f"{metric.title}, {metric.unit}", *_compared(line)]
        table.append(f"| {' | '.join(cells)} |")
    return table


def _compared(line: Line) -> list[str]:
    peer = line.peers[line.best] if line.best else None
    ratio = f"**{line.ratio:.2f} x**" if line.ratio is not None else "-"
    return [_range(line.ours), _range(peer), line.best or "-", ratio]


def _details(all: list[Line]) -> list[str]:
    names = list(dict.fromkeys(name for line in all for name in line.peers))
    table = [f"| case | format | metric | Koma | {' | '.join(names)} |", "|---" * (len(names) + 4) + "|"]
    for line in all:
        cells = [line.row.case.title, line.row.format, METRICS[line.metric].unit]
        found = [line.ours, *(line.peers.get(name) for name in names)]
        table.append(f"| {' | '.join(cells + [number(one.median) if one else '-' for one in found])} |")
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
        return number(summary.median)
    return f"{number(summary.median)} [{number(summary.low)} to {number(summary.high)}]"


def number(value: float) -> str:
    """Three digits, as the tables have them."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"
