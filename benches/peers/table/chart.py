"""The ratios as a picture: one bar for each case, from an SVG writer of a few lines."""

from __future__ import annotations

from html import escape

from .cases import METRICS
from .report import Line

ROW, BAR, LABEL, PLOT, NOTE, TOP = 22, 14, 330, 420, 300, 46


def svg(all: list[Line], title: str) -> str:
    """Koma's ratio to the best peer of every line that has one; a line marks the equal, a tick each goal."""
    shown = [line for line in all if line.ratio is not None]
    most = max([1.0, *(line.ratio for line in shown), *(line.goal or 0 for line in shown)])
    height = TOP + ROW * len(shown) + 24
    width = LABEL + PLOT + NOTE

    def x(value: float) -> float:
        return LABEL + PLOT * value / most

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="20" font-size="14" font-weight="bold">{escape(title)}</text>',
        '<text x="8" y="36" fill="#555555">Koma to the best peer; longer is better, whichever way the unit points</text>',
    ]
    for index, line in enumerate(shown):
        parts += _bar(line, TOP + ROW * index, x)
    bottom = TOP + ROW * len(shown)
    one = f"{x(1):.1f}"
    parts.append(f'<line x1="{one}" y1="{TOP - 4}" x2="{one}" y2="{bottom}" stroke="#222222" stroke-dasharray="3 3"/>')
    parts.append(f'<text x="{one}" y="{bottom + 14}" text-anchor="middle">1 x</text>')
    return "\n".join([*parts, "</svg>", ""])


def _bar(line: Line, top: int, x) -> list[str]:
    metric = METRICS[line.metric]
    behind = line.ratio < 1 or line.reached is False
    label = f"{line.row.model} {line.row.format}, {line.row.case.title}"
    if len(line.row.case.metrics) > 1:
        label += f" ({metric.unit})"
    note = f"{line.ratio:.2f} x {line.best} ({line.peers[line.best].median:.4g} {metric.unit})"
    base = top + BAR - 3
    parts = [
        f'<text x="{x(0) - 6:.1f}" y="{base}" text-anchor="end" font-size="11">{escape(label)}</text>',
        f'<rect x="{x(0):.1f}" y="{top}" width="{x(line.ratio) - x(0):.1f}" height="{BAR}" '
        f'fill="{"#c8793a" if behind else "#2f7d6d"}"/>',
        f'<text x="{x(line.ratio) + 5:.1f}" y="{base}" font-size="11">{escape(note)}</text>',
    ]
    if line.goal is not None:
        goal = f"{x(line.goal):.1f}"
        parts.append(f'<line x1="{goal}" y1="{top - 2}" x2="{goal}" y2="{top + BAR + 2}" stroke="#b00020" stroke-width="2"/>')
    return parts
