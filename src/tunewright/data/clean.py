"""What is taken out or mended before splitting, and what is only noticed. Never silently.

Every dropped row stands in a Finding with its id and place; duplicates and doubtful labels are
reported and left where they are.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from tunewright.errors import DataError
from tunewright.records import Example, Finding, Span

SURROGATES = re.compile("[\ud800-\udfff]")
_ASCII_OTHERS = bytes(code for code in range(128) if not chr(code).isalnum())
_ASCII_SPACES = {code: " " for code in range(128) if not (chr(code).isalnum() or code == 95)}
MAX_MISSING_SHARE = 0.5


def normalise(text: str) -> str:
    """The text's letters and digits alone, NFKC and case-folded; a text without any stays itself.

    Two rows with equal normalised text never stand on two sides of a split.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    if folded.isascii():
        kept = folded.encode("ascii").translate(None, _ASCII_OTHERS).decode("ascii")
    else:
        # Case folding can undo composition; marks carry vowels in many scripts, so they stay.
        folded = unicodedata.normalize("NFKC", folded)
        kept = "".join(char for char in folded if _is_kept(char))
    return kept or f"\0{text}"


def plain_words(text: str) -> str:
    """The text's words, NFKC and case-folded, with one space between; "" where there is none.

    Punctuation is no word; symbols such as emoji are. `normalise` drops the spaces as well.
    """
    if text.isascii():
        return " ".join(text.lower().translate(_ASCII_SPACES).split())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join("".join(char if _is_word(char) else " " for char in folded).split())


def _is_word(char: str) -> bool:
    return char == "_" or _is_kept(char) or unicodedata.category(char) == "So"


def _is_kept(char: str) -> bool:
    return (
        char.isalnum() or (unicodedata.combining(char) or unicodedata.category(char) == "Mc") != 0
    )


def number_ids(examples: Iterable[Example]) -> list[Example]:
    """The examples with -2, -3 ... behind the id of rows that repeat an earlier one."""
    seen: Counter[str] = Counter()
    numbered = []
    for example in examples:
        seen[example.id] += 1
        count = seen[example.id]
        numbered.append(replace(example, id=f"{example.id}-{count}") if count > 1 else example)
    return numbered


def clean(
    examples: Sequence[Example],
    task: str,
    source: str,
    *,
    keep_bad: bool = False,
    keep_unanswered: bool = False,
    whole: bool = True,
) -> tuple[list[Example], list[Finding]]:
    """The usable examples in order, and findings about the rest.

    keep_bad: answers that are marked as bad stay, for objectives that learn from them.
    keep_unanswered: so do rows without an answer. whole: these are all rows; of a part nothing is
    said about how many lack something (note_missing does, once all parts are known).
    Raises DataError where more than half of the rows lack their input or output, or none is left.
    """
    findings: list[Finding] = []
    kept = [_mend_text(example) for example in examples]
    _note(
        findings,
        "broken_unicode",
        "half characters were replaced by U+FFFD",
        [new for new, old in zip(kept, examples, strict=True) if new is not old],
    )
    if not keep_unanswered:
        kept = _cut_trailing_turns(kept, findings)
    kept = _resolve_overlaps(kept, findings)
    kept = _drop(
        kept,
        findings,
        "marked_bad",
        "marked as bad answers, left out of supervised training",
        lambda e: _is_bad(e) and task != "continue" and not keep_bad,
    )
    usable = len(kept)
    kept = _drop(kept, findings, "empty_input", "without any text", _is_empty)
    if whole:
        _check_missing(usable - len(kept), usable, "no text", source, findings)
    if task != "continue" and not keep_unanswered:
        kept = _drop(
            kept,
            findings,
            "missing_output",
            "without a label or answer",
            lambda e: e.output is None and not _is_bad(e),
        )
        if whole:
            _check_missing(usable - len(kept), usable, "no label or answer", source, findings)
    if whole and not kept:
        raise DataError(f"{source}: no usable row in {len(examples)}; check data.columns")
    return kept, findings + notice_duplicates(kept) + notice_label_variants(kept)


