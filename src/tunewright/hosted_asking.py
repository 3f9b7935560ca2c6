"""Hosted models asked the test questions: several at once, each answer kept as it comes.

What stands in answers.jsonl was paid for, so a run that goes on asks only what is missing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.config import Recipe
from tunewright.data.batch import random_stream
from tunewright.errors import Interrupted
from tunewright.evaluate.nearest import nearest_rows
from tunewright.hosted_cost import Asked
from tunewright.journal import Journal
from tunewright.providers.provider import Provider, Reply
from tunewright.providers.rows import (
    Wording,
    answer_text,
    estimate_tokens,
    read_answer,
)
from tunewright.records import Example, Prediction
from tunewright.sections import HostedSection
from tunewright.store import append_jsonl, read_jsonl


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens that a system's answers were billed for."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0


def open_provider(name: str, hosted: HostedSection, journal: Journal | None = None) -> Provider:
    """The provider of a recipe's name, URL included. journal: told when a call takes long.

    Raises ProviderError without key or SDK.
    """
    provider: Provider
    if name == "google":
        from tunewright.providers.google import open_google

        provider = open_google(
            project=hosted.project,
            location=hosted.location,
            bucket=hosted.bucket,
            patience_s=hosted.patience_s,
        )
    else:
        from tunewright.providers.openai import open_openai

        provider = open_openai(None if name == "openai" else name, patience_s=hosted.patience_s)
    if journal is not None:
        provider.patience.tell = journal.say
    return provider


def choose_examples(train: Sequence[Example], count: int, seed: int) -> tuple[Example, ...]:
    """A seeded draw of training rows with different inputs and answers, for a prompt."""
    rows = sorted(train, key=lambda row: row.id)
    chosen: dict[str, Example] = {}
    answers: set[str] = set()
    spare: list[Example] = []
    for number in random_stream(seed, "few_shot").permutation(len(rows)):
        row = rows[number]
        if row.output is None or row.input in chosen:
            continue
        if answer_text(row.output) in answers:
            spare.append(row)
            continue
        chosen[row.input] = row
        answers.add(answer_text(row.output))
        if len(chosen) == count:
            break
    return (*chosen.values(), *spare)[:count]


def near_examples(
    train: Sequence[Example], test: Sequence[Example], count: int, seed: int
) -> dict[str, tuple[Example, ...]]:
    """By id of a test row, the training rows nearest to it, for its prompt: the nearest last."""
    found = nearest_rows(train, test, count, seed)
    return {row.id: near[::-1] for row, near in zip(test, found, strict=True)}


def answer_limit(recipe: Recipe, train: Sequence[Example]) -> int:
    """Most tokens of an answer: the recipe's, or those of the longest to be learned and more."""
    wish = recipe.evaluation.max_new_tokens
    if isinstance(wish, int):
        return wish
    longest = max((estimate_tokens(answer_text(e.output)) for e in train), default=64)
    return min(4096, 16 + 2 * longest)


def ask_systems(
    systems: Sequence[Asked],
    test: Sequence[Example],
    how: Wording,
    *,
    kept: Path,
    max_tokens: int,
    num_parallel: int,
    journal: Journal,
) -> tuple[dict[str, list[Prediction]], dict[str, Spent]]:
    """(system to predictions in the order of test, system to billed tokens).

    Raises Interrupted where a provider stays silent: what was answered is kept.
    """
    known = {
        (line["system"], line["model"], line["id"]): _kept_reply(line) for line in read_jsonl(kept)
    }
    wanted = [(s, e) for s in systems for e in test if (s.system, s.model, e.id) not in known]
    lock = threading.Lock()

    def put(system: Asked, example: Example) -> None:
        reply = system.provider.ask(system.model, system.turns(example, how), max_tokens)
        line = {
            "system": system.system, "model": system.model, "id": example.id, "text": reply.text,
            "input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens,
            "cached_tokens": reply.cached_tokens,
            "priced_as": None if system.provider.free else system.priced_as or system.model,
        }  # fmt: skip
        with lock:
            append_jsonl(kept, [line])
            known[system.system, system.model, example.id] = reply

    if wanted:
        with journal.progress(f"asking {len(systems)} hosted systems", len(wanted)) as advance:
            _in_parallel([(put, pair) for pair in wanted], num_parallel, advance)
    predictions, spent = {}, {}
    for system in systems:
        replies = [known[system.system, system.model, example.id] for example in test]
        predictions[system.system] = [
            _prediction(system.system, example, reply, how)
            for example, reply in zip(test, replies, strict=True)
        ]
        spent[system.system] = Spent(
            sum(r.input_tokens for r in replies), sum(r.output_tokens for r in replies),
            sum(r.cached_tokens for r in replies),
        )  # fmt: skip
    return predictions, spent


def _kept_reply(line: Mapping[str, Any]) -> Reply:
    tokens = (line["input_tokens"], line["output_tokens"], line.get("cached_tokens", 0))
    return Reply(line["text"], *tokens)


def _in_parallel(
    calls: Sequence[tuple[Callable[..., None], tuple[Any, ...]]],
    num_parallel: int,
    advance: Callable[[float, str], None],
) -> None:
    """Make all calls; the first that fails ends it, once those under way are done."""
    with ThreadPoolExecutor(num_parallel) as pool:
        waiting = iter(calls)
        running = set()
        done = 0
        try:
            for call, arguments in waiting:
                running.add(pool.submit(call, *arguments))
                while len(running) >= num_parallel:
                    ended, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        future.result()
                    done += len(ended)
                    advance(done, "")
            for future in running:
                future.result()
                done += 1
                advance(done, "")
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        except Interrupted:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _prediction(system: str, example: Example, reply: Reply, how: Wording) -> Prediction:
    return Prediction(
        id=example.id,
        split="test",
        system=system,
        input=example.input,
        reference=example.output,
        prediction=read_answer(reply.text, how),
        group=example.group,
        references=example.references,
    )
