"""Train, validation and test: stratified, whole groups and equal texts on one side, order-free.

Rows that share a group or a normalised text form one unit, and units move as a whole. Which side a
unit falls on depends on hashes of content keyed by data.split_seed, never on row positions.
"""

from __future__ import annotations

import bisect
import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunewright.data.clean import fold_case, make_finding, normalise, plain_words
from tunewright.errors import DataError
from tunewright.records import Example, Finding, Span, SplitName, Splits
from tunewright.sections import DataSection

NUM_QUANTILES = 10
SIDES: tuple[SplitName, ...] = ("train", "validation", "test")
TINY_CLASS_ROWS = 5
# Beyond this share of rows on both sides, the files were split by row and not by input.
MAX_STRADDLING_SHARE = 0.05
# Up to this share of rows, units of mixed labels are dealt out under their commonest label.
MAX_MIXED_SHARE = 0.1
# Counts every row, beside the labels, in the balance of a unit that holds several.
ANY = "\0any"


@dataclass(frozen=True, slots=True)
class Unit:
    """Rows that must stay together. counts: rows by label; digest orders units."""

    rows: tuple[int, ...]
    counts: tuple[tuple[str, int], ...]
    digest: str


def split_examples(
    examples: Sequence[Example],
    data: DataSection,
    *,
    validation: Sequence[Example] | None = None,
    test: Sequence[Example] | None = None,
) -> Splits:
    """Divide examples by the shares in `data`; given validation and test rows stay as they are.

    Training rows whose normalised text or group stands in test or validation are removed, and
    validation rows that stand in test, each with a Finding (leak_exact, leak_text, leak_group).
    Raises DataError where there are too few different rows, or nothing is left.
    """
    findings: list[Finding] = []
    rows = list(examples)
    if test is not None:
        rows = remove_leaks(rows, test, "training", "test", findings)
        if validation is not None:
            validation = remove_leaks(validation, test, "validation", "test", findings)
    if validation is not None:
        rows = remove_leaks(rows, validation, "training", "validation", findings)
    if not rows:
        raise DataError("every training row stands in the test or validation file; give other rows")
    shares = shares_of(data, validation is not None, test is not None)
    sides = assign_sides(rows, shares, data.split_seed)
    parts = {side: [e for e, s in zip(rows, sides, strict=True) if s == side] for side in SIDES}
    train = tuple(parts["train"])
    validation = tuple(parts["validation"] if validation is None else validation)
    test = tuple(parts["test"] if test is None else test)
    findings += notice_tiny_classes(train, validation, test)
    return Splits(train, validation, test, tuple(findings))


def choose_rows(examples: Sequence[Example], most: int, seed: int) -> list[Example]:
    """At most `most` examples in their order, chosen by content hash."""
    if len(examples) <= most:
        return list(examples)
    ranked = sorted(range(len(examples)), key=lambda i: _digest(seed, f"row:{examples[i].id}"))
    return [examples[index] for index in sorted(ranked[:most])]


def remove_leaks(
    rows: Sequence[Example],
    held: Sequence[Example],
    here: str,
    there: str,
    findings: list[Finding],
) -> list[Example]:
    """The rows whose normalised text and group do not occur in `held`; the others are reported."""
    texts = {normalise(example.input): example for example in held}
    groups = {example.group for example in held} - {None}
    same_text = [e for e in rows if normalise(e.input) in texts]
    known = {e.id for e in same_text}
    same_group = [e for e in rows if e.id not in known and e.group in groups]
    findings += _name_leaks(same_text, texts, len(rows), here, there)
    if same_group:
        what = f"of {here} belong to a group of the {there} rows; removed from {here}"
        findings.append(make_finding("leak_group", what, same_group, dropped=True))
    known |= {e.id for e in same_group}
    return [example for example in rows if example.id not in known]


def _name_leaks(
    leaks: Sequence[Example], twins: Mapping[str, Example], num_rows: int, here: str, there: str
) -> list[Finding]:
    """Findings in two tiers: equal but for case (leak_exact), and equal as words (leak_text)."""
    pairs = [(row, twins[normalise(row.input)]) for row in leaks]
    exact = [(row, held) for row, held in pairs if fold_case(row.input) == fold_case(held.input)]
    known = {row.id for row, _ in exact}
    looser = [(row, held) for row, held in pairs if row.id not in known]
    words = sum(plain_words(row.input) == plain_words(held.input) for row, held in pairs)
    details = {
        "but_for_case": len(exact),
        "words": words,
        "letters": len(pairs),
        "rows": num_rows,
    }
    findings = []
    tiers = (
        ("leak_exact", exact, f"have the text of a {there} row"),
        ("leak_text", looser, f"have the words of a {there} row, written otherwise"),
    )
    for kind, found, what in tiers:
        if found:
            finding = make_finding(
                kind, f"of {here} {what}; removed from {here}", [row for row, _ in found],
                dropped=True,
            )  # fmt: skip
            counterparts = tuple(held.place for _, held in found)
            findings.append(replace(finding, counterparts=counterparts, details=details))
    rows = [(row.id, row.place) for row in leaks]
    return findings + _straddling(rows, num_rows, here, there, details)


