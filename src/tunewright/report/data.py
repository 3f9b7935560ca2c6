"""The data card as the page shows it: counts, labels, lengths, findings, dropped rows.

Reads the mapping that data/card.py makes. What is missing or of another shape is left out, and
keys that it doesn't know are shown as plain pairs, so a card that grows loses nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunewright import figures
from tunewright.figures import known
from tunewright.report import charts

PORTRAIT_KEYS = ("vocabulary", "diversity", "duplicates", "learnability")
KNOWN_KEYS = {"labels", "splits", "findings", "dropped", *PORTRAIT_KEYS}
LENGTHS = (
    ("tokens", "tokens a row"),
    ("input_words", "words of input"),
    ("output_words", "words of output"),
)
MAX_FINDINGS = 60
MAX_PLACES = 8
MAX_DROPPED = 200
SEVERITIES = {"error": ("bad", "✕"), "warn": ("open", "!"), "info": ("calm", "i")}


def make_data_section(card: Any) -> dict[str, Any] | None:
    """What the template needs of a card; None when there is no card."""
    if not isinstance(card, Mapping) or not card:
        return None
    sides = _mapping(card.get("splits"))
    sides = {str(name): side for name, side in sides.items() if isinstance(side, Mapping)}
    dropped = _mappings(card.get("dropped"))
    other = [
        (str(key).replace("_", " "), figures.show_plain(value))
        for key, value in card.items()
        if key not in KNOWN_KEYS and value not in (None, "", [], {})
    ]
    other += _portrait(card)
    return {
        "counts": [
            (name, figures.show_number(side.get("rows")), _groups(side))
            for name, side in sides.items()
        ],
        "labels": _label_table(sides),
        "figures": _figures(sides),
        "lengths": _length_table(sides),
        "findings": _findings(_mappings(card.get("findings"))),
        "dropped": [_dropped(row) for row in dropped[:MAX_DROPPED]],
        "dropped_more": max(0, len(dropped) - MAX_DROPPED),
        "other": other,
    }


def _portrait(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Words between splits, diversity, duplicates and learnability as sentences."""
    words, told = _mapping(card.get("vocabulary")), []
    for split in ("validation", "test"):
        side = _mapping(words.get(split))
        if known(side.get("unknown_running_share")):
            told.append(
                (
                    f"words of {split}",
                    f"{figures.show_number(side.get('words'))} different ones; training lacks "
                    f"{_share(side, 'unknown_words_share')} of them, "
                    f"{_share(side, 'unknown_running_share')} of the running text",
                )
            )
    variety = _mapping(card.get("diversity"))
    if known(variety.get("distinct_2")):
        told.append(
            (
                "diversity",
                f"{_share(variety, 'distinct_texts')} of texts differ; of word pairs "
                f"{_share(variety, 'distinct_2')} are different; commonest opening "
                f"“{variety.get('commonest_opening', '')}” "
                f"({_share(variety, 'commonest_opening_share')})",
            )
        )
    same = _mapping(card.get("duplicates"))
    if known(same.get("groups")):
        told.append(
            (
                "duplicates",
                f"{figures.show_number(same.get('rows_in_groups'))} training rows in "
                f"{figures.show_number(same.get('groups'))} groups of equal text; "
                f"{figures.show_number(same.get('near_clusters'))} clusters of nearly equal ones",
            )
        )
    line = _mapping(card.get("learnability")).get("line")
    return [*told, ("learnability", str(line))] if line else told


def _share(side: Mapping[str, Any], key: str) -> str:
    value = side.get(key)
    return f"{100 * value:.1f} %" if known(value) else figures.NOTHING


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(items: Any) -> list[Mapping[str, Any]]:
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []


def _groups(side: Mapping[str, Any]) -> str:
    groups = side.get("groups")
    return f"in {figures.show_number(groups)} groups" if known(groups) else ""


def _label_table(sides: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Rows per label and split, commonest in the first split first."""
    counts = {name: _mapping(side.get("labels")) for name, side in sides.items()}
    splits = [name for name, labels in counts.items() if labels]
    names = list(dict.fromkeys(label for split in splits for label in counts[split]))
    if not names:
        return None
    table = [(name, [_count(counts[split].get(name)) for split in splits]) for name in names]
    table.sort(key=lambda row: -row[1][0])
    most = table[0][1][0] or 1
    rows = [
        {
            "label": label,
            "bar": charts.bar(row[0] / most),
            "counts": [(count, figures.show_number(count)) for count in row],
        }
        for label, row in table
    ]
    return {"splits": splits, "rows": rows}


def _count(value: Any) -> int:
    return int(value) if known(value) else 0


def _figures(sides: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Histograms of token counts and of numeric targets, where a split has them."""
    found = []
    for name, side in sides.items():
        for title, bins in (
            (f"Tokens a row, {name}", _bins(side.get("token_histogram"))),
            (f"Target, {name}", _bins(_mapping(side.get("target")).get("histogram"))),
        ):
            if bins:
                found.append({"title": title, "svg": charts.histogram(bins, title)})
    return found


def _bins(histogram: Any) -> list[tuple[float, float, int]]:
    """(low, high, count) from {edges, counts}; edges are one more than counts."""
    edges, counts = (_mapping(histogram).get(key) for key in ("edges", "counts"))
    if not isinstance(edges, list) or not isinstance(counts, list):
        return []
    if len(edges) != len(counts) + 1 or not all(known(item) for item in (*edges, *counts)):
        return []
    return [(edges[i], edges[i + 1], int(count)) for i, count in enumerate(counts)]


def _length_table(sides: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """min, median, p95, max and total of lengths, one row per split and measure."""
    columns = ("min", "median", "mean", "p95", "max", "total")
    rows = []
    for key, title in (*LENGTHS, ("target", "target")):
        for name, side in sides.items():
            summary = _mapping(side.get(key))
            cells = [figures.show_number(summary.get(column)) for column in columns]
            if any(cell != figures.NOTHING for cell in cells):
                rows.append((f"{title}, {name}", cells))
    return {"columns": list(columns), "rows": rows, "pairs": []} if rows else None


def _findings(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    order = {"error": 0, "warn": 1, "info": 2}
    ranked = sorted(items, key=lambda item: order.get(str(item.get("severity")), 3))
    return [
        {
            "kind": str(item.get("kind", "")).replace("_", " "),
            "tone": SEVERITIES.get(str(item.get("severity")), ("calm", "i"))[0],
            "sign": SEVERITIES.get(str(item.get("severity")), ("calm", "i"))[1],
            "severity": str(item.get("severity", "")),
            "message": str(item.get("message", "")),
            "places": [str(place) for place in _list(item.get("places"))][:MAX_PLACES],
            "more": max(0, len(_list(item.get("places"))) - MAX_PLACES),
            "dropped": bool(item.get("dropped")),
        }
        for item in ranked[:MAX_FINDINGS]
    ]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dropped(row: Mapping[str, Any]) -> tuple[str, str]:
    reason = str(row.get("why") or "").replace("_", " ")
    return str(row.get("place") or row.get("id") or ""), reason
