"""Small static charts as inline SVG: dots and lines over two axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_W, _H, _LEFT, _BOTTOM, _TOP, _RIGHT = 360, 220, 52, 34, 8, 10
_TICKS = 4


@dataclass(frozen=True)
class Series:
    """Points of one look (a CSS class); `dots` for points, else a line through them. `title` shows on hover."""

    kind: str
    points: Sequence[tuple[float, float]]
    dots: bool = False
    title: str = ""


def chart(
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    caption: str,
    log_x: bool = False,
    labels: Sequence[str] | None = None,
) -> str:
    """A figure. `labels` name the positions 0, 1, ... of a categorical x axis. Points that are not finite are left out."""
    shown = [(s, [p for p in s.points if all(map(math.isfinite, p)) and (p[0] > 0 or not log_x)]) for s in series]
    points = [p for _, kept in shown for p in kept]
    if not points:
        return ""
    at_x = _axis([p[0] for p in points], _LEFT, _W - _RIGHT, log=log_x)
    at_y = _axis([p[1] for p in points], _H - _BOTTOM, _TOP, log=False)
    body = [
        f'<path class="axis" d="M{_LEFT} {_TOP}V{_H - _BOTTOM}H{_W - _RIGHT}" fill="none"/>',
        *(_tick_x(at_x, v, labels) for v in _ticks(at_x, labels)),
        *(f'<text x="{_LEFT - 5}" y="{at_y(v):.1f}" text-anchor="end" dy="4">{v:.3g}</text>' for v in at_y.ticks()),
        f'<text x="{(_W + _LEFT) / 2}" y="{_H - 4}" text-anchor="middle">{escape(x)}</text>',
    ]
    for s, kept in shown:
        title = f"<title>{escape(s.title)}</title>" if s.title else ""
        places = [(at_x(px), at_y(py)) for px, py in kept]
        if s.dots:
            dots = "".join(f"M{a:.0f} {b:.0f}h0" for a, b in places)  # lines of no length with round ends
            body.append(f'<path class="{s.kind}" d="{dots}"/>')
        elif places:
            path = "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
            body.append(f'<path class="{s.kind}" d="M{path}">{title}</path>')
    label = escape(f"{caption}: {y} against {x}")
    return (
        f'<figure><svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{label}">{"".join(body)}</svg>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) for v in (self.low, self.high, value)) if self.log else (
            self.low, self.high, value)  # fmt: skip
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            step = (math.log(self.high) - math.log(self.low)) / (_TICKS - 1)
            return [math.exp(math.log(self.low) + k * step) for k in range(_TICKS)]
        return [self.low + k * (self.high - self.low) / (_TICKS - 1) for k in range(_TICKS)]


def _axis(values: Sequence[float], start: float, end: float, *, log: bool) -> _Axis:
    low, high = min(values), max(values)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    return _Axis(low, high, start, end, log)


def _ticks(axis: _Axis, labels: Sequence[str] | None) -> list[float]:
    return axis.ticks() if labels is None else [float(k) for k in range(len(labels))]


def _tick_x(axis: _Axis, value: float, labels: Sequence[str] | None) -> str:
    text = f"{value:.3g}" if labels is None else labels[int(value)][:12]
    return f'<text x="{axis(value):.1f}" y="{_H - _BOTTOM + 13}" text-anchor="middle">{escape(text)}</text>'
