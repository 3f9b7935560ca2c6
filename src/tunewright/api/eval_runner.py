"""Works on runs of evals: a few rows at a time, each asked of a model where the run says so, then
graded.

Runs go on beside everything else that is served, in the order in which they came. A server that
stops leaves its run to the next: rows that have their result are not done again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from fastapi import Request as HttpRequest

from tunewright.access import EVERYBODY, Caller
from tunewright.api.answers import NoClient, write_all
from tunewright.api.errors import ApiError
from tunewright.api.graders import GRADING, asking, note_usage
from tunewright.api.prompts import ChatBody, make_request
from tunewright.errors import TunewrightError
from tunewright.evaluate.api_graders import Spec, grade, read_grader, sample_of, text_of
from tunewright.evaluate.filling import FillError, fill, find
from tunewright.jobs import evals
from tunewright.jobs.home import Home
from tunewright.jobs.paging import Record, new_id

if TYPE_CHECKING:
    from tunewright.api.state import State

LOOK_EVERY_S = 1.0
AT_ONCE = 8
MAX_ROWS = 100_000
MAX_LINE_BYTES = 1 << 20
DEFAULT_TOKENS = 256
SAMPLING = ("temperature", "top_p", "seed", "max_completion_tokens", "response_format", "tools")
_Row = tuple[int, dict[str, Any]]


class EvalRunner:
    """The runs of one server."""

    def __init__(self, state: State, home: Home) -> None:
        self.state, self.home, self.name = state, home, new_id("server-", 12)
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for runs."""
        self._task = asyncio.create_task(self._look())

    def wake(self) -> None:
        """There is a new run."""
        self._news.set()

    async def stop(self) -> None:
        """Leave what is under way to the next server."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _look(self) -> None:
        while True:
            try:
                run = await asyncio.to_thread(evals.claim_run, self.home.database, self.name)
                if run is not None:
                    await self._work(run)
                    continue
            except evals.RunLostError:
                continue
            except Exception:  # a database that is away for a moment must not end evals for good
                traceback.print_exc()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), LOOK_EVERY_S)
            self._news.clear()

    async def _work(self, run: Record) -> None:
        database, error = self.home.database, None
        try:
            row = await asyncio.to_thread(evals.get_eval, database, run["eval_id"])
            specs = [read_grader(item) for item in row["criteria"]]
            done = await asyncio.to_thread(evals.places_done, database, run["id"])
            async for batch in self._batches(run, done):
                items = await asyncio.gather(*(self._row(run, specs, *item) for item in batch))
                await asyncio.to_thread(evals.note_items, database, run["id"], self.name, items)
        except (ApiError, TunewrightError, OSError, ValueError) as fault:
            if isinstance(fault, evals.RunLostError):
                raise
            error = {"code": "invalid_run", "message": str(fault)[:500]}
        except KeyError:  # the eval was deleted, and the run with it
            return
        await asyncio.to_thread(evals.finish_run, database, run["id"], self.name, error=error)

    async def _batches(self, run: Record, done: set[int]) -> AsyncIterator[list[_Row]]:
        """Rows that have no result yet, a few at a time."""
        source, batch = run["source"]["source"], list[_Row]()
        if source["type"] == "file_content":
            rows: Iterator[dict[str, Any]] = iter(source["content"])
        else:
            rows = _lines(self.home, source["id"])
        places = enumerate(rows)
        while True:
            place, row = await asyncio.to_thread(next, places, (-1, {}))
            if place >= MAX_ROWS:
                raise ValueError(f"more than {MAX_ROWS:,} rows")
            if place >= 0 and place not in done:
                batch.append((place, row))
            if batch and (place < 0 or len(batch) >= AT_ONCE):
                yield batch
                batch = []
            if place < 0:
                return

    async def _row(
        self, run: Record, specs: Sequence[Spec], place: int, row: dict[str, Any]
    ) -> dict[str, Any]:
        """What one row comes to, for the database."""
        item, used = row["item"], dict[str, Counter[str]]()
        caller = EVERYBODY if not run["owner"] else Caller("", EVERYBODY.scopes, run["owner"])
        http = cast(HttpRequest, NoClient(caller))
        found = {"place": place, "item": item, "results": [], "usage": used}
        try:
            if run["source"]["type"] == "jsonl":
                given = row.get("sample")
                sample = {**given} if isinstance(given, dict) else {}
                values, shown = sample, _sample_given(sample)
            else:
                answer, shown = await self._ask(run["source"], item, http, used)
                values = sample_of(answer)
        except (ApiError, TunewrightError, FillError, ValueError) as error:
            message = str(error)[:500]
            shown = _sample(error={"code": "sample_error", "message": message})
            return {**found, "status": evals.ERRORED, "sample": shown}
        loop = asyncio.get_running_loop()
        work = partial(self._grade, specs, item, values, http, used, loop)
        results = await loop.run_in_executor(GRADING, work)
        status = evals.PASSED if all(item["passed"] for item in results) else evals.FAILED
        if any(item.get("error") for item in results):
            status = evals.ERRORED
        return {**found, "status": status, "results": results, "sample": shown}

    def _grade(
        self, specs: Sequence[Spec], item: Mapping[str, Any], values: Mapping[str, Any],
        http: HttpRequest, used: dict[str, Counter[str]], loop: asyncio.AbstractEventLoop,
    ) -> list[dict[str, Any]]:  # fmt: skip
        write, results = asking(self.state, http, used, loop), []
        for spec in specs:
            outcome = grade(spec, item, values, write)
            result = {
                "name": spec.name, "type": spec.type,  # type: ignore[attr-defined]
                "score": outcome.reward, "passed": outcome.passes(spec.pass_threshold),
            }  # fmt: skip
            if outcome.errors:
                result["error"] = dict(outcome.errors)
            results.append(result)
        return results

    async def _ask(
        self, source: Mapping[str, Any], item: Mapping[str, Any], http: HttpRequest,
        used: dict[str, Counter[str]],
    ) -> tuple[str, dict[str, Any]]:  # fmt: skip
        """(what the model says to a row, its sample). Raises ApiError, FillError, ValueError."""
        turns = _turns(source["input_messages"], item)
        given = source.get("sampling_params") or {}
        chosen = {key: given[key] for key in SAMPLING if given.get(key) is not None}
        chosen.setdefault("max_completion_tokens", given.get("max_tokens") or DEFAULT_TOKENS)
        chosen.setdefault("seed", secrets.randbits(31))
        body = ChatBody.model_validate({**chosen, "model": source["model"], "messages": turns})
        body.check()
        model = await self.state.open_text(await self.state.resolve(body, http))
        grammar = None
        if body.answer_schema is not None:
            grammar = await asyncio.to_thread(model.runner.grammar, body.answer_schema)
        prompt, most = body.prompt_ids(model), body.max_completion_tokens or DEFAULT_TOKENS
        request = make_request(body, model, prompt, 0, most, 0, grammar)
        (written,) = await write_all(model.runner, [request], http, self.state.deadline_s)
        note_usage(used, body.model, len(prompt), len(written.tokens))
        numbers = used[body.model]
        keys = ("prompt_tokens", "completion_tokens", "total_tokens")
        usage = {"cached_tokens": 0, **{key: numbers[key] for key in keys}}
        return written.text, _sample(
            input=turns, output=[{"role": "assistant", "content": written.text}],
            model=body.model, finish_reason=written.finish_reason, seed=body.seed,
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            max_completion_tokens=most, usage=usage,
        )  # fmt: skip


def _lines(home: Home, file_id: str) -> Iterator[dict[str, Any]]:
    """Rows of a file, read as they are needed. Raises ValueError naming the line."""
    with open(home.folder.file(file_id), "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse)
            except (ValueError, RecursionError):
                row = None
            if len(line) > MAX_LINE_BYTES or not isinstance(row, dict):
                raise ValueError(f"line {number}: not a JSON object of at most {MAX_LINE_BYTES:,} "
                                 "bytes")  # fmt: skip
            if not isinstance(row.get("item"), dict):
                raise ValueError(f"line {number}: there is no object under `item`")
            yield row


def _refuse(constant: str) -> None:
    """NaN and infinity are not JSON."""
    raise ValueError(constant)


def _turns(messages: Mapping[str, Any], item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The conversation that a row asks. Raises FillError, ValueError."""
    values = {"item": item, "sample": {}}
    if messages.get("type") == "item_reference":
        found = find(str(messages["item_reference"]), values)
        if not isinstance(found, list) or not all(isinstance(turn, dict) for turn in found):
            raise ValueError(f"{messages['item_reference']}: not a list of messages")
        plain = [(str(turn.get("role")), text_of(turn.get("content"))) for turn in found]
    else:
        plain = [(str(turn.get("role")), fill(text_of(turn.get("content")), values))
                 for turn in messages["template"]]  # fmt: skip
    return [{"role": role, "content": text} for role, text in plain]


def _sample(**known: Any) -> dict[str, Any]:
    """A sample with every key that clients expect."""
    nothing = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "cached_tokens": 0}
    plain: dict[str, Any] = {
        "error": None, "finish_reason": "stop", "input": [], "output": [], "model": "", "seed": 0,
        "temperature": 1.0, "top_p": 1.0, "max_completion_tokens": 0, "usage": nothing,
    }  # fmt: skip
    return {**plain, **known}


def _sample_given(sample: Mapping[str, Any]) -> dict[str, Any]:
    text = sample.get("output_text")
    said = [{"role": "assistant", "content": text}] if isinstance(text, str) else []
    return _sample(output=said, model=str(sample.get("model") or ""))