def tell_straddling(findings: Sequence[Finding], num_rows: Mapping[str, int]) -> list[Finding]:
    """A Finding for each side whose rows stand in training too, where they are many.

    findings: of all parts together. num_rows: training rows that were compared, by side.
    """
    told = []
    for there, total in num_rows.items():
        what = (f"a {there} row; removed", f"a {there} row, written otherwise; removed")
        found = [item for item in findings if any(words in item.message for words in what)]
        leaks = [item for item in found if item.kind in ("leak_exact", "leak_text")]
        rows = [pair for item in leaks for pair in zip(item.rows, item.places, strict=True)]
        details = leaks[0].details if leaks else {}
        told += _straddling(rows, total, "training", there, {**details, "rows": total})
    return told


def _straddling(
    rows: Sequence[tuple[str, str]],
    num_rows: int,
    here: str,
    there: str,
    details: Mapping[str, Any],
) -> list[Finding]:
    """rows: (id, place) of those that stand on both sides."""
    if len(rows) <= MAX_STRADDLING_SHARE * num_rows:
        return []
    message = (
        f"{len(rows):,} of {num_rows:,} {here} rows have the input of a {there} row: "
        "it looks as if rows of one input were spread over the files at random; give one file "
        "and let it be split here, which keeps equal inputs together, or set data.group"
    )
    ids, places = zip(*rows, strict=True)
    return [Finding("split_by_row", "warn", message, ids, places, details=details)]


def assign_sides(
    examples: Sequence[Example], shares: dict[SplitName, float], seed: int
) -> list[SplitName]:
    """The side of each example. shares: of validation and test; train takes the rest.

    Shares are met within a row or two per label where units allow; each label with two units or
    more has one in training. Raises DataError where there are fewer units than sides.
    """
    wanted: dict[SplitName, float] = {"train": 1.0 - sum(shares.values())}
    wanted |= {side: share for side, share in shares.items() if share > 0}
    if wanted["train"] <= 0:
        raise DataError(
            f"data.validation and data.test take {sum(shares.values()):.2f} of the rows; "
            "leave some for training"
        )
    units = make_units(examples, seed)
    if len(units) < len(wanted):
        raise DataError(
            f"data.train: only {len(units)} different rows or groups for "
            f"{' and '.join(wanted)}; "
            "give more rows, or set data.validation: 0 or data.test: 0"
        )
    mixed = sum(len(unit.rows) for unit in units if len(unit.counts) > 1)
    if mixed <= MAX_MIXED_SHARE * len(examples):
        chosen = _deal_out(units, wanted)
    else:
        chosen = _balance(units, wanted)
    _keep_every_label_in_training(units, chosen)
    _fill_empty_sides(units, chosen, wanted)
    sides: list[SplitName] = ["train"] * len(examples)
    for unit, side in zip(units, chosen, strict=True):
        for row in unit.rows:
            sides[row] = side
    return sides


def make_units(examples: Sequence[Example], seed: int) -> list[Unit]:
    """Units in an order that depends on content only: by label, then by digest."""
    keys = [normalise(example.input) for example in examples]
    members = _connect(keys, [example.group for example in examples])
    labels = _strata(examples)
    units = []
    for rows in members:
        counts = Counter(label for row in rows for label in labels[row])
        digest = _digest(seed, min(keys[row] for row in rows))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        units.append(Unit(tuple(rows), tuple(ranked), digest))
    return sorted(units, key=lambda unit: (unit.counts[0][0], unit.digest))


