"""The watch on the terminal and as one page: levels of rules, accuracy, alerts with their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from tunewright import figures
from tunewright.report import charts
from tunewright.report.charts import Line
from tunewright.report.shell import render_page

if TYPE_CHECKING:
    from rich.console import Console

LAYERS = ("inputs", "outputs", "outcomes")
TONES = ("s1", "s2", "s3")
MOST_LINES = 3
SHOWN_ALERTS = 20


def make_watch_page(document: Mapping[str, Any]) -> str:
    """The whole of watch.html. document: as watching.watch_document gives it."""
    alarmed = document["answer"] == "ALARM"
    page: str = render_page(
        "watch.html.j2",
        document=document,
        tone="bad" if alarmed else "good",
        sign="✕" if alarmed else "✓",
        summary=summary(document),
        layers=[(layer, _layer_chart(document, layer)) for layer in LAYERS],
        accuracy=_accuracy_chart(document),
        windows=[_window_row(row) for row in document["windows"]],
        alerts=[_alert(alert, number) for number, alert in
                enumerate(document["alerts"][-SHOWN_ALERTS:], 1)],
    )  # fmt: skip
    return page


def summary(document: Mapping[str, Any]) -> list[str]:
    """The answer in sentences."""
    count, alerts = document["num_requests"], document["alerts"]
    said = [
        f"{count:,} requests in {document['num_batches']:,} batches of {document['batch_size']}"
    ]
    if document["waiting"]:
        said[0] += f" ({document['waiting']} wait for the next batch)"
    said.append(f"{len(alerts)} alarm{'' if len(alerts) == 1 else 's'}")
    if document["windows"]:
        said.append("the newest accuracy: " + tell_accuracy(document["windows"][-1]))
    labelled = document["labelled_accuracy"]
    if labelled:
        value, low, high = labelled
        said.append(
            f"{document['labelled']:,} requests with a known answer: {100 * value:.1f} % right "
            f"(anytime-valid 95 % interval {100 * low:.1f} to {100 * high:.1f})"
        )
    said += [
        f"client {row['client']} contradicts sure answers in {100 * row['share']:.0f} % of "
        f"{row['rows']} labels, others in {100 * row['others']:.0f} %: its labels are suspect"
        for row in document["suspicious_clients"]
    ]
    return said


def tell_accuracy(told: Mapping[str, Any]) -> str:
    """An estimate in words, with its interval, or why there is none."""
    if told["value"] is None:
        return str(told["because"])
    if not told["valid"]:
        return f"{told['because']}; {100 * told['least']:.1f} % if all unknown ones are wrong"
    low, high = told["ci95"]
    return f"{100 * told['value']:.1f} % ({100 * low:.1f} to {100 * high:.1f}) without labels"


def _layer_chart(document: Mapping[str, Any], layer: str) -> Markup | None:
    """Level of the rules of one layer, the liveliest three; 100 % is the limit."""
    levels = document["levels"]
    names = [name for name, of in document["layers"].items() if of == layer]
    tops = {name: max((row.get(name) or 0.0 for row in levels), default=0.0) for name in names}
    chosen = sorted(names, key=lambda name: -tops[name])[:MOST_LINES]
    lines = [
        Line(
            name.replace("_", " "),
            charts.thin_out(
                [(n, 100 * row[name]) for n, row in enumerate(levels) if row.get(name) is not None]
            ),
            tone,
        )
        for name, tone in zip(chosen, TONES, strict=False)
    ]
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    top = Line("limit", ((0, 100.0), (max(len(levels) - 1, 1), 100.0)), "s0", faint=True)
    drawn: Markup = charts.line_chart(
        f"Rules on {layer}, percent of their limit, by batch", [*lines, top],
        write=lambda v: f"{v:.0f} %", tick=lambda v: f"{v:.0f} %", zero=True,
    )  # fmt: skip
    return drawn


def _accuracy_chart(document: Mapping[str, Any]) -> Markup | None:
    told = [row for row in document["windows"] if row["value"] is not None]
    if not told:
        return None
    sure = [row for row in told if row["valid"]]
    true = [row for row in told if row["true"] is not None]
    lines = [
        Line("estimate", _points(sure, "value"), "s1", dots=True),
        Line("low", tuple((r["batch"], 100 * r["ci95"][0]) for r in sure), "s1", faint=True),
        Line("high", tuple((r["batch"], 100 * r["ci95"][1]) for r in sure), "s1", faint=True),
        Line("if unknown requests are answered wrong",
             _points([r for r in told if not r["valid"]], "least"), "s3", dots=True),
        Line("known labels", _points(true, "true"), "s2", dots=True),
    ]  # fmt: skip
    drawn: Markup = charts.line_chart(
        "Accuracy by window, percent", [line for line in lines if line.points],
        write=lambda v: f"{v:.1f} %", tick=lambda v: f"{v:.0f} %",
    )  # fmt: skip
    return drawn


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[tuple[float, float], ...]:
    return tuple((row["batch"], 100 * row[key]) for row in rows)


def _window_row(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    true = "" if row["true"] is None else f"{100 * row['true']:.1f} %"
    share = f"{100 * row['novel_share']:.1f} %"
    return f"{row['batch']}", tell_accuracy(row), share, true


def _alert(alert: Mapping[str, Any], number: int) -> dict[str, Any]:
    cost = alert["cost_usd"]
    return {
        "number": number,
        "batch": alert["batch"],
        "since": alert["first_batch"],
        "last": alert["last_batch"],
        "messages": [signal["message"] for signal in alert["signals"]],
        "accuracy": tell_accuracy(alert["accuracy"]),
        "usual": figures.known(alert["reference_accuracy"]),
        "cost": cost_sentence(alert["excess_errors"], cost, alert["num_requests"]),
        "action": alert["action"],
        "clusters": alert["clusters"],
        "rows": alert["rows"][:10],
    }


def cost_sentence(errors: float, usd: float | None, requests: int) -> str:
    """What went wrong so far, in errors and money."""
    said = f"about {errors:.0f} errors more than usual in {requests:,} requests"
    if usd is None:
        return said + "; set business.cost_per_error_usd to see their cost"
    return f"{said}, {figures.show_usd(usd)}"


def print_watch(document: Mapping[str, Any], console: Console) -> None:
    """The same in short, for a terminal."""
    from rich.text import Text

    alarmed = document["answer"] == "ALARM"
    console.print()
    style = "bold reverse red" if alarmed else "bold reverse green"
    console.print(Text(f" {document['answer']} ", style))
    for line in summary(document):
        console.print(Text(f"  {line}"), soft_wrap=True)
    for alert in document["alerts"][-SHOWN_ALERTS:]:
        _print_alert(alert, console)
    hidden = len(document["alerts"]) - SHOWN_ALERTS
    if hidden > 0:
        console.print(f"  … and {hidden} earlier ones; --json has all")


def _print_alert(alert: Mapping[str, Any], console: Console) -> None:
    from rich.text import Text

    span = f"\nbatch {alert['batch']} to {alert['last_batch']}, begun in {alert['first_batch']}"
    console.print(Text(span, "bold"))
    lines: Sequence[str] = [
        *(signal["message"] for signal in alert["signals"]),
        "accuracy: " + tell_accuracy(alert["accuracy"]),
        cost_sentence(alert["excess_errors"], alert["cost_usd"], alert["num_requests"]),
    ]
    for line in lines:
        console.print(Text(f"  {line}"), soft_wrap=True)
    for cluster in alert["clusters"]:
        example = cluster["examples"][0] if cluster["examples"] else ""
        console.print(Text(f"  new: {cluster['name']} ({cluster['count']}), “{example[:80]}”"))
    console.print(Text(f"  → {alert['action']}", "bold"), soft_wrap=True)
