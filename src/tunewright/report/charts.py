"""SVG charts for the pages, drawn on the server: no script and no outside file is needed.

Charts are fluid: horizontal positions are per cent of the width, heights are pixels, so text keeps
its size on a phone. Colours come from the page's stylesheet through classes (`tone`), which is how
one drawing serves light, dark and print. Everything returned is Markup with its text escaped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tunewright.figures import known, show_number, show_tick

Point = tuple[float, float]
MAX_POINTS = 240
MAX_CLASSES = 100


def el(name: str, *content: Any, **attributes: Any) -> Markup:
    """One SVG element; `class_` becomes class, underscores become hyphens, None is left out."""
    parts = [
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _short(value))
        for key, value in attributes.items()
        if value is not None
    ]
    inner = Markup("").join(content)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), Markup("").join(parts), inner)  # noqa: S704


def _short(value: Any) -> Any:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


@dataclass(frozen=True, slots=True)
class Scale:
    """A stretch of numbers mapped onto 0 to 1."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """Where a value lies between the ends; below 0 or above 1 when outside."""
        return (value - self.low) / (self.high - self.low)

    def at(self, value: float) -> str:
        """The same as a percentage, kept within the ends: "37.5%"."""
        return f"{100 * min(1.0, max(0.0, self.share(value))):.2f}%"

    def holds(self, value: float) -> bool:
        """True when the value lies between the ends."""
        return self.low <= value <= self.high

    def ticks(self, most: int = 6) -> list[float]:
        """Round numbers inside the scale, at most `most` of them."""
        raw = (self.high - self.low) / max(most - 1, 1)
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [0.0 if i == 0 else float(f"{i * step:.12g}") for i in range(first, last + 1)]


def make_scale(values: Iterable[float | None], *, pad: float = 0.06) -> Scale:
    """A scale that holds all finite values with a margin; 0 to 1 when there are none."""
    finite = [float(value) for value in values if known(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if high - low < 1e-12 * max(abs(high), 1e-6):
        half = abs(high) * 0.1
        low, high = (low - half, high + half) if half else (0.0, 1.0)  # shares rise from 0
    margin = pad * (high - low)
    return Scale(low - margin, high + margin)


def whisker(
    value: float | None,
    ci95: Sequence[float | None],
    scale: Scale,
    *,
    tone: str,
    zero: bool = False,
    hidden: float | None = None,
    height: int = 34,
) -> Markup:
    """A dot with its interval on a shared scale; an arrow at the edge where it lies outside.

    zero: draw the line of no difference. hidden: shade differences below this size.
    """
    middle = height / 2
    drawn = [
        el("line", x1=scale.at(t), x2=scale.at(t), y1=0, y2=height, class_="grid")
        for t in scale.ticks()
    ]
    if zero and hidden is not None and known(hidden):
        left, right = max(scale.low, -hidden), min(scale.high, hidden)
        width = f"{100 * max(0.0, scale.share(right) - scale.share(left)):.2f}%"
        drawn.append(
            el("rect", x=scale.at(left), y=3, width=width, height=height - 6, class_="dim")
        )
    if zero and scale.holds(0.0):
        drawn.append(el("line", x1=scale.at(0), x2=scale.at(0), y1=0, y2=height, class_="zero"))
    low, high = ci95
    if known(low) and known(high) and high >= scale.low and low <= scale.high:
        ends = {"x1": scale.at(low), "x2": scale.at(high), "y1": middle, "y2": middle}
        drawn.append(el("line", **ends, class_=f"ci {tone}"))
    if known(value):
        drawn.append(_dot_or_arrow(value, scale, middle, tone))
    return el("svg", *drawn, class_="whisker", width="100%", height=height, aria_hidden="true")


def _dot_or_arrow(value: float, scale: Scale, y: float, tone: str) -> Markup:
    if scale.holds(value):
        return el("circle", cx=scale.at(value), cy=y, r=5, class_=f"dot {tone}")
    left = value < scale.low
    anchor, x, sign = ("start", "0%", "◂ off scale") if left else ("end", "100%", "off scale ▸")
    return el("text", sign, x=x, y=y + 4, text_anchor=anchor, class_="off")


def scale_axis(scale: Scale, write: Callable[[float], str]) -> Markup:
    """Tick labels below a column of whiskers."""
    marks = [
        el("text", write(t), x=scale.at(t), y=14, text_anchor="middle", class_="tick")
        for t in scale.ticks()
    ]
    return el("svg", *marks, class_="whisker", width="100%", height=20, aria_hidden="true")


def focus_scale(items: Sequence[tuple[float, float, float]], centre: float) -> Scale:
    """A scale for (low, value, high) items near `centre`; those far off stay outside.

    One baseline at the floor would else squeeze all differences that matter into a few pixels.
    Near is within five times the distance of the nearest other, or four times the widest interval.
    """
    gaps = sorted(abs(value - centre) for _, value, _ in items if value != centre)
    widest = max((high - low for low, _, high in items), default=0.0)
    wide = max(5 * gaps[0] if gaps else 0.0, 4 * widest)
    close = [item for item in items if abs(item[1] - centre) <= wide]
    return make_scale([end for item in close for end in item] or [centre])


def bar(share: float | None, *, tone: str = "s1") -> Markup:
    """A small horizontal bar, 0 to 1, for a table cell."""
    if not known(share):
        return Markup("")
    width = f"{100 * min(1.0, max(0.0, share)):.2f}%"
    ground = el("rect", x=0, y=0, width="100%", height=6, rx=3, class_="ground")
    front = el("rect", x=0, y=0, width=width, height=6, rx=3, class_=f"bar {tone}")
    return el("svg", ground, front, class_="bar", width="100%", height=6, aria_hidden="true")


@dataclass(frozen=True, slots=True)
class Line:
    """One series of a line chart. dots: mark every point. faint: drawn as background."""

    name: str
    points: tuple[Point, ...]
    tone: str = "s1"
    dots: bool = False
    faint: bool = False


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    write: Callable[[float], str] = show_number,
    tick: Callable[[float], str] = show_tick,
    mark: Point | None = None,
    height: int = 200,
    zero: bool = False,
) -> Markup:
    """Lines over steps with axes; `mark` rings one point. `title` is read out by screen readers.

    write tells the values of points, tick those of the axis. zero: the axis starts at 0.
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    across = Scale(min(xs, default=0.0), max(max(xs, default=1.0), min(xs, default=0.0) + 1e-9))
    up = make_scale([*ys, 0.0] if zero else ys)
    up = Scale(0.0, up.high) if zero else up
    drawn = [el("title", title), *_grid(across, up, height)]
    drawn += [_path(line, across, up, height) for line in lines if len(line.points) > 1]
    for line in lines:
        if line.dots or len(line.points) == 1:
            drawn += [_point(p, line, across, up, height, write) for p in line.points]
    if mark:
        y = height * (1 - up.share(mark[1]))
        drawn.append(el("circle", cx=across.at(mark[0]), cy=y, r=8, class_="best"))
    plot = el(
        "svg", *drawn, class_="plot", width="100%", height=height + 24, role="img", aria_label=title
    )
    return Markup('<div class="chart" {}>{}{}</div>').format(
        _readout(lines, across, write), _y_axis(up, tick, height), plot
    )


