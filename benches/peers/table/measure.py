"""The repetitions: every contender takes its turn in each, and what fails is named and left out of the later ones."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Iterator

from . import mixed, served
from .cases import Case
from .contender import Contender, Model, Setting
from .discover import contenders
from .hold import hold
from .processes import Failed, busy, busy_part, quota
from .stats import Summary

#: Busy processes of the case of company.
COMPANY = 2
#: Threads of the crowded case for each of the run's.
CROWD = 4
#: Part of the threads' time that the control group of its case grants.
QUOTA = 0.5
#: How long the machine is watched before a case, in seconds, and what part of it others may use.
WATCH = 0.5
QUIET = 0.1


@dataclass
class Row:
    """One case in one format of one model: samples of each metric by contender, and who could not be measured."""

    model: str
    case: Case
    format: str
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    #: What part of the cores others used before each repetition.
    company: list[float] = field(default_factory=list)
    #: The version of Koma that was measured, and the instruction set that all were held to.
    koma: str = ""
    isa: str = "native"
    #: Seconds that all turns took.
    took: float = 0.0

    @property
    def disturbed(self) -> bool:
        """Whether others were at work; the figures say little then."""
        return max(self.company, default=0.0) > QUIET

    def add(self, contender: str, values: dict[str, float]) -> None:
        """One repetition."""
        for metric, value in values.items():
            self.samples.setdefault(metric, {}).setdefault(contender, []).append(value)

    def summaries(self, metric: str) -> dict[str, Summary]:
        """Of every contender that was never in error; those that were do not have the same repetitions."""
        all = self.samples.get(metric, {})
        return {name: Summary.of(values) for name, values in all.items() if name not in self.failed}


@dataclass(frozen=True)
class Plan:
    """What is to be run."""

    setting: Setting
    repetitions: int
    lock: Path | None = None
    watch: float = WATCH
    only: tuple[str, ...] = ()  # contenders whose names begin so; Koma always runs
    koma: str = ""


def rows(plan: Plan, model: Model, chosen: list[tuple[Case, str]]) -> Iterator[Row]:
    """Measures all cases of a model, format by format: a driver stays loaded for all cases of its format."""
    for format in dict.fromkeys(format for _, format in chosen):
        found, left = contenders(plan.setting, model, format)
        if plan.only:
            found = [one for one in found if one.name == "Koma" or one.name.startswith(plan.only)]
            left = {name: why for name, why in left.items() if name.startswith(plan.only)}
        try:
            for case in (case for case, its in chosen if its == format):
                row = Row(model.name, case, format, failed=dict(left), koma=plan.koma, isa=plan.setting.isa)
                with hold(plan.lock):
                    begun = time.monotonic()
                    _repeat(plan, row, found)
                row.took = time.monotonic() - begun
                yield row
        finally:
            for one in found:
                one.close()


def _repeat(plan: Plan, row: Row, found: list[Contender]) -> None:
    for repetition in range(plan.repetitions):
        row.company.append(busy_part(plan.watch))
        if row.disturbed:
            print(f"{row.case.name}: others use {row.company[-1]:.0%} of the cores", file=sys.stderr)
        for one in found:
            if one.name in row.failed or row.case.kind not in one.kinds:
                continue
            begun = time.monotonic()
            try:
                values = measured(one, row.case, plan.setting)
            except Failed as failed:
                row.failed[one.name] = str(failed)
                values = {}
            row.add(one.name, values)
            said = row.failed.get(one.name) or ", ".join(f"{key} {value:.4g}" for key, value in values.items())
            turn = f"{row.model} {row.format} {row.case.name} #{repetition + 1} {one.name}"
            print(f"{turn}: {said} ({time.monotonic() - begun:.0f} s)", file=sys.stderr)


def measured(one: Contender, case: Case, setting: Setting) -> dict[str, float]:
    """One turn. Raises Failed."""
    if case.kind == "first_token":
        return served.first_token(one, case)
    if case.kind == "http":
        return served.http_load(one, case, setting)
    if case.kind == "mixed":
        return mixed.mixed(one, case, setting)
    if case.kind == "mixed_rerank":
        return mixed.mixed_rerank(one, case, setting)
    if case.kind == "encode":
        return {"batch_ms": one.encode(case) * 1e3}
    if case.kind == "ready":
        return served.ready(one, case)
    if case.kind == "classify":
        return served.classify(one, case, setting)
    if case.kind == "rerank":
        return served.rerank(one, case, setting)
    if case.kind in ("company", "crowded", "quota"):
        decode = replace(case, kind="decode")
        alone = one.rate(decode)
        if case.kind == "company":
            with busy(COMPANY):
                pressed = one.rate(decode)
        elif case.kind == "quota":
            with quota(QUOTA * setting.threads):
                pressed = one.granted().rate(decode)
        else:
            pressed = one.with_threads(CROWD * setting.threads).rate(decode)
        return {"share": 100 * pressed / alone}
    return {"rate": one.rate(case)}
