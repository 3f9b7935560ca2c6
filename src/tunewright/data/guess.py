"""Which column of a table is text, which output, which stand beside: guesses with reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tunewright.data.layout import PlacedRow, file_name
from tunewright.data.profile import MAX_CATEGORIES, Profile, is_missing
from tunewright.data.shapes import parse_cell
from tunewright.data.spans import looks_like_spans
from tunewright.errors import DataError
from tunewright.records import Task
from tunewright.sections import Columns, DataSection

# Names that people give to the text, the label and the wanted text; the first match wins.
INPUT_NAMES = str.split(
    "text input sentence prompt question query instruction message sms utterance review tweet "
    "comment body content document article dialogue email source src mr premise description post "
    "title subject"
)
LABEL_NAMES = str.split(
    "label labels class category intent intents sentiment emotion topic target tag tags y outcome "
    "is_spam spam is_fraud fraud toxic rating stars score price"
)
ANSWER_NAMES = str.split(
    "output response completion answer reply target target_text tgt summary highlights translation "
    "ref reference sql code command cmd regex"
)
# Fewer rows than this cannot show that one column gives another away.
MIN_ROWS_FOR_LEAK = 20


class Guess:
    """Finds columns of a plain table and keeps a sentence about each choice."""

    def __init__(
        self,
        rows: list[PlacedRow],
        profiles: Mapping[str, Profile],
        data: DataSection,
        task: str | None,
    ) -> None:
        self.rows = rows
        self.profiles = profiles
        self.data = data
        self.task = task
        self.reasons: list[str] = []
        taken = {data.columns.id, data.columns.weight, data.columns.rejected}
        taken |= {*data.columns.numeric, *data.columns.categorical}
        self.free = [
            profile
            for name, profile in profiles.items()
            if name not in taken and profile.kind not in ("nothing", "bytes")
        ]
        self.by_name = {p.name.casefold().replace(" ", "_"): p.name for p in self.free}

    def named(self, wanted: Iterable[str]) -> list[str]:
        """Free columns that carry one of these names, in the order of `wanted`."""
        return [self.by_name[name] for name in wanted if name in self.by_name]

    def usable(self) -> list[Profile]:
        """Free columns that are neither identifiers nor moments in time."""
        return [
            p
            for p in self.free
            if not (p.is_id or p.is_group or p.is_time)
            and (p.name != self.data.group or p.is_prose)  # a group may be the input itself
        ]

    def only_text(self) -> str | None:
        """The column of a data set that holds text and nothing else, or None."""
        if self.data.columns.output:
            return None
        rest = [p for p in self.usable() if p.name != self.data.columns.input]
        given = self.data.columns.input
        if given:
            return given if not rest and self.task is None else None
        prose = [p for p in rest if p.kind == "text" and (p.is_prose or p.name in INPUT_NAMES)]
        if len(rest) != 1 or not prose:
            return None
        for profile in self.profiles.values():
            if profile.num_values == 0 and profile.name.casefold() in LABEL_NAMES:
                raise DataError(
                    f"{file_name(self.rows)}: every cell of column {profile.name} is empty; fill "
                    "it in, or set task: continue to learn the text alone"
                )
        return prose[0].name

    def find_text(self) -> str:
        """The text column of a data set without outputs. Raises DataError where it is not clear."""
        prose = [p.name for p in self.usable() if p.is_prose]
        named = self.named(INPUT_NAMES)
        if named or len(prose) == 1:
            return (named or prose)[0]
        raise self.ask("input", "which column holds the text?")

    def find_output(self) -> str:
        """The column to learn. Raises DataError where it is not clear."""
        usable = [p for p in self.usable() if p.name != self.data.columns.input]
        fit = [p for p in usable if self.fits(p)]
        names = {p.name for p in fit}
        wanted = {
            "generate": ANSWER_NAMES,
            "chat": ANSWER_NAMES,
            "regress": LABEL_NAMES,
            "classify": LABEL_NAMES,
            "tag": ["spans", "entities", "labels", "slots", "annotations", "tags"],
        }.get(self.task or "", [*LABEL_NAMES, "spans", "entities", *ANSWER_NAMES])
        named = [name for name in self.named(wanted) if name in names]
        if not named and self.task in ("generate", "chat") and len(usable) == 2:
            # A text beside its label, for a model that shall write the label.
            labels = [name for name in self.named(LABEL_NAMES) if name in names]
            named = labels if self.named(INPUT_NAMES) else []
        spans = [p.name for p in fit if p.kind in ("list", "object") and self.holds_spans(p.name)]
        if self.task is None and spans and any(p.kind == "labels" for p in fit):
            raise self.ask("output", "labels and spans both; set task: classify or tag, or choose:")
        if self.task in (None, "tag") and len(spans) == 1:
            named = spans
        if named:
            self.reasons.append(f"column {named[0]} is what must come out: its name says so")
            return named[0]
        guesses = [p.name for p in fit if not p.is_prose] or [p.name for p in fit]
        if self.task in ("generate", "chat"):
            guesses = self.answers_by_repetition([p.name for p in fit if p.is_prose] or guesses)
        elif not [p for p in fit if not p.is_prose]:
            guesses = self.answers_by_repetition(guesses)
        if len(guesses) == 1 and (len(usable) > 1 or self.data.columns.input):
            self.reasons.append(f"column {guesses[0]} is what must come out: no other could be")
            return guesses[0]
        if len(self.profiles) == 1:
            (only,) = self.profiles
            raise DataError(
                f"{file_name(self.rows)}: only one column, {only!r}; add a column with what "
                "must come out, or set task: continue to learn the text itself"
            )
        raise self.ask("output", "which column must come out?")

    def fits(self, profile: Profile) -> bool:
        """True where the column could be the output of the task."""
        label_like = profile.is_label_like or profile.kind == "labels"
        by_name = profile.name.casefold() in LABEL_NAMES and profile.kind in ("text", "number")
        return {
            "classify": label_like or by_name,
            "regress": profile.kind == "number",
            "generate": profile.kind in ("text", "number"),
            "chat": profile.kind in ("text", "number"),
            "tag": profile.kind in ("list", "object") and self.holds_spans(profile.name),
        }.get(
            self.task or "",
            profile.kind in ("text", "number", "flag", "labels", "list", "object"),
        )

    def holds_spans(self, name: str) -> bool:
        """True where the first filled cell of the column is a set of spans."""
        cells = (row.get(name) for _, row in self.rows)
        return looks_like_spans(next((cell for cell in cells if parse_cell(cell)), None))

    def answers_by_repetition(self, names: list[str]) -> list[str]:
        """Of two texts, the one that varies while the other repeats; else both, as they came."""
        inputs = [n for n in self.named(INPUT_NAMES) if n in names]
        if len(names) == 2 and len(inputs) == 1:
            return [name for name in names if name not in inputs]
        if len(names) != 2:
            return names
        first, second = (self.profiles[name] for name in names)
        if first.num_distinct < 0.5 * second.num_distinct:
            return [second.name]
        if second.num_distinct < 0.5 * first.num_distinct:
            return [first.name]
        return names

    def task_of(self, output: str) -> Task:
        """The task that an output column suggests."""
        profile = self.profiles[output]
        reason, task = _suggest_task(profile, self.holds_spans(output))
        if task is None:
            raise self.ask("output", f"column {output} fits no task; choose another:")
        self.reasons.append(f"task {task}: {reason}")
        return task

    def find_input(self, output: str, task: str) -> str | None:
        """The text column; None where a table has none. Raises DataError where it is not clear."""
        named = [name for name in self.named(INPUT_NAMES) if name != output]
        readable = {p.name for p in self.usable() if p.kind in ("text", "object")}
        named = [n for n in named if n in readable and self.profiles[n].num_distinct != 1]
        prose = [p.name for p in self.usable() if p.is_prose and p.name != output]
        holders = [p.name for p in self.usable() if p.name != output and self.holds_text(p.name)]
        found = named or prose or holders
        if len(found) == 1 or named:
            why = "its name says so" if named else "it alone holds longer text"
            self.reasons.append(f"column {found[0]} is the text: {why}")
            return found[0]
        if not found:
            others = [p for p in self.usable() if p.name != output]
            texts = [p.name for p in others if p.kind == "text" and not p.is_label_like]
            if len(texts) == 1:
                self.reasons.append(f"column {texts[0]} is the text: no other could be")
                return texts[0]
            if len(others) == 1 and others[0].kind == "text":
                return others[0].name
            if task in ("classify", "regress") and others and not texts:
                self.reasons.append("no text column: the other columns are written out as text")
                return None
        raise self.ask("input", "which column holds the text?")

    def holds_text(self, name: str) -> bool:
        """True for a column of {"text": ...} objects."""
        cells = (row.get(name) for _, row in self.rows)
        first = next((cell for cell in cells if cell is not None), None)
        return isinstance(first, Mapping) and isinstance(first.get("text"), str)

    def check_numbers(self, output: str) -> None:
        """Raise DataError where the target of a regression never changes."""
        profile = self.profiles[output]
        if profile.num_distinct == 1:
            raise DataError(
                f"{file_name(self.rows)}: column {output} always holds "
                f"{profile.examples[0]}; a regression needs values that differ"
            )

    def add_side_columns(self, columns: Columns) -> Columns:
        """Add number and category columns beside the text, unless the user named columns."""
        given = self.data.columns
        if given.numeric or given.categorical:
            return columns
        spare = [p for p in self.usable() if p.name not in (columns.input, columns.output)]
        spare = [p for p in spare if p.num_distinct > 1]
        numeric, categorical = [], []
        for profile in spare:
            if self.gives_away(profile, columns.output or ""):
                self.reasons.append(
                    f"column {profile.name} is left out: it alone tells the output; "
                    "name it in data.columns if it is known beforehand"
                )
            elif profile.kind == "number":
                numeric.append(profile.name)
            elif _is_category(profile):
                categorical.append(profile.name)
        if not numeric and not categorical:
            return columns
        listed = ", ".join(numeric + categorical)
        if given.input and given.output:
            self.reasons.append(f"columns {listed} are not read: data.columns does not name them")
            return columns
        self.reasons.append(f"columns {listed} are read beside the text")
        found = {"numeric": tuple(numeric), "categorical": tuple(categorical)}
        return columns.model_copy(update=found)

    def gives_away(self, profile: Profile, output: str) -> bool:
        """True where each value of a few-valued column goes with one output only."""
        few = 2 <= profile.num_distinct <= max(self.profiles[output].num_distinct, 2)
        if not few or len(self.rows) < MIN_ROWS_FOR_LEAK:
            return False
        seen: dict[str, str] = {}
        for _, row in self.rows:
            cell, target = row.get(profile.name), row.get(output)
            if is_missing(cell) or is_missing(target):
                continue
            if seen.setdefault(str(cell), str(target)) != str(target):
                return False
        return len(set(seen.values())) > 1

    def ask(self, key: str, question: str) -> DataError:
        """The error that lists the columns with examples and names the recipe key to set."""
        listed = "; ".join(
            f"{p.name} ({', '.join(map(repr, p.examples[:2]))})"
            for p in list(self.profiles.values())[:12]
        )
        more = f"; and {len(self.profiles) - 12} more" if len(self.profiles) > 12 else ""
        return DataError(
            f"{file_name(self.rows)}: {question} columns: {listed}{more}; set data.columns.{key}"
        )


def _is_category(profile: Profile) -> bool:
    most = max(2, min(MAX_CATEGORIES, profile.num_values // 5))
    return profile.kind in ("text", "flag") and profile.num_distinct <= most


def _suggest_task(profile: Profile, holds_spans: bool) -> tuple[str, Task | None]:
    count, name = profile.num_distinct, profile.name
    if profile.kind in ("list", "object"):
        return f"column {name} holds spans", "tag" if holds_spans else None
    if profile.kind == "labels":
        return f"column {name} holds lists of labels", "classify"
    if profile.is_measure:
        return f"column {name} holds numbers ({count} different)", "regress"
    if profile.kind == "number" and count > 2:
        return f"column {name} holds {count} different whole numbers, read as classes", "classify"
    if profile.is_label_like or profile.kind in ("number", "flag"):
        return f"column {name} holds {count} different short values", "classify"
    if name.casefold() in LABEL_NAMES[:9] and not profile.is_prose:
        return f"column {name} is called so", "classify"
    return f"column {name} holds free text", "generate"
