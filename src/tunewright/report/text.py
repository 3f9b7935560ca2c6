"""The report as text: on the terminal through rich, and as Markdown.

User text is cleaned of control characters first, so that a row cannot steer the terminal or break
a table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from tunewright.figures import (
    begin,
    known,
    metric_title,
    show_bytes,
    show_delta,
    show_delta_interval,
    show_interval,
    show_number,
    show_p,
    show_seconds,
    show_usd,
    show_value,
    system_title,
)
from tunewright.records import Amount, Comparison, Report, Result, Score
from tunewright.report.charts import Scale, focus_scale

if TYPE_CHECKING:
    from rich.console import Console

# Sign, sign where only ASCII will do, colour.
VERDICTS = {
    None: ("·", "-", "blue"),
    "ship": ("✓", "+", "green"),
    "more data": ("…", "?", "yellow"),
    "do not tune": ("✕", "x", "red"),
}
WORDS = {
    "better": ("▲", "+", "green"),
    "worse": ("▼", "-", "red"),
    "cannot tell": ("◇", "?", "yellow"),
}
COST_ROWS = (
    ("Time", "seconds", show_seconds),
    ("Tokens", "tokens", show_number),
    ("Peak memory", "peak_memory_bytes", show_bytes),
    ("Energy", "energy_kwh", lambda value: f"{show_number(value)} kWh"),
    ("Money", "usd", show_usd),
)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean_text(text: str) -> str:
    """Text without control characters and without characters that turn the direction of writing."""
    return CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def verdict_word(report: Report) -> str:
    """The verdict; "measured" where nothing was compared, so nothing was judged."""
    return report.verdict or "measured"


def order_results(report: Report) -> list[Result]:
    """Results by split (test, validation, others), then as given, the tuned model first."""
    ranks = {"test": 0, "validation": 1}
    return sorted(
        report.results, key=lambda r: (ranks.get(r.split, 2), r.split, r.system != "tuned")
    )


def group_by_split(report: Report) -> list[tuple[str, list[Result]]]:
    """(split, its results), test first."""
    groups: dict[str, list[Result]] = {}
    for result in order_results(report):
        groups.setdefault(result.split, []).append(result)
    return list(groups.items())


def cost_rows(report: Report) -> list[tuple[str, str, str]]:
    """(what, forecast, measured) in words, for what is known."""
    rows = []
    for title, name, show in COST_ROWS:
        amount: Amount = getattr(report.cost, name)
        if known(amount.forecast) or known(amount.measured):
            texts = [show(v) if known(v) else "–" for v in (amount.forecast, amount.measured)]
            rows.append((title, texts[0], texts[1]))
    return rows


def worth_sentences(report: Report) -> list[str]:
    """The short form of `benefit` in sentences; none where the recipe names no business."""
    worth = report.details.get("benefit")
    if not isinstance(worth, Mapping):
        return []
    if "missing" in worth:
        return [f"Worth: not reckoned; {worth['missing']}"]
    return [f"Worth: {worth.get('verdict')}.", *map(str, worth.get("because") or ())]


def say_comparison(item: Comparison) -> str:
    """ "tuned better than TF-IDF + linear model"."""
    middle = {"better": "better than", "worse": "worse than", "cannot tell": "cannot be told from"}
    return f"{system_title(item.a)} {middle[item.verdict]} {system_title(item.b)}"


def print_report(report: Report, console: Console) -> None:
    """Print verdict, reasons, systems, comparisons, next steps; fits 60 columns, no colour."""
    from rich.padding import Padding
    from rich.text import Text

    fancy = console.encoding.lower().startswith("utf")
    sign, plain_sign, colour = VERDICTS[report.verdict]
    word = Text(
        f" {sign if fancy else plain_sign} {verdict_word(report).upper()} ",
        f"bold reverse {colour}",
    )
    title = Text.assemble(word, "  ", (f"{clean_text(report.base_model)}, {report.task}", "dim"))
    console.print()
    console.print(title)
    for sentence in (*report.because, *worth_sentences(report)):
        console.print(Padding(Text(_fit(sentence, console)), (0, 0, 0, 2)))
    for split, results in group_by_split(report):
        _print_systems(report, split, results, console, fancy)
    if report.comparisons:
        console.print()
        console.print(Text("Comparisons, row by row", "bold"))
        for item in report.comparisons:
            _print_comparison(item, console, fancy)
    _print_steps(report.next_steps, console)
    console.print()


def _print_systems(
    report: Report, split: str, results: Sequence[Result], console: Console, fancy: bool
) -> None:
    from rich.table import Table
    from rich.text import Text

    metric = report.primary_metric
    rows = max(result.n for result in results)
    console.print()
    title = f"{begin(metric_title(metric))} on {split}, {rows:,} rows"
    console.print(Text(_fit(title, console), "bold"))
    table = Table.grid(padding=(0, 1))
    scale = _text_scale(metric, results) if console.width >= 72 else None
    for result in results:
        score = result.metrics.get(metric)
        style = "bold" if result.system == "tuned" else ""
        value = show_value(metric, score.value if score else None)
        interval = show_interval(metric, score.ci95) if score else ""
        cells = [Text("  " + _fit(system_title(result.system), console), style)]
        cells += [Text(_fit(value, console), style, justify="right", no_wrap=True)]
        cells += [Text(_fit(interval, console), "dim", no_wrap=True)]
        if scale and score:
            colour = "cyan" if result.system == "tuned" else "dim"
            cells.append(Text(draw_interval(score, scale, fancy=fancy), colour, no_wrap=True))
        table.add_row(*cells)
    console.print(table)


def _text_scale(metric: str, results: Sequence[Result]) -> Scale | None:
    scores = {r.system: r.metrics[metric] for r in results if metric in r.metrics}
    known_ones = {name: s for name, s in scores.items() if known(s.value + s.ci95[0] + s.ci95[1])}
    if len(known_ones) < 2:
        return None
    centre = known_ones.get("tuned", next(iter(known_ones.values()))).value
    return focus_scale([(s.ci95[0], s.value, s.ci95[1]) for s in known_ones.values()], centre)


def draw_interval(score: Score, scale: Scale, *, fancy: bool, width: int = 24) -> str:
    """A dot on its interval, `width` characters: "   ──●──   "; an arrow where it is off scale."""
    line, dot, left, right = "─●◂▸" if fancy else "-o<>"
    if not known(score.value):
        return ""
    if not scale.holds(score.value):
        return left if score.value < scale.low else " " * (width - 1) + right
    cells = [" "] * width

    def place(value: float) -> int:
        return round((width - 1) * min(1.0, max(0.0, scale.share(value))))

    if all(known(end) for end in score.ci95):
        start, end = place(score.ci95[0]), place(score.ci95[1])
        cells[start : end + 1] = line * (end + 1 - start)
    cells[place(score.value)] = dot
    return "".join(cells)


def _print_comparison(item: Comparison, console: Console, fancy: bool) -> None:
    from rich.padding import Padding
    from rich.text import Text

    sign, plain_sign, colour = WORDS[item.verdict]
    interval = show_delta_interval(item.metric, item.ci95)
    figures = f"{metric_title(item.metric)} {show_delta(item.metric, item.delta)}"
    figures += f" ({interval}), " if interval else ", "
    figures += f"p {_equals(item.p_value)}, {item.n:,} rows"
    line = Text.assemble(
        (f"{sign if fancy else plain_sign} ", f"bold {colour}"),
        _fit(say_comparison(item), console),
        "\n",
        (_fit(figures, console), "dim"),
    )
    console.print(Padding(line, (0, 0, 0, 2)))


def _equals(p_value: float) -> str:
    text = show_p(p_value)
    return text if text.startswith("<") else f"= {text}"


def _print_steps(steps: Sequence[str], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    if not steps:
        return
    console.print()
    console.print(Text("What to try next", "bold"))
    table = Table.grid(padding=(0, 1))
    for number, step in enumerate(steps, 1):
        table.add_row(Text(f"  {number}.", "dim"), Text(_fit(step, console)))
    console.print(table)


def _fit(text: str, console: Console) -> str:
    """Text that the console's encoding can carry."""
    plain = clean_text(text)
    if not console.encoding.lower().startswith("utf"):
        plain = plain.replace("−", "-").replace("–", "-").replace("“", '"').replace("”", '"')
    return plain.encode(console.encoding, "replace").decode(console.encoding)