def _grid(across: Scale, up: Scale, height: int) -> list[Markup]:
    drawn = []
    for tick in up.ticks(5):
        y = height * (1 - up.share(tick))
        drawn.append(el("line", x1="0%", x2="100%", y1=y, y2=y, class_="grid"))
    ticks = across.ticks(5)
    for tick in ticks:
        share = across.share(tick)
        anchor = "start" if share < 0.03 else "end" if share > 0.97 else "middle"
        text = show_tick(tick)
        drawn.append(
            el("text", text, x=across.at(tick), y=height + 18, text_anchor=anchor, class_="tick")
        )
    drawn.append(el("line", x1="0%", x2="100%", y1=height, y2=height, class_="axis"))
    return drawn


def _y_axis(up: Scale, write: Callable[[float], str], height: int) -> Markup:
    marks = [
        el("text", write(tick), x=46, y=height * (1 - up.share(tick)) + 4, text_anchor="end",
           class_="tick")
        for tick in up.ticks(5)
    ]  # fmt: skip
    return el("svg", *marks, class_="yaxis", width=52, height=height + 24, aria_hidden="true")


def _path(line: Line, across: Scale, up: Scale, height: int) -> Markup:
    steps = " ".join(
        f"{1000 * across.share(x):.1f},{1000 * (1 - up.share(y)):.1f}" for x, y in line.points
    )
    kind = f"line {line.tone}" + (" faint" if line.faint else "")
    path = el("polyline", points=steps, class_=kind, vector_effect="non-scaling-stroke")
    return el(
        "svg", path, viewBox="0 0 1000 1000", preserveAspectRatio="none", width="100%",
        height=height, overflow="visible",
    )  # fmt: skip


def _point(
    point: Point, line: Line, across: Scale, up: Scale, height: int, write: Callable[[float], str]
) -> Markup:
    x, y = point
    text = f"{line.name}: {write(y)} at {show_number(x)}"
    return el(
        "circle", el("title", text), cx=across.at(x), cy=height * (1 - up.share(y)), r=3.5,
        class_=f"dot {line.tone}",
    )  # fmt: skip


