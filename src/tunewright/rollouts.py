"""What objective grpo learns from at each step: answers of the model as it is, and their grades.

Everything follows from the weights and (seed, step), so a resumed run tries the very same answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from tunewright.aims import GrpoSection
from tunewright.data.batch import batches_by_length, make_batch
from tunewright.data.render import Row
from tunewright.evaluate.predict import Graded
from tunewright.model.generate import Answer, generate_answers
from tunewright.model.load import Base, add_tokens, load_base
from tunewright.records import Example
from tunewright.setup import Setup
from tunewright.train.grpo import advantages
from tunewright.train.objectives import target_losses

SCORED_TOKENS = 4096


@dataclass
class Rollouts:
    """Prompts to rows of tried answers. log: takes one line a step. start: where training began."""

    setup: Setup
    base: Base
    graded: Graded
    examples: dict[str, Example]
    pad_id: int
    log: Callable[[dict[str, Any]], None]
    start: nn.Module | None = None

    def __call__(self, prompts: Sequence[Row], step: int) -> list[Row]:
        """Rows of one step: each prompt's answers, and how much better each is than its group."""
        how, asked = self.setup.recipe.grpo, [self.examples[row.id] for row in prompts]
        count = how.num_completions
        ids = [row.input_ids.tolist() for row in prompts for _ in range(count)]
        answers = self._write(ids, how, step)
        repeated = [example for example in asked for _ in range(count)]
        grades = self.graded(repeated, [answer.text.strip() for answer in answers])
        rewards = torch.tensor([g["reward"] for g in grades], dtype=torch.float64)
        gains = advantages(rewards.view(-1, count), scale=how.scale).flatten().tolist()
        rows = [
            self._row(f"{example.id}/{number}", prompt, answer, gain, how)
            for number, (example, prompt, answer, gain) in enumerate(
                zip(repeated, ids, answers, gains, strict=True)
            )
        ]
        self._note(step, rewards, grades, answers)
        return self._with_log_probabilities(rows, how)

    def _write(self, ids: list[list[int]], how: GrpoSection, step: int) -> list[Answer]:
        most = self.setup.recipe.evaluation.max_new_tokens
        assert isinstance(most, int)
        seed = _seed(self.setup.recipe.training.seed, step)
        training = self.base.model.training
        try:
            return generate_answers(
                self.base, ids, max_new_tokens=most, temperature=how.temperature, top_p=how.top_p,
                seed=seed,
            )  # fmt: skip
        finally:
            self.base.model.train(training)

    def _row(
        self, name: str, prompt: list[int], answer: Answer, gain: float, how: GrpoSection
    ) -> Row:
        said = list(answer.ids)
        if answer.finished and self.base.tokenizer.eos_token_id is not None:
            said.append(int(self.base.tokenizer.eos_token_id))
        weights = np.zeros(len(prompt) + len(said), dtype=np.float32)
        weights[len(prompt) :] = 1.0 if how.loss == "tokens" else 1.0 / max(1, len(said))
        ids = np.array([*prompt, *said], dtype=np.int32)
        return Row(name, ids, weights, advantage=gain)

    def _with_log_probabilities(self, rows: list[Row], how: GrpoSection) -> list[Row]:
        """The rows with what the model thinks of each token now, and thought when it began.

        The first is only needed where one batch of answers teaches several updates.
        """
        if how.updates > 1:
            now = self._log_probabilities(self.base.model, rows)
            rows = [replace(row, before=part) for row, part in zip(rows, now, strict=True)]
        if self.start is not None:
            then = self._log_probabilities(self.start, rows)
            rows = [replace(row, start=part) for row, part in zip(rows, then, strict=True)]
        return rows

    def _log_probabilities(self, model: nn.Module, rows: list[Row]) -> list[Any]:
        training, done = model.training, [np.zeros(0, dtype=np.float32)] * len(rows)
        model.eval()
        for part in batches_by_length(rows, SCORED_TOKENS):
            chosen = [rows[i] for i in part]
            batch = make_batch(chosen, pad_id=self.pad_id, device=self.base.device)
            with torch.no_grad():
                logps_N = -target_losses(model, batch).float().cpu()
            counts = [int(np.count_nonzero(row.target_weights[1:])) for row in chosen]  # type: ignore[index]
            for place, values in zip(part, logps_N.split(counts), strict=True):  # type: ignore[no-untyped-call]
                done[place] = values.numpy()
        model.train(training)
        return done

    def _note(
        self, step: int, rewards: torch.Tensor, grades: Sequence[Any], answers: Sequence[Answer]
    ) -> None:
        names = [name for name in grades[0] if name != "reward"]
        self.log(
            {
                "step": step + 1,
                "reward": float(rewards.mean()),
                "deviation": float(rewards.std()),
                **{name: float(np.mean([g[name] for g in grades])) for name in names},
                "answer_tokens": float(np.mean([len(a.ids) for a in answers])),
                "finished": float(np.mean([a.finished for a in answers])),
            }
        )


def make_rollouts(
    setup: Setup, base: Base, pad_id: int, log: Callable[[dict[str, Any]], None]
) -> Rollouts:
    """What a run of objective grpo asks before each step; it keeps the start where needed."""
    recipe, graded = setup.recipe, setup.graded
    assert graded is not None
    start = None
    if recipe.grpo.beta > 0:
        frozen = load_base(
            recipe.base_model, task=setup.task, device=setup.device, dtype=setup.dtype,
            revision=recipe.base_revision, trust_remote_code=recipe.trust_remote_code,
            quantization=recipe.adapter.held_in, seed=recipe.training.seed,
        )  # fmt: skip
        add_tokens(frozen, recipe.adapter.new_tokens)
        start = frozen.model.eval().requires_grad_(False)
    examples = {e.id: e for e in setup.prepared.splits.train}
    return Rollouts(setup, base, graded, examples, pad_id, log, start)


def _seed(seed: int, step: int) -> int:
    digest = hashlib.sha256(f"rollouts:{seed}:{step}".encode()).digest()
    return int.from_bytes(digest[:6], "little")