def make_markdown(report: Report) -> str:
    """The report in short, as Markdown: verdict, reasons, tables, what to try next."""
    blocks = [f"# {verdict_word(report).capitalize()}", _md_about(report)]
    said = (*report.because, *worth_sentences(report))
    blocks.append("\n".join(f"- {_md(sentence)}" for sentence in said))
    blocks += [_md_results(report, split, results) for split, results in group_by_split(report)]
    if report.comparisons:
        blocks.append("## Comparisons\n\n" + _md_comparisons(report.comparisons))
    costs = cost_rows(report)
    if costs:
        blocks.append("## Cost\n\n" + _md_table(("", "forecast", "measured"), costs))
    warnings = [str(text) for text in report.details.get("warnings") or ()]
    if warnings:
        blocks.append("## Warnings\n\n" + "\n".join(f"- {_md(text)}" for text in warnings))
    if report.next_steps:
        steps = "\n".join(f"{i}. {_md(step)}" for i, step in enumerate(report.next_steps, 1))
        blocks.append("## What to try next\n\n" + steps)
    return "\n\n".join(block for block in blocks if block) + "\n"


def _md_about(report: Report) -> str:
    return f"Task: {report.task}. Base model: {_md(report.base_model)}. Decided by: " + (
        f"{_md(metric_title(report.primary_metric))}."
    )


def _md_results(report: Report, split: str, results: Sequence[Result]) -> str:
    names = list(dict.fromkeys(name for result in results for name in result.metrics))
    names.sort(key=lambda name: name != report.primary_metric)
    rows = []
    for result in results:
        cells = [system_title(result.system), f"{result.n:,}"]
        for name in names:
            score = result.metrics.get(name)
            interval = show_interval(name, score.ci95) if score else ""
            value = show_value(name, score.value if score else None)
            cells.append(f"{value} ({interval})" if interval else value)
        rows.append(cells)
    head = ("system", "rows", *map(metric_title, names))
    return f"## Results on {_md(split)}\n\n{_md_table(head, rows)}\n\nIn brackets: 95 % intervals."


def _md_comparisons(items: Sequence[Comparison]) -> str:
    rows = [
        (
            system_title(item.a),
            item.verdict,
            system_title(item.b),
            metric_title(item.metric),
            show_delta(item.metric, item.delta),
            show_delta_interval(item.metric, item.ci95),
            show_p(item.p_value),
            show_delta(item.metric, item.minimum_detectable).lstrip("+"),
        )
        for item in items
    ]
    head = ("system", "is", "than", "metric", "difference", "95 % interval", "p", "detectable")
    return _md_table(head, rows)


def _md_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(map(_md, head)) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(_md, row)) + " |" for row in rows]
    return "\n".join(lines)


def _md(text: str) -> str:
    """Text that stays text: no markup, no HTML, one line."""
    one_line = " ".join(clean_text(text).split())
    escaped = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", one_line)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
