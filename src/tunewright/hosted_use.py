"""A hosted run after its training: asked, judged on other rows, watched, tuned again.

The tuned model answers elsewhere and every question costs money. So what it has answered already,
in the run or in a log, is taken first, and the rest is asked once somebody has agreed to the price.
Texts are embedded here, by the embedded encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from tunewright.config import Recipe, read_recipe
from tunewright.data.render import Rendering
from tunewright.errors import RunError
from tunewright.evaluate.predict import Advance, Asker
from tunewright.evaluate.saved import read_predictions
from tunewright.hosted_asking import ask_systems, open_provider
from tunewright.hosted_cost import Asked, Consent, forecast_hosted, get_consent, nobody
from tunewright.journal import Journal, silence
from tunewright.model.load import load_base, longest_input
from tunewright.price_desk import Ask, prices_of
from tunewright.providers.provider import Provider, Turn
from tunewright.providers.rows import Wording, prompt_turns, read_answer
from tunewright.records import Example, Output, Prediction, Request
from tunewright.store import RunFolder, read_json

EMBEDDER = "embedded:minilm"
DEFAULT_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Where a tuned model answers, and who pays. known: what it has answered, by text."""

    folder: RunFolder
    recipe: Recipe
    job: str
    model: str
    base: str
    how: Wording
    max_tokens: int
    consent: Consent
    ask: Ask | None
    journal: Journal
    known: dict[str, Output] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostedAsker(Asker):
    """A model that answers elsewhere, in the place of one that answers here. `base` is the encoder
    that embeds texts, not the model.
    """

    at: Elsewhere = field(kw_only=True)

    @property
    def is_remote(self) -> bool:
        """True: every question is sent away, and paid for."""
        return True

    def predict(
        self,
        examples: Sequence[Example],
        *,
        system: str,
        split: str,
        advance: Advance | None = None,
    ) -> list[Prediction]:
        """Predictions for every example, in order; asks only what was not answered before.

        Raises Refusal or RecipeError where nobody agrees to the price.
        """
        known = self.at.known
        keys = [key_of_row(e) for e in examples]
        missing = {key: e for key, e in zip(keys, examples, strict=True) if key not in known}
        if missing:
            self.at.known.update(_ask(self.at, missing))
        if advance:
            advance(1.0)
        return [
            Prediction(
                id=e.id, split=split, system=system, input=e.input, reference=e.output,
                prediction=known[key], group=e.group, references=e.references,
            )
            for key, e in zip(keys, examples, strict=True)
        ]  # fmt: skip

    def read(self, answer: Output) -> Output:
        """A logged answer as the task has it: the label that a text names, or the text itself."""
        if not isinstance(answer, str):
            return answer
        found = read_answer(answer, self.at.how)
        return answer if found is None else found

    def remember(self, requests: Iterable[Request]) -> None:
        """Take answers from a log, so that they are not asked for again."""
        for item in requests:
            if item.answer is not None:
                self.at.known.setdefault(key_of(item.input), self.read(item.answer))


def is_hosted(what: str | Path) -> bool:
    """True for the folder of a run that was trained elsewhere."""
    return RunFolder(Path(what)).job.is_file()


def open_hosted(
    what: str,
    journal: Journal | None = None,
    *,
    consent: Consent | None = None,
    ask: Ask | None = None,
    embeds: bool = False,
) -> HostedAsker:
    """The tuned model of a hosted run. embeds: load the encoder too.

    consent: asked before questions are paid for; None where budget.usd alone may allow them.
    Raises RunError while there is no tuned model, ModelError without the encoder.
    """
    folder = RunFolder(Path(what))
    noted = read_json(folder.job)
    recipe, model = read_recipe(folder.recipe), noted.get("tuned_model")
    if not model:
        raise RunError(f"{what}: this run has no model yet; finish it with --resume")
    how = _wording(folder, recipe, noted)
    at = Elsewhere(
        folder, recipe, str(noted["id"]), str(model), str(noted.get("model", recipe.base_model)),
        how, int(noted.get("max_tokens") or DEFAULT_TOKENS), consent or nobody, ask,
        journal or silence(), dict(_answered(folder)),
    )  # fmt: skip
    base = load_base(EMBEDDER, task=None) if embeds else None
    rendering = Rendering(
        task=how.task,
        tokenizer=cast(Any, base and base.tokenizer),
        max_length=(longest_input(base) if base else None) or 512,
        labels=how.labels,
        multi_label=how.multi_label,
    )
    return HostedAsker(cast(Any, base), rendering, at=at)


