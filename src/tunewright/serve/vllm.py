"""Text answers from vLLM, where it is installed: the other TextServer beside TextRunner.

Thin on purpose: vLLM batches, caches and mixes adapters by itself. Written against the interface
of vLLM 0.11 and later (AsyncLLM); what it cannot do is refused by name.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from tunewright.errors import ModelError
from tunewright.model.engine import Request, Token
from tunewright.model.grammar import Grammar
from tunewright.model.prompt_scores import Scores
from tunewright.serve.text import Busy, Listener

MAX_RANK = 64
MAX_ADAPTERS_IN_BATCH = 16


def check_vllm() -> None:
    """Raise ModelError in one line where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise ModelError(
            "--engine vllm: vLLM is not installed here (pip install vllm, needs a GPU); leave "
            "--engine out to answer in this process"
        )


class VllmServer:
    """One base in vLLM, with adapters beside it. An event loop in a thread of its own drives it."""

    def __init__(self, model: Path, *, max_waiting: int = 256) -> None:
        check_vllm()
        self.model, self.max_waiting = model, max_waiting
        self._numbers, self._adapter_ids = itertools.count(1), itertools.count(1)
        self._adapters: dict[str, Any] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        self._engine: Any
        self._ends: frozenset[int]
        self._limit: int
        self._engine, self._ends, self._limit = self._wait(self._open())

    @property
    def num_requests(self) -> int:
        """Requests that wait or are under way."""
        return len(self._tasks)

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self._ends

    def submit(self, request: Request, listener: Listener) -> int:
        """Queue a request; its tokens go to the listener. Raises Busy and ModelError."""
        self.space(request.prompt, request.max_new_tokens)
        if request.adapter is not None and request.adapter not in self._adapters:
            raise ModelError(f"adapter {request.adapter!r}: not loaded")
        if len(self._tasks) >= self.max_waiting:
            raise Busy(f"{len(self._tasks)} requests are under way already; come back later")
        number = next(self._numbers)

        async def start() -> None:
            task = asyncio.ensure_future(self._answer(number, request, listener))
            self._tasks[number] = task
            task.add_done_callback(lambda _: self._tasks.pop(number, None))

        self._wait(start())
        return number

    def cancel(self, number: int) -> None:
        """End a request; its listener hears of it."""
        task = self._tasks.get(number)
        if task is not None:
            self._loop.call_soon_threadsafe(task.cancel)

    def space(self, prompt: Sequence[int], max_new_tokens: int) -> int:
        """New tokens that fit after a prompt. Raises ModelError when none."""
        if not len(prompt):
            raise ModelError("prompt: empty, no token to start from; give the prompt some text")
        if len(prompt) >= self._limit:
            raise ModelError(f"prompt: {len(prompt)} tokens, the model takes {self._limit}")
        return min(max_new_tokens, self._limit - len(prompt))

    def score(
        self, prompts: Sequence[Sequence[int]], adapter: str | None, tops: int
    ) -> Future[list[Scores]]:
        """How likely the prompts' own tokens are."""

        async def all_of() -> list[Scores]:
            return list(await asyncio.gather(*(self._score(p, adapter, tops) for p in prompts)))

        return asyncio.run_coroutine_threadsafe(all_of(), self._loop)

    def grammar(self, schema: Mapping[str, Any]) -> Grammar:
        """The schema itself: vLLM compiles it."""
        return Grammar(None, json.dumps(schema))

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA adapter beside the others."""
        from vllm.lora.request import LoRARequest

        adapter = LoRARequest(name, next(self._adapter_ids), str(folder.resolve()))
        self._wait(self._engine.add_lora(adapter))
        self._adapters[name] = adapter

    def drop_adapter(self, name: str) -> None:
        """Unload an adapter."""
        adapter = self._adapters.pop(name, None)
        if adapter is not None:
            self._wait(self._engine.remove_lora(adapter.lora_int_id))

    def close(self) -> None:
        """Stop vLLM; requests under way hear "cancelled"."""
        for number in list(self._tasks):
            self.cancel(number)
        self._loop.call_soon_threadsafe(self._engine.shutdown)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self) -> tuple[Any, frozenset[int], int]:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=str(self.model), trust_remote_code=False, enable_lora=True,
                max_loras=MAX_ADAPTERS_IN_BATCH, max_lora_rank=MAX_RANK,
                disable_log_stats=True,
            )
        )  # fmt: skip
        config = engine.model_config
        given = config.hf_config.eos_token_id
        ends = given if isinstance(given, (list, tuple)) else [given]
        return engine, frozenset(n for n in ends if n is not None), int(config.max_model_len)

    async def _answer(self, number: int, request: Request, listener: Listener) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        how = request.sampling
        form = None
        if request.grammar is not None:
            form = StructuredOutputsParams(json=request.grammar.source)
        settings = SamplingParams(
            temperature=how.temperature, top_p=how.top_p, top_k=how.top_k or -1, seed=how.seed,
            frequency_penalty=how.frequency_penalty, presence_penalty=how.presence_penalty,
            logit_bias=dict(how.logit_bias) or None, max_tokens=request.max_new_tokens,
            stop=list(request.stop) or None, logprobs=how.top_logprobs,
            structured_outputs=form, output_kind=RequestOutputKind.DELTA,
        )  # fmt: skip
        ended = "error"
        try:
            stream = self._engine.generate(
                {"prompt_token_ids": list(request.prompt)}, settings, f"r{number}",
                lora_request=self._adapters.get(request.adapter or ""),
            )  # fmt: skip
            async for output in stream:
                part = output.outputs[0]
                tokens = _tokens(number, part, how.top_logprobs)
                for token in tokens:
                    listener(token)
                if tokens and tokens[-1].ended:
                    ended = ""
        except asyncio.CancelledError:
            ended = "cancelled"
            raise
        finally:
            if ended:
                listener(Token(number, -1, 0.0, "", ended, ()))

    async def _score(self, prompt: Sequence[int], adapter: str | None, tops: int) -> Scores:
        from vllm import SamplingParams

        settings = SamplingParams(max_tokens=1, prompt_logprobs=tops)
        last = None
        async for output in self._engine.generate(
            {"prompt_token_ids": list(prompt)}, settings, f"s{next(self._numbers)}",
            lora_request=self._adapters.get(adapter or ""),
        ):  # fmt: skip
            last = output
        assert last is not None
        places = last.prompt_logprobs[1:]
        chosen = [place[token].logprob for token, place in zip(prompt[1:], places, strict=True)]
        return Scores(tuple(chosen), tuple(_best(place, tops) for place in places))


def _tokens(number: int, part: Any, tops: int) -> list[Token]:
    """What one output of vLLM holds: its text goes with the last of its tokens."""
    ended = None
    if part.finish_reason is not None:
        ended = part.finish_reason if part.finish_reason in ("stop", "length") else "error"
    ids = list(part.token_ids)
    if not ids:
        return [Token(number, -1, 0.0, part.text, ended, ())] if part.text or ended else []
    found = []
    for place, token in enumerate(ids):
        likely = part.logprobs[place] if part.logprobs else {}
        logprob = likely[token].logprob if token in likely else 0.0
        is_last = place == len(ids) - 1
        best = _best(likely, tops) if tops else ()
        found.append(
            Token(number, token, logprob, part.text if is_last else "", ended if is_last else None,
                  best)
        )  # fmt: skip
    return found


def _best(place: Mapping[int, Any], tops: int) -> tuple[tuple[int, float], ...]:
    ranked = sorted(place.items(), key=lambda item: -item[1].logprob)
    return tuple((token, value.logprob) for token, value in ranked[:tops])