def _readout(lines: Sequence[Line], across: Scale, write: Callable[[float], str]) -> Markup:
    """What the page's script shows under the pointer: per line its name, and x, y and its words."""
    shown = [
        {
            "name": line.name,
            "points": [
                [round(across.share(x), 4), show_number(x), write(y)] for x, y in line.points
            ],
        }
        for line in lines
        if not line.faint
    ]
    return Markup('data-lines="{}"').format(json.dumps(shown, separators=(",", ":")))


def thin_out(points: Sequence[Point], most: int = MAX_POINTS) -> tuple[Point, ...]:
    """At most `most` points: means of neighbours. Points that are not finite are left out."""
    finite = [(float(x), float(y)) for x, y in points if known(x) and known(y)]
    size = math.ceil(len(finite) / most)
    if size <= 1:
        return tuple(finite)
    groups = [finite[i : i + size] for i in range(0, len(finite), size)]
    return tuple((group[-1][0], math.fsum(y for _, y in group) / len(group)) for group in groups)


def smooth(points: Sequence[Point], *, share: float = 0.06) -> tuple[Point, ...]:
    """A centred moving average over about `share` of the points."""
    half = int(len(points) * share / 2)
    out = []
    for i, (x, _) in enumerate(points):
        reach = min(half, i, len(points) - 1 - i)
        near = [y for _, y in points[i - reach : i + reach + 1]]
        out.append((x, math.fsum(near) / len(near)))
    return tuple(out)


def reliability(bins: Sequence[Mapping[str, Any]], title: str, *, height: int = 260) -> Markup:
    """Accuracy against confidence per bin; the area of a dot grows with its count of rows."""
    unit = Scale(0.0, 1.0)
    used = [b for b in bins if known(b.get("confidence")) and known(b.get("accuracy"))]
    most = max((b.get("count") or 0 for b in used), default=1) or 1
    drawn = [el("title", title), *_grid(unit, unit, height)]
    drawn.append(el("line", x1="0%", y1=height, x2="100%", y2=0, class_="ideal"))
    for item in used:
        x, ideal = unit.at(item["confidence"]), height * (1 - item["confidence"])
        y = height * (1 - item["accuracy"])
        radius = 3 + 8 * math.sqrt((item.get("count") or 0) / most)
        text = (
            f"confidence {item['confidence']:.2f}, accuracy {item['accuracy']:.2f}, "
            f"{show_number(item.get('count') or 0)} rows"
        )
        drawn.append(el("line", x1=x, x2=x, y1=ideal, y2=y, class_="gap"))
        drawn.append(el("circle", el("title", text), cx=x, cy=y, r=radius, class_="dot s1 soft"))
    plot = el(
        "svg", *drawn, class_="plot", width="100%", height=height + 24, role="img", aria_label=title
    )
    return Markup('<div class="chart square">{}{}</div>').format(
        _y_axis(unit, show_tick, height), plot
    )


def histogram(bins: Sequence[tuple[float, float, int]], title: str, *, height: int = 120) -> Markup:
    """Bars for (low, high, count); equal widths on screen, labelled by their ends."""
    most = max((count for _, _, count in bins), default=0) or 1
    width = 100 / max(len(bins), 1)
    drawn = [el("title", title)]
    every = math.ceil(len(bins) / 6)
    for i, (low, high, count) in enumerate(bins):
        tall = max(height * count / most, 1.0 if count else 0.0)
        text = f"{show_number(low)} to {show_number(high)}: {show_number(count)}"
        drawn.append(
            el("rect", el("title", text), x=f"{i * width + 0.15 * width:.2f}%", y=height - tall,
               width=f"{0.7 * width:.2f}%", height=tall, rx=1.5, class_="bar s1")
        )  # fmt: skip
        if i % every == 0:
            x = f"{(i + 0.5) * width:.2f}%"
            drawn.append(
                el("text", show_number(low), x=x, y=height + 18, text_anchor="middle",
                   class_="tick")
            )  # fmt: skip
    drawn.append(el("line", x1="0%", x2="100%", y1=height, y2=height, class_="axis"))
    return el(
        "svg", *drawn, class_="plot", width="100%", height=height + 24, role="img", aria_label=title
    )


