"""Medians, spreads and ratios of repeated measurements."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Summary:
    """Order statistics of the repetitions of one measurement."""

    median: float
    low: float
    high: float
    samples: tuple[float, ...]

    @staticmethod
    def of(samples: list[float]) -> Summary | None:
        """None without samples."""
        if not samples:
            return None
        return Summary(median(samples), min(samples), max(samples), tuple(samples))

    @property
    def spread(self) -> float:
        """Width of the range as a part of the median; 0 of one sample."""
        return (self.high - self.low) / self.median if self.median else 0.0


def best(peers: dict[str, Summary], higher_is_better: bool) -> str | None:
    """The name of the peer with the best median; the first of equals. None without peers."""
    sign = -1 if higher_is_better else 1
    return min(peers, key=lambda name: sign * peers[name].median, default=None)


def ratio(ours: Summary, theirs: Summary, higher_is_better: bool) -> float:
    """How many times better `ours` is than `theirs`: above 1 is better, whichever way the unit points."""
    above, below = (ours, theirs) if higher_is_better else (theirs, ours)
    return above.median / below.median if below.median else float("inf")


def paired_ratios(ours: Summary, theirs: Summary, higher_is_better: bool) -> list[float]:
    """The same of each repetition, where both have it: the drift of the machine cancels out."""
    pairs = zip(ours.samples, theirs.samples)
    if higher_is_better:
        return [a / b for a, b in pairs if b]
    return [b / a for a, b in pairs if a]
