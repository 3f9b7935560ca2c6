"""What POST /v1/fine_tuning/jobs takes: the body, its methods and their hyper-parameters."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Auto = Literal["auto"]
Id = Annotated[str, Field(min_length=1, max_length=64)]
MAX_SEED = 2_147_483_647


class Hyperparameters(BaseModel):
    """What a client may set; "auto" is resolved before training."""

    model_config = ConfigDict(extra="forbid")

    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = "auto"
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)] = (
        "auto"
    )


class DpoHyperparameters(Hyperparameters):
    """Those of preference tuning."""

    beta: Auto | Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)] = "auto"


class ReinforcementHyperparameters(Hyperparameters):
    """Those of tuning by reward. compute_multiplier: on the answers tried to each prompt."""

    compute_multiplier: Auto | Annotated[float, Field(gt=1e-5, le=10, allow_inf_nan=False)] = "auto"
    eval_interval: Auto | Annotated[int, Field(ge=1, le=1_000_000)] = "auto"
    eval_samples: Auto | Annotated[int, Field(ge=1, le=1_000_000)] = "auto"
    reasoning_effort: Literal["default", "low", "medium", "high"] = "default"


class Supervised(BaseModel):
    """Learning from answers."""

    hyperparameters: Hyperparameters | None = None


class Dpo(BaseModel):
    """Learning from better and worse answers."""

    hyperparameters: DpoHyperparameters | None = None


class Reinforcement(BaseModel):
    """Learning from what a grader says of the model's own answers."""

    grader: dict[str, Any]
    hyperparameters: ReinforcementHyperparameters | None = None
    response_format: dict[str, Any] | None = None


class Method(BaseModel):
    """How the model learns."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: Reinforcement | None = None


class Wandb(BaseModel):
    """Where numbers also go."""

    project: Annotated[str, Field(min_length=1, max_length=128)]
    name: Annotated[str | None, Field(max_length=128)] = None
    entity: Annotated[str | None, Field(max_length=128)] = None
    tags: Annotated[list[Annotated[str, Field(max_length=64)]] | None, Field(max_length=32)] = None


class Integration(BaseModel):
    """A service that hears of the job."""

    type: Literal["wandb"]
    wandb: Wandb


class JobBody(BaseModel):
    """A job as it is asked for. priority is ours: higher goes first."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: Annotated[str, Field(min_length=1, max_length=256)]
    training_file: Id
    validation_file: Id | None = None
    suffix: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    seed: Annotated[int | None, Field(ge=0, le=MAX_SEED, strict=True)] = None
    integrations: Annotated[list[Integration] | None, Field(max_length=5)] = None
    method: Method | None = None
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None,
        Field(max_length=16),
    ] = None
    hyperparameters: Hyperparameters | None = None
    priority: Annotated[int, Field(ge=-100, le=100)] = 0

    @field_validator("suffix")
    @classmethod
    def _can_stand_in_a_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9._ -]+", value):
            raise ValueError("use letters, digits, dots, dashes and underscores")
        return value

    @field_validator("metadata")
    @classmethod
    def _is_storable(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        return check_metadata(value)


def check_metadata(value: dict[str, str] | None) -> dict[str, str] | None:
    """The pairs, where a database can keep them. Raises ValueError."""
    if value and any("\0" in text for pair in value.items() for text in pair):
        raise ValueError("NUL characters cannot be kept")
    return value


HYPERPARAMETERS: dict[str, type[Hyperparameters]] = {
    "supervised": Hyperparameters,
    "dpo": DpoHyperparameters,
    "reinforcement": ReinforcementHyperparameters,
}
