"""The data card as the page shows it: counts, labels, lengths, findings, dropped rows.

Reads card.json's mapping by its usual keys and shows what it does not know as plain pairs, so a
card that grows loses nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunewright import charts, figures
from tunewright.figures import known

SPLITS = ("train", "validation", "test")
COUNT_KEYS = ("splits", "counts", "rows")
LENGTH_KEYS = ("token_lengths", "lengths")
FINDING_KEYS = ("findings",)
DROPPED_KEYS = ("dropped", "dropped_rows")
MAX_FINDINGS = 60
MAX_DROPPED = 200
SEVERITIES = {"error": ("bad", "✕"), "warn": ("open", "!"), "info": ("calm", "i")}


def make_data_section(card: Any) -> dict[str, Any] | None:
    """What the template needs of a card; None when there is no card."""
    if not isinstance(card, Mapping) or not card:
        return None
    used = {"labels", *COUNT_KEYS, *LENGTH_KEYS, *FINDING_KEYS, *DROPPED_KEYS}
    dropped = _mappings(_first(card, DROPPED_KEYS))
    return {
        "counts": _counts(_first(card, COUNT_KEYS)),
        "labels": _labels(card.get("labels")),
        "lengths": _lengths(_first(card, LENGTH_KEYS)),
        "findings": _findings(_mappings(_first(card, FINDING_KEYS))),
        "dropped": [_dropped(row) for row in dropped[:MAX_DROPPED]],
        "dropped_more": max(0, len(dropped) - MAX_DROPPED),
        "other": [
            (str(key).replace("_", " "), figures.show_plain(value))
            for key, value in card.items()
            if key not in used and value not in (None, "", [], {})
        ],
    }


def _first(card: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((card[key] for key in keys if card.get(key)), None)


def _mappings(items: Any) -> list[Mapping[str, Any]]:
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []


def _size(value: Any) -> int | None:
    """Rows of a split, given as a number or as a mapping that counts them."""
    if isinstance(value, Mapping):
        value = next((value[k] for k in ("rows", "n", "count", "examples") if k in value), None)
    return int(value) if known(value) else None


def _counts(counts: Any) -> list[tuple[str, str]]:
    if not isinstance(counts, Mapping):
        return []
    sizes = [(str(name), _size(value)) for name, value in counts.items()]
    return [(name, figures.show_number(size)) for name, size in sizes if size is not None]


def _labels(labels: Any) -> dict[str, Any] | None:
    """Rows per label and split. Knows {label: count}, {label: {split: count}}, {split: {label: n}}
    and a list of {label, split: count ...}."""
    table = _label_table(labels)
    if not table:
        return None
    splits = list(dict.fromkeys(name for row in table.values() for name in row))
    first = splits[0]
    most = max((row.get(first, 0) for row in table.values()), default=0) or 1
    rows = [
        {
            "label": label,
            "bar": charts.bar(row.get(first, 0) / most),
            "counts": [
                (row.get(name, 0), figures.show_number(row.get(name, 0))) for name in splits
            ],
        }
        for label, row in sorted(table.items(), key=lambda item: -item[1].get(first, 0))
    ]
    return {"splits": splits, "rows": rows}


def _label_table(labels: Any) -> dict[str, dict[str, int]]:
    if isinstance(labels, list):
        named = [item for item in _mappings(labels) if "label" in item]
        labels = {item["label"]: {k: v for k, v in item.items() if k != "label"} for item in named}
    if not isinstance(labels, Mapping) or not labels:
        return {}
    if set(map(str, labels)) <= set(SPLITS) and all(
        isinstance(v, Mapping) for v in labels.values()
    ):
        turned: dict[str, dict[str, Any]] = {}
        for split, row in labels.items():
            for label, count in row.items():
                turned.setdefault(str(label), {})[str(split)] = count
        labels = turned
    return {
        str(label): {
            str(name): int(count)
            for name, count in (row.items() if isinstance(row, Mapping) else [("rows", row)])
            if known(count)
        }
        for label, row in labels.items()
    }


def _lengths(lengths: Any) -> list[dict[str, Any]]:
    """One figure per split that has a histogram, or per summary that has numbers."""
    if not isinstance(lengths, Mapping):
        return []
    if any(isinstance(lengths.get(key), list) for key in ("histogram", "bins")):
        lengths = {"all rows": lengths}
    found = []
    for name, summary in lengths.items():
        if not isinstance(summary, Mapping):
            continue
        bins = _bins(next((summary[k] for k in ("histogram", "bins") if k in summary), None))
        pairs = [
            (str(key).replace("_", " "), figures.show_number(value))
            for key, value in summary.items()
            if known(value)
        ]
        title = f"Tokens per row, {name}"
        svg = charts.histogram(bins, title) if bins else None
        if svg or pairs:
            found.append({"title": title, "svg": svg, "pairs": pairs})
    return found


def _bins(items: Any) -> list[tuple[float, float, int]]:
    """(low, high, count) from {lo, hi, count} mappings or from triples."""
    bins = []
    for item in items if isinstance(items, list) else []:
        if isinstance(item, Mapping):
            item = [
                next((item[k] for k in keys if k in item), None)
                for keys in (("lo", "low", "from"), ("hi", "high", "to"), ("count", "n", "rows"))
            ]
        if isinstance(item, list) and len(item) == 3 and all(known(part) for part in item):
            bins.append((float(item[0]), float(item[1]), int(item[2])))
    return bins


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
            "places": [str(place) for place in (item.get("places") or [])][:8],
            "more": max(0, len(item.get("places") or []) - 8),
            "dropped": bool(item.get("dropped")),
        }
        for item in ranked[:MAX_FINDINGS]
    ]


def _dropped(row: Mapping[str, Any]) -> tuple[str, str]:
    reason = next((row[k] for k in ("reason", "message", "kind", "why") if row.get(k)), "")
    return str(row.get("place") or row.get("id") or ""), str(reason)