def _connect(keys: list[str], groups: list[str | None]) -> list[list[int]]:
    """Row numbers in connected components over equal keys and equal groups."""
    parent = list(range(len(keys)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, (key, group) in enumerate(zip(keys, groups, strict=True)):
        parent[root(index)] = root(first.setdefault(("text", key), index))
        if group is not None:
            parent[root(index)] = root(first.setdefault(("group", group), index))
    members: dict[int, list[int]] = defaultdict(list)
    for index in range(len(keys)):
        members[root(index)].append(index)
    return list(members.values())


def _strata(examples: Sequence[Example]) -> list[tuple[str, ...]]:
    """What each row counts towards: its labels, its quantile, or nothing in particular."""
    numbers = sorted(e.output for e in examples if isinstance(e.output, (int, float)))
    edges = [numbers[len(numbers) * i // NUM_QUANTILES] for i in range(1, NUM_QUANTILES) if numbers]
    strata: list[tuple[str, ...]] = []
    for example in examples:
        output = example.output
        if isinstance(output, (int, float)):
            strata.append((f"{bisect.bisect_right(edges, output):02d}",))
        elif isinstance(output, tuple):
            names = {item.label if isinstance(item, Span) else item for item in output}
            strata.append((ANY, *sorted(names)))
        elif isinstance(output, str) and not example.messages:
            strata.append((output,))
        else:
            strata.append((ANY,))
    return strata


def _deal_out(units: list[Unit], wanted: dict[SplitName, float]) -> list[SplitName]:
    """Go through the units label by label, each to the side that is furthest behind its share.

    Running shares stay within about one unit of what is wanted, over all and within each label.
    """
    given = dict.fromkeys(wanted, 0.0)
    total = 0
    sides: list[SplitName] = []
    for unit in units:
        total += len(unit.rows)
        side = max(wanted, key=lambda name: round(wanted[name] * total - given[name], 9))
        given[side] += len(unit.rows)
        sides.append(side)
    return sides


def _balance(units: list[Unit], wanted: dict[SplitName, float]) -> list[SplitName]:
    """Largest units and rarest labels first, each to the side that still needs its labels most.

    A greedy form of iterative stratification (Sechidis et al. 2011) for units of mixed labels.
    """
    totals: Counter[str] = Counter()
    for unit in units:
        totals.update(dict(unit.counts))
        totals[ANY] += 0 if dict(unit.counts).get(ANY) else len(unit.rows)
    need = {side: {k: share * n for k, n in totals.items()} for side, share in wanted.items()}
    left = {side: dict(numbers) for side, numbers in need.items()}
    rarity = [min(totals[label] for label, _ in unit.counts) for unit in units]
    order = sorted(
        range(len(units)), key=lambda i: (-len(units[i].rows), rarity[i], units[i].digest)
    )
    sides: list[SplitName] = ["train"] * len(units)
    for index in order:
        counts = {ANY: len(units[index].rows), **dict(units[index].counts)}
        side = max(left, key=lambda name: _usefulness(counts, left[name], need[name]))
        sides[index] = side
        for label, count in counts.items():
            left[side][label] -= count
    return sides


def _usefulness(counts: dict[str, int], left: dict[str, float], need: dict[str, float]) -> float:
    """How much room a side keeps, relative to its need, after taking these counts."""
    return sum(max((left[k] - n) / max(need[k], 1e-9), -1.0) for k, n in counts.items())


def _keep_every_label_in_training(units: list[Unit], sides: list[SplitName]) -> None:
    """Move the smallest unit of a label that training lacks, unless it is the label's only one."""
    where: dict[str, list[int]] = defaultdict(list)
    for index, unit in enumerate(units):
        for label, _ in unit.counts:
            where[label].append(index)
    for label in sorted(where):
        if all(sides[index] != "train" for index in where[label]):
            smallest = min(where[label], key=lambda i: (len(units[i].rows), units[i].digest))
            sides[smallest] = "train"


def _fill_empty_sides(
    units: list[Unit], sides: list[SplitName], wanted: dict[SplitName, float]
) -> None:
    """Give a side that got nothing the smallest unit that training can spare."""
    for side in wanted:
        if side in sides:
            continue
        held = Counter(
            label
            for unit, name in zip(units, sides, strict=True)
            if name == "train"
            for label, _ in unit.counts
        )
        in_training = [index for index, name in enumerate(sides) if name == "train"]
        order = sorted(in_training, key=lambda i: (len(units[i].rows), units[i].digest))
        spare = [i for i in order if all(held[label] > 1 for label, _ in units[i].counts)]
        if spare:
            sides[spare[0]] = side


def shares_of(data: DataSection, has_validation: bool, has_test: bool) -> dict[SplitName, float]:
    """Shares of validation and test that are still to be taken from the training rows."""
    shares: dict[SplitName, float] = {}
    if not has_validation and isinstance(data.validation, float):
        shares["validation"] = data.validation
    if not has_test and isinstance(data.test, float):
        shares["test"] = data.test
    return shares


def _digest(seed: int, key: str) -> str:
    data = f"{seed}\0{key}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def notice_tiny_classes(
    train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
) -> list[Finding]:
    """Findings about labels with few training rows, and labels that a side lacks."""
    counts = [_count_labels(side) for side in (train, validation, test)]
    if not counts[0] or any(example.messages for example in train[:1]):
        return []
    findings = []
    tiny = [label for label in sorted(counts[0]) if counts[0][label] < TINY_CLASS_ROWS]
    if tiny:
        rows = [row for row in train if _count_labels([row]).keys() & set(tiny)]
        listed = ", ".join(f"{label} ({counts[0][label]})" for label in tiny[:10])
        more = f" and {len(tiny) - 10} more" if len(tiny) > 10 else ""
        findings.append(
            Finding(
                "tiny_class",
                "warn",
                f"{len(tiny)} of {len(counts[0])} labels have "
                f"fewer than {TINY_CLASS_ROWS} training rows: {listed}{more}",
                rows=tuple(row.id for row in rows),
                places=tuple(row.place for row in rows),
            )
        )
    for name, number in (("validation", counts[1]), ("test", counts[2])):
        lacking = sorted(set(counts[0]) - set(number))
        if number and lacking:
            findings.append(
                Finding(
                    "label_not_judged",
                    "info",
                    f"{len(lacking)} labels have no {name} row: {', '.join(lacking[:10])}",
                )
            )
    return findings


def _count_labels(examples: Sequence[Example]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for example in examples:
        if isinstance(example.output, str):
            counts[example.output] += 1
        elif isinstance(example.output, tuple):
            counts.update({i.label if isinstance(i, Span) else i for i in example.output})
    return counts