def heat_map(labels: Sequence[str], matrix: Sequence[Sequence[int]], title: str) -> Markup:
    """A confusion matrix, rows true and columns predicted; mistakes are coloured, hits are grey.

    Cells shrink as classes grow and keep a fixed size: the page scrolls the box that holds it,
    while the names of the rows, a drawing of their own, stay in sight.
    """
    size = len(labels)
    cell = 42 if size <= 8 else 28 if size <= 20 else 20 if size <= 36 else 12
    font = 12 if size <= 20 else 10.5 if size <= 36 else 9.5
    names = _fit_labels(labels, font, 190)
    head = round(max(map(len, names), default=1) * font * 0.6) + 10
    most = max((c for i, row in enumerate(matrix) for j, c in enumerate(row) if i != j), default=1)
    drawn = [el("title", title)]
    drawn.append(el("rect", x=0, y=head, width=cell * size, height=cell * size, class_="field"))
    drawn += _heat_labels(labels, names, cell, font, head)
    drawn.append(_heat_mesh(size, cell, head))
    for i, row in enumerate(matrix):
        total = sum(row) or 1
        for j, count in enumerate(row):
            if count:
                x, y = j * cell, head + i * cell
                drawn.append(_heat_cell(labels, (i, j), count, total, most, cell, (x, y)))
    field = el(
        "svg", *drawn, class_="heat", width=cell * size, height=head + cell * size, role="img",
        aria_label=title,
    )  # fmt: skip
    return Markup('<div class="heat-grid">{}{}</div>').format(
        _heat_rows(labels, names, cell, font, head), field
    )


def _fit_labels(labels: Sequence[str], font: float, width: int) -> list[str]:
    longest = int((width - 10) / (font * 0.6))
    return [text if len(text) <= longest else text[: longest - 1] + "…" for text in labels]


def _heat_rows(
    labels: Sequence[str], names: Sequence[str], cell: int, font: float, head: int
) -> Markup:
    width = round(max(map(len, names), default=1) * font * 0.6) + 10
    drawn = [
        el("text", name, el("title", label), x=width - 6, y=head + (i + 0.5) * cell + font * 0.35,
           text_anchor="end", font_size=font)
        for i, (label, name) in enumerate(zip(labels, names, strict=True))
    ]  # fmt: skip
    height = head + cell * len(labels)
    return el("svg", *drawn, class_="heat-names", width=width, height=height, aria_hidden="true")


def _heat_labels(
    labels: Sequence[str], names: Sequence[str], cell: int, font: float, head: int
) -> list[Markup]:
    drawn = []
    for j, (label, name) in enumerate(zip(labels, names, strict=True)):
        x = (j + 0.5) * cell + font * 0.35
        turn = f"rotate(-90 {x:.2f} {head - 6})"
        drawn.append(
            el("text", name, el("title", label), x=x, y=head - 6, transform=turn, font_size=font)
        )
    return drawn


def _heat_mesh(size: int, cell: int, head: int) -> Markup:
    side = cell * size
    rows = "".join(f"M0 {head + i * cell - 0.5}h{side}" for i in range(1, size))
    columns = "".join(f"M{i * cell - 0.5} {head}v{side}" for i in range(1, size))
    return el("path", d=rows + columns, class_="mesh")


def _heat_cell(
    labels: Sequence[str], at: tuple[int, int], count: int, total: int, most: int, cell: int,
    corner: tuple[int, int],
) -> Markup:  # fmt: skip
    (i, j), (x, y) = at, corner
    hit = i == j
    strength = 0.12 + 0.4 * count / total if hit else 0.35 + 0.65 * math.sqrt(count / max(most, 1))
    words = "right" if hit else f"taken for {labels[j]}"
    square = el(
        "rect", el("title", f"{labels[i]}: {count} of {total} {words}"), x=x, y=y, width=cell - 1,
        height=cell - 1, fill_opacity=round(min(strength, 1.0), 2), class_="hit" if hit else "miss",
    )  # fmt: skip
    if cell < 20:
        return square
    kind = "count" if hit or strength < 0.75 else "count strong"
    middle = (cell - 1) / 2
    text = el("text", count, x=x + middle, y=y + middle + 4, text_anchor="middle", class_=kind)
    return square + text


def order_classes(matrix: Sequence[Sequence[int]]) -> list[int]:
    """An order in which classes that are mistaken for each other stand side by side.

    Average-linkage clustering on 1 - (share of mutual mistakes); the given order for 12 or fewer.
    """
    size = len(matrix)
    if size <= 12:
        return list(range(size))
    import numpy as np
    from scipy.cluster.hierarchy import leaves_list, linkage

    counts = np.asarray(matrix, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    distance = 1.0 - np.clip((shares + shares.T) / 2, 0.0, 1.0)
    condensed = distance[np.triu_indices(size, 1)]
    return [int(i) for i in leaves_list(linkage(condensed, "average"))]
