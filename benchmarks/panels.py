"""Lines over steps on a logarithmic scale, several panels side by side, as SVG text: no plotting library is needed."""

import math
from dataclasses import dataclass
from html import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
WIDTH, HEIGHT, LEFT, TOP, ROW = 430, 250, 56, 30, 15


@dataclass(frozen=True)
class Line:
    name: str
    values: list[float]
    """One for each step, from step 1."""
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    title: str
    lines: list[Line]
    """Eight at most: there are as many colours."""
    log_steps: bool
    lowest: float
    """Where the vertical scale ends; its top is the power of ten above the largest value."""


def drawing(panels: list[Panel], columns: int = 2) -> str:
    """The panels, row by row, each with its legend under it."""
    tall = [max(_height(each) for each in panels[at : at + columns]) for at in range(0, len(panels), columns)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {columns * (LEFT + WIDTH + 20)} {sum(tall)}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for at, panel in enumerate(panels):
        x, y = at % columns * (LEFT + WIDTH + 20), sum(tall[: at // columns])
        parts += [f'<g transform="translate({x} {y})">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _height(panel: Panel) -> int:
    return TOP + HEIGHT + 40 + ROW * len(panel.lines)


def _panel(panel: Panel) -> list[str]:
    steps = max(len(line.values) for line in panel.lines)
    high = math.ceil(math.log10(max(max(line.values) for line in panel.lines)))
    low = math.log10(panel.lowest)

    def across(step: int) -> float:
        share = math.log(step) / math.log(steps) if panel.log_steps else step / steps
        return LEFT + WIDTH * share

    def up(value: float) -> float:
        power = min(max(math.log10(max(value, 1e-300)), low), high)
        return TOP + HEIGHT * (high - power) / (high - low)

    parts = [f'<text x="{LEFT}" y="{TOP - 10}" font-weight="bold">{escape(panel.title)}</text>']
    parts.append(f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#888"/>')
    for power in range(math.ceil(low), high + 1, max(1, round((high - low) / 6))):
        y = up(10.0**power)
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">1e{power}</text>')
    marks = [2**k for k in range(steps.bit_length()) if 2**k <= steps] if panel.log_steps else list(range(0, steps + 1, steps // 4))
    parts += [f'<text x="{across(at):.1f}" y="{TOP + HEIGHT + 15}" text-anchor="middle">{at}</text>' for at in marks]
    for at, line in enumerate(panel.lines):
        dash = "6 3" if line.dashed else ""
        style = f'stroke="{COLOURS[at]}" fill="none" stroke-width="1.6" stroke-dasharray="{dash}"'
        points = " ".join(f"{across(step):.1f},{up(value):.1f}" for step, value in enumerate(line.values, 1))
        parts.append(f'<polyline points="{points}" {style}/>')
        y = TOP + HEIGHT + 34 + ROW * at
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + 26}" y1="{y - 4}" y2="{y - 4}" {style}/>')
        parts.append(f'<text x="{LEFT + 32}" y="{y}">{escape(line.name)}</text>')
    return parts
