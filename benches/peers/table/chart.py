"""The ratios as a picture: a bar of Koma for each line, the peers as dots below it, a mark at each goal."""

from __future__ import annotations

import math
from html import escape

from .cases import METRICS
from .report import Line, number, shown

LABEL, PLOT, RATIO, NOTE = 290, 470, 70, 330
ROW, HEAD, PANEL, LEGEND = 32, 78, 34, 40
WIDTH = LABEL + PLOT + RATIO + NOTE
#: Bars of larger ratios end in a tip: one case must not press all others together.
MOST = 4.0

INK, SOFT, FAINT = "#1d2530", "#66707c", "#e4e8ec"
REACHED, AHEAD, BEHIND = "#14796b", "#c98a1b", "#b8402f"
#: Colours by the beginning of a peer's name.
FAMILIES = {
    "llama.cpp": "#8250c4",
    "ik_llama.cpp": "#d2579b",
    "OpenVINO": "#2f6fde",
    "ONNX Runtime": "#5a6b7b",
    "vLLM": "#e0812d",
}


def svg(all: list[Line], title: str, subtitle: str = "") -> str:
    """The lines that goals are set for, of every model; every line with a ratio where none of those was measured."""
    lines = shown([line for line in all if line.ratio is not None])
    models = list(dict.fromkeys(line.row.model for line in lines))
    height = HEAD + ROW * len(lines) + PANEL * len(models) + LEGEND
    scale = _Scale(lines)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(16, 30, title, size=20, weight="bold"),
        _text(16, 50, subtitle, color=SOFT),
        _text(16, 67, "Bars: Koma, as a multiple of the best peer of the case. Dots: each peer. Further right is better.", color=SOFT),
    ]
    top = HEAD
    for model in models:
        mine = [line for line in lines if line.row.model == model]
        parts += _panel(model, mine, top, scale)
        top += PANEL + ROW * len(mine)
    return "\n".join([*parts, *_legend(lines, top + 22), "</svg>", ""])


class _Scale:
    """Places on the axis from 0 to a round number above everything that is shown."""

    def __init__(self, lines: list[Line]) -> None:
        most = max([1.0, *(line.ratio for line in lines), *(line.needed or 0 for line in lines)])
        self.most = min(MOST, math.ceil(2 * most) / 2)

    def __call__(self, value: float) -> float:
        return LABEL + PLOT * min(value, self.most) / self.most

    def ticks(self) -> list[float]:
        """Every half."""
        return [i / 2 for i in range(int(2 * self.most) + 1)]


def _panel(model: str, lines: list[Line], top: int, x: _Scale) -> list[str]:
    bottom = top + PANEL + ROW * len(lines)
    parts = [_text(16, top + 22, model, size=15, weight="bold")]
    for tick in x.ticks():
        one = tick == 1
        dash = ' stroke-dasharray="4 3"' if one else ""
        place = f'x1="{x(tick):.1f}" y1="{top + PANEL - 6}" x2="{x(tick):.1f}" y2="{bottom}"'
        parts.append(f'<line {place} stroke="{INK if one else FAINT}"{dash}/>')
        label = "best peer" if one else f"{tick:g} x"
        parts.append(_text(x(tick), top + PANEL - 11, label, size=10, color=INK if one else SOFT, anchor="middle"))
    before = None
    for index, line in enumerate(lines):
        case = line.row.case
        parts += _row(line, case.name != before, top + PANEL + ROW * index, x)
        before = case.name
    return parts


def _row(line: Line, first: bool, top: int, x: _Scale) -> list[str]:
    metric = METRICS[line.metric]
    color = AHEAD if line.reached is False else REACHED
    color = BEHIND if line.ratio < 1 else color
    title = line.row.case.title
    if len(line.row.case.metrics) > 1:
        first, title = True, f"{title}: {metric.title}"
        title = title if len(title) <= 44 else f"{line.row.case.name}: {metric.title}"
    parts = [_text(16, top + 14, title, size=11) if first else ""]
    parts.append(_text(LABEL - 12, top + 14, line.row.format, size=11, color=SOFT, anchor="end"))
    width = x(line.ratio) - x(0)
    parts.append(f'<rect x="{x(0):.1f}" y="{top + 4}" width="{width:.1f}" height="12" rx="2" fill="{color}"/>')
    if line.ratio > x.most:
        end = x(x.most)
        parts.append(f'<path d="M{end:.1f} {top + 1} l9 9 l-9 9 z" fill="{color}"/>')
    # The best last, so that it lies on top.
    values = {name: line.compared(name) for name in line.peers}
    for name, value in sorted(values.items(), key=lambda pair: pair[1]):
        tip = f"{name}: {number(line.peers[name].median)} {metric.unit}"
        dot = f'<circle cx="{x(value):.1f}" cy="{top + 22}" r="4" fill="{family(name)}" stroke="#ffffff">'
        parts.append(f"{dot}<title>{escape(tip)}</title></circle>")
    if line.needed is not None:
        goal = x(line.needed)
        parts.append(f'<path d="M{goal:.1f} {top + 1} v18 m-4 -18 h8 l-4 5 z" stroke="{INK}" stroke-width="1.5" fill="{INK}"/>')
    parts.append(_text(LABEL + PLOT + RATIO - 4, top + 15, f"{line.ratio:.2f} x", size=14, color=color, weight="bold", anchor="end"))
    said = f"{number(line.ours.median)} against {number(line.peers[line.best].median)} {metric.unit} of {line.best}"
    parts.append(_text(LABEL + PLOT + RATIO + 14, top + 14, said, size=11, color=SOFT))
    return parts


def family(name: str) -> str:
    """The colour of a peer."""
    return next((color for start, color in FAMILIES.items() if name.startswith(start)), SOFT)


def _legend(lines: list[Line], y: int) -> list[str]:
    names = [name for name in FAMILIES if any(peer.startswith(name) for line in lines for peer in line.peers)]
    entries = [(f'<circle cx="{{x}}" cy="{y - 4}" r="4" fill="{FAMILIES[name]}"/>', name) for name in names]
    for color, what in ((REACHED, "ahead, no goal missed"), (AHEAD, "ahead, goal missed"), (BEHIND, "behind")):
        entries.append((f'<rect x="{{x}}" y="{y - 9}" width="10" height="10" rx="2" fill="{color}"/>', what))
    mark = f'<path d="M{{x}} {y - 11} v14 m-4 -14 h8 l-4 5 z" stroke="{INK}" stroke-width="1.5" fill="{INK}"/>'
    entries.append((mark, "goal"))
    parts, x = [], 22
    for shape, what in entries:
        parts += [shape.format(x=f"{x:.0f}"), _text(x + 16, y, what, size=11, color=SOFT)]
        x += 38 + 6.6 * len(what)
    return parts


def _text(x: float, y: float, text: str, size: int = 12, color: str = INK, weight: str = "", anchor: str = "") -> str:
    more = f' font-weight="{weight}"' if weight else ""
    more += f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:.1f}" y="{y}" font-size="{size}" fill="{color}"{more}>{escape(text)}</text>'