def note_missing(
    counts: Mapping[str, int], source: str, task: str, *, keep_unanswered: bool = False
) -> None:
    """Raise DataError where more than half of all rows lack text or answer.

    counts: rows read under "read", and those that `clean` dropped by kind.
    """
    usable = counts["read"] - counts.get("marked_bad", 0)
    for kind, what in (("empty_input", "no text"), ("missing_output", "no label or answer")):
        if counts.get(kind, 0) > MAX_MISSING_SHARE * usable:
            raise DataError(
                f"{source}: {counts[kind]} of {usable} rows have {what}; check data.columns, or "
                "fill them in"
            )


def notice_duplicates(examples: Sequence[Example]) -> list[Finding]:
    """Findings about equal rows, equal texts, and equal texts with different labels."""
    by_text: dict[str, list[Example]] = defaultdict(list)
    by_content: Counter[tuple[str, object]] = Counter()
    surplus = []
    for example in examples:
        by_text[normalise(example.input)].append(example)
        key = (example.input, example.output)
        by_content[key] += 1
        if by_content[key] > 1:
            surplus.append(example)
    groups = [group for group in by_text.values() if len(group) > 1]
    repeated = [example for group in groups for example in group[1:]]
    findings: list[Finding] = []
    _note(findings, "duplicate_exact", "repeat an earlier row exactly; kept", surplus, "info")
    if repeated:
        what = (
            "have the text of an earlier row, but for case, space and "
            "punctuation; kept together on one side of the split"
        )
        details = count_equal([example.input for example in examples])
        clusters = tuple(tuple(example.place for example in group) for group in groups)
        finding = make_finding("duplicate_text", what, repeated, "info")
        findings.append(replace(finding, clusters=clusters, details=details))
    if all(isinstance(example.output, str) and not example.messages for example in examples):
        torn = [
            example for group in groups if len({e.output for e in group}) > 1 for example in group
        ]
        _note(
            findings,
            "label_conflict",
            "share a text with a row of another label; look at them",
            torn,
        )
    return findings


def count_equal(texts: Sequence[str]) -> dict[str, int]:
    """How many texts repeat an earlier one, by what is taken as equal, strictest first.

    exact: character for character. but_for_case: also case and outer spaces. words: the same words
    whatever case, space and punctuation. letters: as the split sees it, spaces within words too.
    """
    readings: dict[str, Callable[[str], str]] = {
        "exact": lambda text: text, "but_for_case": fold_case, "words": plain_words,
        "letters": normalise,
    }  # fmt: skip
    return {name: len(texts) - len(set(map(read, texts))) for name, read in readings.items()}


def fold_case(text: str) -> str:
    """The text without outer spaces, case-folded."""
    return text.strip().casefold()


def notice_label_variants(examples: Iterable[Example]) -> list[Finding]:
    """A Finding about labels that differ only by case, space or punctuation.

    It names the rows of all spellings but the commonest, which is suggested for them. examples can
    be gone through twice.
    """
    counts: Counter[str] = Counter()
    for example in examples:
        if example.messages:
            return []
        counts.update(_label_names(example))
    same: dict[str, list[str]] = defaultdict(list)
    for name in sorted(counts):
        same[normalise(name)].append(name)
    variants = [group for group in same.values() if len(group) > 1]
    if not variants:
        return []
    usual = {name: max(group, key=lambda n: counts[n]) for group in variants for name in group}
    odd = {name for name, better in usual.items() if name != better}
    rows = [example for example in examples if odd & _label_names(example)]
    listed = "; ".join(" and ".join(map(repr, group)) for group in variants[:5])
    message = (
        f"labels that look like one: {listed}; they are learned as different labels (first row of "
        f"a rarer spelling: {rows[0].place})"
    )
    better = [usual.get(e.output, "") if isinstance(e.output, str) else "" for e in rows]
    finding = make_finding("label_variants", "", rows)
    return [replace(finding, message=message, suggestions=tuple(better))]


def _label_names(example: Example) -> set[str]:
    if isinstance(example.output, str):
        return {example.output}
    if isinstance(example.output, tuple):
        return {item if isinstance(item, str) else item.label for item in example.output}
    return set()