def elsewhere_error(what: str) -> RunError:
    """Why a command that needs weights cannot have those of a hosted run."""
    noted = read_json(RunFolder(Path(what)).job)
    return RunError(
        f"{what}: its model {noted.get('tuned_model') or ''} stays at {noted.get('provider')}, so "
        "there are no weights here; evaluate, chat, compare, benefit, watch and retune know it"
    )


def _open(at: Elsewhere) -> Provider:
    """The provider, once it has told that the job is still there, and of which base."""
    provider = open_provider(at.recipe.provider, at.recipe.hosted, at.journal)
    provider.look(at.job)
    return provider


def tuned_weights(folder: RunFolder) -> str:
    """What a later training may start from: the run's weights, or its model's name elsewhere."""
    if not is_hosted(folder.path):
        return str(folder.model)
    return str(read_json(folder.job)["tuned_model"])


def spent_usd(folder: RunFolder) -> float | None:
    """What a run's tuning and its judging have cost; None where it is not known."""
    usd = (read_json(folder.report_json).get("cost") or {}).get("usd") or {}
    value = usd.get("measured") if usd.get("measured") is not None else usd.get("forecast")
    return None if value is None else float(value)


class HostedChat:
    """A conversation with a tuned model elsewhere, or a classifier that answers what is typed.

    last: what the last answer was, for programs.
    """

    def __init__(self, asker: HostedAsker) -> None:
        self.asker, self.provider = asker, _open(asker.at)
        self.turns: list[Turn] = []
        self.last: dict[str, Any] | None = None

    def reply(self, text: str) -> Iterator[str]:
        """The answer to `text`, in one piece. Each is paid for."""
        how = self.asker.at.how
        said: Turn = {"role": "user", "content": text}
        if how.task == "chat":
            turns: list[Turn] = [*self.turns, said]
        else:
            turns = prompt_turns(Example(id="chat", place="chat", input=text), how)
        at = self.asker.at
        answer = self.provider.ask(at.model, turns, at.max_tokens).text
        if how.task == "classify":
            self.last = {"prediction": read_answer(answer, how), "confidence": None}
        else:
            self.last = {"text": answer}
        if how.task == "chat":
            self.turns += [said, {"role": "assistant", "content": answer}]
        yield answer

    def reset(self) -> None:
        """Forget the conversation."""
        self.turns.clear()


def key_of(text: str) -> str:
    """A text but for its spacing: what was asked before is known by it."""
    return " ".join(text.split())


def key_of_row(row: Example) -> str:
    """The same of a row: its text, with side columns and earlier turns where it has some."""
    users = [turn for turn in row.messages if turn.role == "user"]
    more = [f"{name}={value}" for name, value in row.columns]
    if len(users) > 1:
        more += [f"{turn.role}: {turn.content}" for turn in row.messages[:-1]]
    return key_of(" ".join([*more, row.input]))


def _ask(at: Elsewhere, missing: Mapping[str, Example]) -> dict[str, Output]:
    """Answers by key, asked for after consent and kept, so that none is paid for twice."""
    provider = _open(at)
    # By content: ids of two logs may be alike.
    rows = [
        replace(row, id=hashlib.blake2b(key.encode(), digest_size=12).hexdigest())
        for key, row in missing.items()
    ]
    priced = f"ft:{at.base}" if provider.rules.provider == "openai" else at.base
    asked, today = Asked("tuned", provider, at.model, priced_as=priced), datetime.now(UTC).date()
    forecast = forecast_hosted(
        None, None, (), [asked], rows, at.how, prices=prices_of(at.recipe, today, at.folder),
        today=today,
        ask=at.ask,
    )  # fmt: skip
    what = f"asking {at.model} {len(rows):,} questions"
    get_consent(at.recipe, forecast, what, at.consent, at.journal)
    answers, _ = ask_systems(
        [asked], rows, at.how, kept=at.folder.asked, max_tokens=at.max_tokens,
        num_parallel=at.recipe.hosted.num_parallel, journal=at.journal,
    )  # fmt: skip
    return {key: answer.prediction for key, answer in zip(missing, answers["tuned"], strict=True)}


def _answered(folder: RunFolder) -> Iterator[tuple[str, Output]]:
    """What the tuned model has answered in the run."""
    if not folder.predictions.exists():
        return
    for (system, _), rows in read_predictions(folder.predictions).items():
        if system == "tuned":
            yield from ((key_of(row.input), row.prediction) for row in rows)


def _wording(folder: RunFolder, recipe: Recipe, noted: Mapping[str, Any]) -> Wording:
    """How the run put its task; of runs that did not write it down, by their card."""
    told = noted.get("wording")
    if told:
        return Wording(told["task"], tuple(told["labels"]), bool(told["multi_label"]))
    card = read_json(folder.card)
    return Wording(str(recipe.task), tuple(card.get("labels") or ()), bool(card.get("multi_label")))
