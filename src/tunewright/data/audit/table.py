"""All audits by name, and running them. What an audit looks for stands in its own file.

An audit is a function `find_x(material, *, options...) -> list[Finding]`; its keyword-only
parameters are its options, and one line in AUDITS adds it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

from tunewright.data.audit.broken import find_broken_text
from tunewright.data.audit.classes import find_class_sizes, find_label_shift
from tunewright.data.audit.giveaway import (
    find_giveaways,
    find_known_answers,
    find_prompts_alike,
)
from tunewright.data.audit.label_errors import find_label_errors
from tunewright.data.audit.language import find_other_languages
from tunewright.data.audit.leaks import find_near_leaks
from tunewright.data.audit.lengths import find_blank_answers, find_truncated
from tunewright.data.audit.material import AuditMaterial
from tunewright.data.audit.near import find_near_duplicates
from tunewright.data.audit.privacy import find_personal_data
from tunewright.data.audit.surprising import find_surprising_answers
from tunewright.data.audit.templates import find_missing_ends, find_template_traces
from tunewright.data.audit.triggers import find_triggers
from tunewright.data.audit.unsafe import find_unsafe_answers
from tunewright.errors import RecipeError
from tunewright.records import Finding

Audit = Callable[..., list[Finding]]
Keep = Callable[[str, Callable[[], list[Finding]]], list[Finding]]
"""(name of a step, how to do it) to its findings; from where they were kept, if they were."""


def run_audits(
    material: AuditMaterial,
    *,
    only: Iterable[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    keep: Keep | None = None,
    last: Collection[str] = (),
) -> list[Finding]:
    """The findings of all audits, or of those named in `only`, in the table's order.

    options: keyword arguments by audit. keep: remembers what an audit found, so that a stopped
    check goes on behind it. last: audits to come to at the end, since another process is at them
    (findings keep their order). Raises RecipeError for a name that AUDITS lacks.
    """
    chosen = list(AUDITS) if only is None else list(only)
    unknown = sorted({*chosen, *(options or {})} - set(AUDITS))
    if unknown:
        raise RecipeError(f"no audit {unknown[0]!r}; there are {', '.join(AUDITS)}")
    found: dict[str, list[Finding]] = {}
    with material.journal.progress("auditing", len(chosen)) as advance:
        for done, name in enumerate(sorted(chosen, key=lambda name: name in last)):
            advance(done, name.replace("_", " "))
            look = partial(AUDITS[name], material, **(options or {}).get(name, {}))
            found[name] = keep(name, look) if keep else look()
        advance(len(chosen), "")
    return [item for name in chosen for item in found[name]]


ROW_BY_ROW = (
    "broken_text", "personal_data", "template_traces", "missing_ends", "truncated",
    "blank_answers", "other_languages", "unsafe_answers",
)  # fmt: skip
"""Audits that look at each row alone, about as long as all others take together."""
AUDITS: dict[str, Audit] = {
    "near_leaks": find_near_leaks,
    "known_answers": find_known_answers,
    "near_duplicates": find_near_duplicates,
    "class_sizes": find_class_sizes,
    "label_shift": find_label_shift,
    "broken_text": find_broken_text,
    "personal_data": find_personal_data,
    "template_traces": find_template_traces,
    "missing_ends": find_missing_ends,
    "truncated": find_truncated,
    "blank_answers": find_blank_answers,
    "other_languages": find_other_languages,
    "unsafe_answers": find_unsafe_answers,
    "label_errors": find_label_errors,
    "surprising_answers": find_surprising_answers,
    "giveaways": find_giveaways,
    "prompts_alike": find_prompts_alike,
    "triggers": find_triggers,
}