def _mend_text(example: Example) -> Example:
    """The example with lone surrogates, which no file can hold, replaced."""
    texts = [example.input, *(message.content for message in example.messages)]
    texts += [example.output] if isinstance(example.output, str) else []
    texts += [example.rejected] if example.rejected else []
    if all(text.isascii() or not SURROGATES.search(text) for text in texts):
        return example
    return replace(
        example,
        input=_mend(example.input),
        output=_mend(example.output) if isinstance(example.output, str) else example.output,
        rejected=_mend(example.rejected) if example.rejected else example.rejected,
        messages=tuple(replace(m, content=_mend(m.content)) for m in example.messages),
    )


def _mend(text: str) -> str:
    return SURROGATES.sub("\ufffd", text)


def _cut_trailing_turns(examples: list[Example], findings: list[Finding]) -> list[Example]:
    """Conversations end with the assistant's last turn: what follows it has no answer to learn."""
    cut = []
    for index, example in enumerate(examples):
        messages = example.messages
        while messages and messages[-1].role != "assistant":
            messages = messages[:-1]
        if messages and len(messages) < len(example.messages):
            examples[index] = replace(example, messages=messages)
            cut.append(example)
    _note(
        findings, "trailing_turns", "end with turns that nobody answers; these turns are cut", cut
    )
    return examples


def _resolve_overlaps(examples: list[Example], findings: list[Finding]) -> list[Example]:
    """Of overlapping spans the longest stays (the first label by name where equal)."""
    cut = []
    for index, example in enumerate(examples):
        spans = [item for item in _tuple(example.output) if isinstance(item, Span)]
        kept = _without_overlaps(spans)
        if len(kept) < len(spans):
            examples[index] = replace(example, output=tuple(kept))
            cut.append(example)
    _note(
        findings, "overlapping_spans", "hold spans that overlap; the longest of each is kept", cut
    )
    return examples


def _without_overlaps(spans: list[Span]) -> list[Span]:
    kept: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start - s.end, s.start, s.label)):
        if all(span.end <= other.start or other.end <= span.start for other in kept):
            kept.append(span)
    return sorted(kept, key=lambda s: s.start)


def _tuple(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else ()


def _is_bad(example: Example) -> bool:
    """An answer that was marked as bad, and no better one beside it."""
    return example.output is None and example.rejected is not None


def _is_empty(example: Example) -> bool:
    return not example.input.strip() and not any(v is not None for _, v in example.columns)


def _drop(
    examples: list[Example],
    findings: list[Finding],
    kind: str,
    what: str,
    condition: Callable[[Example], bool],
) -> list[Example]:
    """The examples that do not meet the condition; the others go into a Finding."""
    dropped = [example for example in examples if condition(example)]
    if not dropped:
        return examples
    _note(findings, kind, f"{what}; dropped", dropped, dropped=True)
    return [example for example in examples if not condition(example)]


def _check_missing(
    missing: int, total: int, what: str, source: str, findings: list[Finding]
) -> None:
    if total and missing > MAX_MISSING_SHARE * total:
        place = findings[-1].places[0]
        raise DataError(
            f"{source}: {missing} of {total} rows have {what} (first: {place}); "
            "check data.columns, or fill them in"
        )


def _note(
    findings: list[Finding],
    kind: str,
    what: str,
    examples: Sequence[Example],
    severity: str = "warn",
    *,
    dropped: bool = False,
) -> None:
    if examples:
        findings.append(make_finding(kind, what, examples, severity, dropped=dropped))


def make_finding(
    kind: str,
    what: str,
    examples: Sequence[Example],
    severity: str = "warn",
    *,
    dropped: bool = False,
) -> Finding:
    """A Finding over these rows: "12 rows <what> (first: tickets.csv:41)"."""
    rows = "1 row" if len(examples) == 1 else f"{len(examples)} rows"
    return Finding(
        kind=kind,
        severity="info" if severity == "info" else "warn",
        message=f"{rows} {what} (first: {examples[0].place})",
        rows=tuple(example.id for example in examples),
        places=tuple(example.place for example in examples),
        dropped=dropped,
    )
