"""Charts as SVG in the text of a page: axes with labels, colours of the page's style."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 440, 270  # of a chart, in its own pixels
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 40  # around the axes
TICKS = (0, 0.25, 0.5, 0.75, 1)
ROW = 24  # of a bar, with the space around it
NAMES, VALUES = 130, 120  # beside bars


class Line(NamedTuple):
    """A curve of n points from 0 to 1; y may be NaN."""

    name: str
    x: np.ndarray  # (n,)
    y: np.ndarray  # (n,)
    style: str  # class of the style sheet: all, or c0 to c7


class Bar(NamedTuple):
    """A bar, its value, and what is said of it."""

    name: str
    value: float
    text: str


def x_of(value: float) -> float:
    """Where a value from 0 to 1 stands from left to right."""
    return LEFT + value * (WIDTH - LEFT - RIGHT)


def y_of(value: float) -> float:
    """Where a value from 0 to 1 stands from top to bottom."""
    return HEIGHT - BOTTOM - value * (HEIGHT - TOP - BOTTOM)


def svg(title: str, width: float, height: float, content: str) -> str:
    """An image of a size with a title, which is read where it is not seen."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f'{content}</svg>'
    )


def text(x: float, y: float, content: str, *, anchor: str = 'start', more: str = '') -> str:
    """Text at a point, which is its start, middle or end; ``more`` are attributes."""
    return f'<text x="{x:.4g}" y="{y:.4g}" text-anchor="{anchor}"{more}>{escape(content)}</text>'


def axes(x_label: str, y_label: str) -> str:
    """Lines, numbers and names of axes from 0 to 1."""
    parts = []
    for value in TICKS:
        x, y = x_of(value), y_of(value)
        parts += [
            f'<path class="grid" d="M{x:g} {y_of(0):g}V{y_of(1):g}M{x_of(0)} {y:g}H{x_of(1)}"/>',
            text(x, y_of(0) + 15, f'{value:g}', anchor='middle'),
            text(LEFT - 6, y + 4, f'{value:g}', anchor='end'),
        ]
    turned = f' transform="rotate(-90 12 {y_of(0.5):g})"'
    return ''.join(
        [
            *parts,
            text(x_of(0.5), HEIGHT - 5, x_label, anchor='middle', more=' class="axis"'),
            text(12, y_of(0.5), y_label, anchor='middle', more=f' class="axis"{turned}'),
        ]
    )


def path(x: np.ndarray, y: np.ndarray) -> str:
    """The commands of a line through points (n,), with gaps where y is NaN.

    >>> path(np.array([0, 0.5, 1]), np.array([0, np.nan, 1]))
    'M46 230M428 10'
    """
    commands, command = [], 'M'
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        if np.isnan(b):
            command = 'M'
            continue
        commands.append(f'{command}{x_of(a):.4g} {y_of(b):.4g}')
        command = 'L'
    return ''.join(commands)


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    mark: tuple[float, float, str] | None = None,
) -> str:
    """Curves over axes from 0 to 1; ``mark`` is a point with its text."""
    curves = [
        f'<path class="line {line.style}" d="{path(line.x, line.y)}">'
        f'<title>{escape(line.name)}</title></path>'
        for line in reversed(lines)  # the first on top
    ]
    parts = [axes(x_label, y_label), *curves, marked(*mark) if mark else '']
    return svg(title, WIDTH, HEIGHT, ''.join(parts))


def marked(x: float, y: float, said: str) -> str:
    """A point from 0 to 1 with a line down to its x, and what is said of it."""
    left, top, is_far = x_of(x), y_of(y), x > 0.6
    return (
        f'<path class="mark" d="M{left:g} {y_of(0):g}V{top:g}"/>'
        f'<circle class="mark" cx="{left:g}" cy="{top:g}" r="4"/>'
        + text(left + (-8 if is_far else 8), y_of(0.06), said,
               anchor='end' if is_far else 'start', more=' class="marked"')
    )  # fmt: skip


def legend(lines: Sequence[Line]) -> str:
    """The names of curves, as a list."""
    items = (f'<li class="{line.style}">{escape(line.name)}</li>' for line in lines)
    return f'<ul class="legend">{"".join(items)}</ul>'


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """Bars one below the other, the longest as wide as there is room."""
    most = max((bar.value for bar in bars), default=0)
    room = WIDTH - NAMES - VALUES
    parts = []
    for index, bar in enumerate(bars):
        middle = index * ROW + ROW / 2
        width = room * bar.value / most if most > 0 else 0
        place = f'x="{NAMES}" y="{middle - 8:g}" width="{max(width, 1):.4g}"'
        parts += [
            text(NAMES - 8, middle + 4, bar.name, anchor='end'),
            f'<rect class="bar" {place} height="16" rx="2"/>',
            text(NAMES + width + 6, middle + 4, bar.text),
        ]
    return svg(title, WIDTH, max(len(bars), 1) * ROW, ''.join(parts))


def calibration_chart(title: str, bins: Sequence[dict]) -> str:
    """Share of right predictions by score, in ``bins`` of hotcoco's, beside the line of equals."""
    parts = [axes('score', 'share that is right')]
    for one in bins:
        if not one['count']:
            continue
        left, right = x_of(one['bin_lower']) + 1, x_of(one['bin_upper']) - 1
        top = y_of(one['avg_accuracy'])
        said = f'{one["bin_lower"]:.1f} to {one["bin_upper"]:.1f}: {one["avg_accuracy"]:.2f} right'
        place = f'x="{left:.4g}" y="{top:.4g}" width="{right - left:.4g}"'
        height = max(y_of(0) - top, 1)
        parts += [
            f'<rect class="bar" {place} height="{height:.4g}"><title>{said}</title></rect>',
            text((left + right) / 2, max(top - 4, TOP + 12), str(one['count']), anchor='middle'),
        ]
    parts.append(f'<path class="equal" d="M{x_of(0)} {y_of(0)}L{x_of(1)} {y_of(1)}"/>')
    return svg(title, WIDTH, HEIGHT, ''.join(parts))
