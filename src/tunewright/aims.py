"""What objectives beyond plain answers can be told: a teacher to learn from, graders to please.

Sections of the recipe, imported without torch; config.py puts them together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tunewright.methods import Options


class DistillSection(Options):
    """Learning from a larger model (objective distill)."""

    teacher: str | None = None
    """A run, folder or hub model; or the URL of an OpenAI-compatible server, http://.../v1."""
    model: str | None = None
    """The model's name on that server."""
    learn: Literal["auto", "logits", "answers"] = "auto"
    """logits: every token's whole distribution; answers: what it writes. auto: logits where it is
    local and has the same tokens."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """Both distributions are softened by it (logits)."""
    weight: float = Field(default=0.5, ge=0, le=1)
    """Share of the teacher's distribution in the loss, beside the row's own answer (logits)."""
    max_new_tokens: int = Field(default=256, ge=1, le=32768)
    """Longest answer of the teacher."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the server's key; may be unset."""


class GraderSection(Options):
    """One grader: how good an answer is, from 0 to 1 (a reward model: any number)."""

    type: Literal[
        "string_check", "text_similarity", "json_schema", "python", "model", "reward", "api"
    ]
    """What it looks at; api: a grader as OpenAI's fine-tuning API writes it."""
    name: str | None = None
    """What its scores are called; null: its type."""
    weight: float = Field(default=1.0, ge=0)
    """Its share beside the other graders."""
    operation: Literal["equals", "contains", "starts_with", "ends_with", "matches"] = "equals"
    """string_check: how the answer must meet the text."""
    reference: str | None = None
    """string_check, text_similarity: the text; null: the row's own answer."""
    ignore_case: bool = False
    """string_check: letters count alike."""
    measure: Literal["token_f1", "rougeL", "chrf"] = "token_f1"
    """text_similarity: what is measured."""
    json_schema: dict[str, Any] | str | None = None
    """json_schema: the schema or its file; null: any JSON."""
    code: str | None = None
    """python: source, or a file, with grade(answer, row) -> number; row has input, output."""
    timeout_s: float = Field(default=2.0, gt=0, le=600)
    """python: processor and clock seconds for one answer."""
    memory_mb: int = Field(default=512, ge=16, le=65536)
    """python: memory of the process."""
    model: str | None = None
    """model: a run, folder, hub model or server URL that judges; reward: a reward model's run."""
    served_model: str | None = None
    """model: its name on that server."""
    question: str = "Is the answer right and helpful?"
    """model: what it is asked; it answers with a number from 0 to 10."""
    grader: dict[str, Any] | None = None
    """api: the grader, with {{item.KEY}} (keys of the row in its JSONL file) and
    {{sample.output_text}}."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        needed = {"python": "code", "model": "model", "reward": "model", "api": "grader"}.get(
            self.type
        )
        if needed and not getattr(self, needed):
            raise ValueError(f"a grader of type {self.type} needs {needed}")
        return self


class JudgeSection(Options):
    """Who judges written answers for the metric `judge`."""

    model: str | None = None
    """A run, folder or hub model that writes, a server's URL, or a reward model's run."""
    served_model: str | None = None
    """Its name on that server."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the server's key; may be unset."""
    people: str | None = None
    """Pairs that people decided (prompt, chosen, rejected): its agreement with them is reported."""


class GrpoSection(Options):
    """Learning from graders (objective grpo)."""

    num_completions: int = Field(default=8, ge=2, le=1024)
    """Answers to each prompt, compared with each other."""
    temperature: float = Field(default=1.0, gt=0, le=10)
    """Of the answers that are tried."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of the probability that answers are drawn from."""
    beta: float = Field(default=0.04, ge=0)
    """How strongly it is held to where it began; 0: not, and no second model is kept in memory."""
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Largest change of a token's probability that one batch of answers may teach."""
    updates: int = Field(default=1, ge=1, le=64)
    """Optimiser updates for each batch of answers."""
    scale: bool = True
    """Divide advantages by the deviation of a group's rewards."""
    loss: Literal["tokens", "answers"] = "tokens"
    """tokens: every token counts alike (DAPO); answers: every answer does (GRPO)."""
