"""Which files of a folder or hub repository hold the rows, judged by their names alone."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from tunewright.errors import DataError

EXTENSIONS = {
    "csv": "csv",
    "tsv": "tsv",
    "tab": "tsv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "jsonlines": "jsonl",
    "json": "json",
    "parquet": "parquet",
    "pq": "parquet",
    "arrow": "arrow",
    "feather": "arrow",
    "txt": "text",
    "text": "text",
    "md": "text",
}
# Of several kinds in one hub repository the first is read: the others are copies, as a rule.
PREFERRED_KINDS = ("parquet", "arrow", "jsonl", "json", "csv", "tsv", "text")
# Files that describe a data set and hold none of its rows.
NOT_DATA = frozenset(
    str.split(
        "readme license licence notice citation changelog contributing requirements config "
        "dataset_info dataset_infos dataset_dict state metadata tokenizer tokenizer_config"
    )
)
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_SPLIT = re.compile(rf"(?:^|[^a-z])({'|'.join(SPLIT_WORDS)})(?:_?set)?(?:$|[^a-z])", re.IGNORECASE)


def kind_of(name: str) -> str | None:
    """The file kind that a name's extension tells ("csv" for x.csv and x.csv.gz), or None."""
    parts = PurePosixPath(name.lower()).name.removesuffix(".gz").rsplit(".", 1)
    return EXTENSIONS.get(parts[1]) if len(parts) == 2 else None


def split_of(name: str) -> str | None:
    """train, validation or test where a path says so, file name first, then its folders."""
    for part in reversed(PurePosixPath(name).parts):
        found = _SPLIT.search(part)
        if found:
            return SPLIT_WORDS[found.group(1).lower()]
    return None


def data_names(names: Iterable[str]) -> list[str]:
    """Names that may hold rows: a known extension, not hidden, not a README or the like; sorted."""
    kept = []
    for name in names:
        path = PurePosixPath(name)
        stem = path.name.split(".", 1)[0].lower()
        hidden = any(part.startswith((".", "__")) for part in path.parts)
        if not hidden and stem not in NOT_DATA and kind_of(name) and path.suffix.lower() != ".md":
            kept.append(name)
    return sorted(kept)


def split_names(names: Iterable[str]) -> frozenset[str]:
    """Splits that the data files among `names` are named after."""
    return frozenset(split for name in data_names(names) if (split := split_of(name)))


def select(names: Iterable[str], place: str, split: str | None, *, remote: bool) -> list[str]:
    """The files to read for `split` (None: the training split, or everything where none is named).

    remote: of several kinds take the preferred one; locally that is an error.
    Raises DataError where nothing or too much matches.
    """
    found = data_names(names)
    if not found:
        known = ", ".join(sorted(EXTENSIONS))
        raise DataError(f"{place}: holds no data file; put one of these there: {known}")
    chosen = _choose_split(found, place, split)
    chosen = _one_kind(chosen, place, remote=remote)
    return _one_folder(chosen, place, remote=remote)


def _choose_split(found: list[str], place: str, split: str | None) -> list[str]:
    by_split: dict[str, list[str]] = defaultdict(list)
    for name in found:
        by_split[split_of(name) or ""].append(name)
    wanted = SPLIT_WORDS.get((split or "train").lower(), split or "train")
    if by_split.get(wanted):
        return by_split[wanted]
    if split is None or (wanted == "train" and set(by_split) == {""}):
        if set(by_split) == {""}:
            return found
        if by_split.get(""):
            return by_split[""]
    exact = re.compile(rf"(?:^|[^a-z0-9]){re.escape(wanted)}(?:$|[^a-z0-9])", re.IGNORECASE)
    named = [name for name in found if exact.search(name)]
    if named:
        return named
    known = ", ".join(sorted(key for key in by_split if key)) or "none is named"
    raise DataError(f"{place}: no split {wanted!r}; splits here: {known}; name a file instead")


def _one_kind(names: list[str], place: str, *, remote: bool) -> list[str]:
    kinds = Counter(kind_of(name) for name in names)
    if len(kinds) == 1:
        return names
    if remote:
        best = next(kind for kind in PREFERRED_KINDS if kind in kinds)
        return [name for name in names if kind_of(name) == best]
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=str))
    raise DataError(f"{place}: holds files of several kinds ({listed}); name the file to read")


def _one_folder(names: list[str], place: str, *, remote: bool) -> list[str]:
    folders = sorted({str(PurePosixPath(name).parent) for name in names})
    if len(folders) == 1:
        return names
    example = f"hf://datasets/{place}/{folders[-1]}" if remote else f"{place}/{folders[-1]}"
    raise DataError(
        f"{place}: holds several data sets ({_enumerate(folders)}); name one, e.g. {example}"
    )


def _enumerate(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
