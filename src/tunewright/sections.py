"""Sections of the recipe: what can be set, with default, range and meaning. Imported without torch.

A field is documented once, under the field. config.py puts the sections together and reads recipes.
"""

from __future__ import annotations

import difflib
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from tunewright.aims import JudgeSection
from tunewright.methods import Options

Auto = Literal["auto"]
COMPARING = ("dpo", "ipo", "orpo", "simpo", "kto", "reward")
"""Objectives that learn from better and worse answers."""
UNSMOOTHED = ("ipo", "orpo", "kto", "grpo")
"""Objectives whose loss has no place for label smoothing."""
PREFERENCE_OPTIONS = {
    "beta": ("dpo", "ipo", "orpo", "simpo", "kto"),
    "gamma": ("simpo",),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
    "center": ("reward",),
}
Share = Annotated[float, Field(ge=0.0, lt=1.0)]


def is_url(name: str | None) -> bool:
    """True for the address of a server."""
    return bool(name) and str(name).startswith(("http://", "https://"))


PROVIDERS = ("here", "openai", "google")
TAKEN_SYSTEMS = frozenset(
    {
        "tuned", "base", "few_shot", "retrieved", "majority", "mean", "tfidf_linear",
        "nearest_neighbour", "linear_probe", "boosted_trees", "from_scratch", "shorter", "longer",
    }
)  # fmt: skip


def check_provider(value: str) -> str:
    """The name of a provider as it is, a URL without its last slash. Raises ValueError."""
    if value in PROVIDERS:
        return value
    scheme, _, rest = value.partition("://")
    if scheme not in ("http", "https") or not rest.strip("/"):
        near = difflib.get_close_matches(value, PROVIDERS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(PROVIDERS)} or a URL"
        raise ValueError(hint)
    if "@" in rest.partition("/")[0]:
        raise ValueError("leave the key out of the URL; it belongs into the environment")
    if scheme == "http" and not is_loopback(value):
        raise ValueError("use https; a key must not travel in the clear")
    return value.rstrip("/")


def is_loopback(url: str) -> bool:
    """True for a URL of this machine."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class Section(Options):
    """A part of the recipe; frozen, and strict about its keys."""


class Columns(Section):
    """Which columns of the data hold what. Found by themselves where the answer is clear."""

    input: str | None = None
    """The text that goes in (or the prompt)."""
    output: str | None = None
    """What must come out: label, labels, number, spans or completion."""
    messages: str | None = None
    """A conversation: a list of messages."""
    rejected: str | None = None
    """The worse answer of a preference pair; for embed, a text that does not belong."""
    id: str | None = None
    """A column that identifies the row; kept in messages and predictions."""
    weight: str | None = None
    """Weight of the row in the loss."""
    numeric: tuple[str, ...] = ()
    """Number columns that the model reads beside the text."""
    categorical: tuple[str, ...] = ()
    """Category columns that the model reads beside the text."""


class DataSection(Section):
    """Where the rows come from and how they are divided."""

    train: str | None = None
    """csv, tsv, jsonl, json, parquet, arrow, folder, hub id, https URL, or embedded:NAME."""
    validation: Share | str = 0.1
    """A share of the training rows, or a file."""
    test: Share | str = 0.1
    """A share of the training rows, or a file."""
    columns: Columns = Columns()
    group: str | None = None
    """A column whose equal values stay on one side of every split."""
    split_seed: int = 17
    """Changes which rows fall on which side; the row order never does."""
    format: Literal["auto", "csv", "tsv", "jsonl", "json", "parquet", "arrow", "text"] = "auto"
    """The file format, where the name does not tell."""
    label_separator: str | None = None
    """Splits one cell into several labels, "a|b": makes `classify` multi-label."""
    max_rows: int | None = Field(default=None, ge=1)
    """Read no more than this many training rows, chosen by content hash."""
    system_prompt: str | None = None
    """Put before every conversation that has no system message of its own."""
    chat_template: str | None = None
    """A Jinja chat template (or a file with one) in place of the tokenizer's own."""


class PreferenceSection(Section):
    """How answers are compared, for objectives that learn from better and worse ones."""

    beta: Annotated[float, Field(gt=0)] | None = None
    """dpo, ipo, kto: how strongly it is held to where it began (.1). orpo: weight of the comparison
    (.1). simpo: scale of the margin (2)."""
    gamma: Annotated[float, Field(ge=0)] | None = None
    """simpo: by how much the better answer must win (1)."""
    desirable_weight: Annotated[float, Field(ge=0)] | None = None
    """kto: weight of liked answers (1)."""
    undesirable_weight: Annotated[float, Field(ge=0)] | None = None
    """kto: weight of disliked answers (1)."""
    center: Annotated[float, Field(ge=0)] | None = None
    """reward: how strongly the rewards of a pair are held around zero (0; .01 is usual)."""


class EmbeddingSection(Section):
    """How texts become vectors (task embed)."""

    loss: Literal["in_batch", "triplet"] = "in_batch"
    """in_batch: each text must find its own among all of the batch; triplet: by a margin."""
    temperature: float = Field(default=0.05, gt=0, le=10)
    """Cosines are divided by it before the softmax (in_batch)."""
    margin: float = Field(default=0.2, gt=0, le=2)
    """By how much cosine the right text must be nearer than the wrong one (triplet)."""
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    """How token states become one vector; auto: as the base says, else mean (decoders: last)."""
    query_prompt: str = ""
    """Put before every input, as some bases want it ("query: ")."""
    passage_prompt: str = ""
    """Put before every text that is to be found ("passage: ")."""


class TrainingSection(Section):
    """How it is trained."""

    learning_rate: Annotated[float, Field(gt=0, le=10)] | Auto = "auto"
    """Peak learning rate."""
    head_learning_rate: Annotated[float, Field(gt=0, le=10)] | Auto = "auto"
    """Peak learning rate of a freshly made classification head."""
    batch_size: Annotated[int, Field(ge=1)] | Auto = "auto"
    """Rows per optimiser step (per micro-step where gradient_accumulation_steps is a number)."""
    num_epochs: Annotated[float, Field(gt=0, le=10_000)] | Auto = "auto"
    """Passes over the training rows."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many optimiser steps, whatever num_epochs says."""
    max_length: Annotated[int, Field(ge=8)] | Auto = "auto"
    """Longest row in tokens; what is longer is cut, and the loss of target tokens is reported."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the processor has it in hardware."""
    early_stopping_patience: int | None = Field(default=3, ge=1)
    """Evaluations without a better validation score before training ends; null: never."""
    eval_steps: Annotated[int, Field(ge=1)] | Auto = "auto"
    """Optimiser steps between evaluations on validation; auto: about once an epoch."""
    save_interval_s: float = Field(default=300.0, ge=0.0)
    """Most seconds between checkpoints; one is also written at every best evaluation."""
    save_steps: int | None = Field(default=None, ge=1)
    """Also write a checkpoint every this many steps."""
    keep_epochs: int = Field(default=0, ge=0)
    """Checkpoints at the ends of this many last epochs are written and kept."""
    optimizer: Literal["adamw", "adamw_8bit"] | Auto = "auto"
    """adamw_8bit: both moments in 8 bits; auto: that where a quantised base lies on a GPU."""
    weight_decay: float = Field(default=0.01, ge=0.0, le=1.0)
    """Decoupled weight decay on matrices; never on biases and norms."""
    warmup_ratio: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the steps over which the learning rate rises from zero."""
    lr_scheduler: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm; null: never."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] | Auto = "auto"
    """auto: micro-batches are formed by tokens to fit memory."""
    max_batch_tokens: Annotated[int, Field(ge=16)] | Auto = "auto"
    """Most tokens in one micro-batch, padding included."""
    packing: bool = False
    """Join rows into one sequence with attention kept apart; saves padding on mixed lengths."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the target mass spread over all classes or tokens."""
    weighting: Literal["loss", "logits"] = "loss"
    """What row weights do: loss: multiply the row's loss; logits: say how common its class will be
    (classify, one label a row)."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | Auto = "auto"
    """Dropout inside the base; auto: what its config says."""
    neftune_alpha: float | None = Field(default=None, gt=0, le=1000)
    """Strength of random noise on the embeddings in training (NEFTune; 5 is usual); null: none."""
    canaries: int = Field(default=0, ge=0, le=1000)
    """Rows with a random secret planted in training; the report says how far they are memorised."""
    token_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of input tokens hidden at random, anew for each row and epoch (encoders)."""
    pooling: Literal["auto", "mean", "base"] = "auto"
    """How an encoder sums a text up for its head; auto: by the mean where it was made for that."""
    head_init: Literal["auto", "probe", "random"] = "auto"
    """Where a new head starts; auto: from a linear model on the frozen base where there is one."""
    interpolate: Literal["auto", "on", "off"] = "auto"
    """Try weights between start and best on validation; auto: where the head started fitted."""
    temperature: Literal["auto", "off"] = "auto"
    """auto: fit confidences to validation rows by one number, folded into the head (classify)."""
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | Literal["none"] = "none"
    """Decay of an exponential moving average of the weights, which is then what is evaluated."""
    seed: int = 17
    """Every random choice of training follows from this."""
    num_workers: int = Field(default=0, ge=0, le=64)
    """Background processes that prepare batches; never changes the numbers."""
    num_threads: Annotated[int, Field(ge=1)] | Auto = "auto"
    """Processor threads; part of the scope in which resume is exact."""
    activation_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Recompute activations in the backward pass to save memory."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several processes share a model: whole on each (ddp), or in parts (fsdp); see --nproc."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the best there is."""
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    """Where numbers also go, beside steps.jsonl."""

    @field_validator("activation_checkpointing", "interpolate", mode="before")
    @classmethod
    def _yaml_reads_on_as_true(cls, value: Any) -> Any:
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


class BesideSection(Section):
    """One more system to be judged on the same test rows: another run's, or a hosted model."""

    run: str | None = None
    """A finished run folder of the same data: its answers are taken over."""
    system: str = "tuned"
    """Whose answers of that run."""
    provider: str | None = None
    """openai, google or a URL: where the model below is asked."""
    model: str | None = None
    """A hosted model, asked with the task's own prompt."""
    num_few_shot: int = Field(default=0, ge=0, le=64)
    """Training rows put before every question."""
    examples: Literal["drawn", "nearest"] = "drawn"
    """Which ones: the same draw for all, which a provider can cache, or those nearest to each."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.run is None) == (self.model is None):
            raise ValueError("give run, or provider and model")
        if self.model is not None and self.provider is None:
            raise ValueError("give the provider of the model: openai, google or a URL")
        if self.provider is not None:
            check_provider(self.provider)
            if self.provider == "here":
                raise ValueError("a model here is compared as a run of its own: give run")
        return self


class EvaluationSection(Section):
    """How the result is judged."""

    metrics: tuple[str, ...] | Auto = "auto"
    """Metric names; the first is the one that decides. auto: by task."""
    baselines: tuple[str, ...] | Auto = "auto"
    """Baseline names; auto: by task. An empty list compares with the untuned base only."""
    max_new_tokens: Annotated[int, Field(ge=1)] | Auto = "auto"
    """Longest generated answer; auto: the longest reference in training, and a little more."""
    num_few_shot: int = Field(default=4, ge=0)
    """Examples put into the prompts of the baselines few_shot and retrieved."""
    max_rows: int | None = Field(default=None, ge=1)
    """Judge on at most this many test rows, chosen by content hash."""
    judge: JudgeSection = JudgeSection()
    beside: dict[str, BesideSection] = Field(default_factory=dict)
    """Other systems for the same report, by a name of yours: a run, or a hosted model, prompted."""

    @field_validator("beside")
    @classmethod
    def _names_of_their_own(cls, beside: dict[str, BesideSection]) -> dict[str, BesideSection]:
        for name in beside:
            if name in TAKEN_SYSTEMS or not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"{name} cannot be a system's name; take letters and digits")
        return beside


class HostedSection(Section):
    """Tuning elsewhere: what only a hosted provider knows. Keys come from the environment."""

    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Part of the tuned model's name there."""
    learning_rate_multiplier: Annotated[float, Field(gt=0)] | Auto = "auto"
    """OpenAI, Google: factor on the provider's own learning rate."""
    project: str | None = None
    """Google: the project; null: GOOGLE_CLOUD_PROJECT."""
    location: str | None = None
    """Google: the region, us-central1; null: GOOGLE_CLOUD_LOCATION."""
    bucket: str | None = None
    """Google: the storage bucket that the rows go to, gs://NAME/FOLDER."""
    poll_s: float = Field(default=15.0, gt=0, le=3600)
    """Seconds between two looks at the job."""
    patience_s: float = Field(default=900.0, ge=0)
    """Seconds that a busy or silent provider is waited for; then the run ends, resumable."""
    cancel_on_interrupt: bool = False
    """Ctrl-C also cancels the job there; else it goes on, and --resume follows it again."""
    num_parallel: int = Field(default=8, ge=1, le=64)
    """Questions under way at once during evaluation."""


class BudgetSection(Section):
    """Limits that a run must keep."""

    minutes: float | None = Field(default=None, gt=0)
    """Training ends, and is judged, after this long."""
    usd: float | None = Field(default=None, ge=0)
    """Most money."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Most memory; a recipe that needs more is refused."""


NotNegative = Annotated[float, Field(ge=0)]
Doubtful = NotNegative | tuple[NotNegative, NotNegative, NotNegative]


class BusinessOption(Section):
    """One way of answering requests: what it reads and writes, what that costs, how it errs."""

    model: str | None = None
    """Name in the price table, for its token prices; null: tokens cost nothing here."""
    input_tokens: float = Field(default=0.0, ge=0.0)
    """Tokens read per request, prompt and examples included."""
    cached_tokens: float = Field(default=0.0, ge=0.0)
    """Of those, tokens that come from the provider's cache."""
    output_tokens: float = Field(default=0.0, ge=0.0)
    """Tokens written per request."""
    usd_per_request: float = Field(default=0.0, ge=0.0)
    """What a request costs beside tokens: a person's time, a flat fee."""
    usd_per_month: float = Field(default=0.0, ge=0.0)
    """Hosting, whether asked or not."""
    build_usd: float = Field(default=0.0, ge=0.0)
    """What it costs once; the tuned model's own cost is added from the run."""
    error_rate: float | None = Field(default=None, ge=0.0, le=1.0)
    """Share of wrong answers; null: as measured on test under this name."""
    latency_s: float = Field(default=0.0, ge=0.0)
    """Seconds until the answer."""


class BusinessSection(Section):
    """What the answers are worth, and what they cost; read by `benefit` and by every report.

    A figure in doubt may be given as [low, likely, high], ends of a 90 % range.
    """

    requests_per_month: Doubtful | None = None
    """How often the model will be asked."""
    cost_per_error_usd: Doubtful | None = None
    """What one wrong answer costs."""
    error_relevance: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of wrong answers that cost anything."""
    months: int = Field(default=12, ge=1, le=120)
    """How long the model will be used."""
    discount_per_year: float = Field(default=0.08, ge=0.0, le=1.0)
    """What money costs; later savings count less."""
    latency_usd_per_s: float = Field(default=0.0, ge=0.0)
    """What a second less of waiting is worth, per request."""
    price_spread: float = Field(default=0.0, ge=0.0, le=5.0)
    """Share by which prices may turn out lower or higher (90 % range)."""
    instead_of: str = "auto"
    """The system that the tuned model would replace; auto: the cheapest other one."""
    labelled_rows: int | None = Field(default=None, ge=0)
    """Rows that were labelled for this; null: all rows of the run."""
    minutes_per_label: float = Field(default=0.0, ge=0.0)
    """Minutes of a person for one row; 0: the labels were there anyway."""
    usd_per_hour: float = Field(default=0.0, ge=0.0)
    """What an hour of a person costs, for labelling and for people_hours."""
    people_hours: float = Field(default=0.0, ge=0.0)
    """Hours of people beside labelling: setting up, looking at results, releasing."""
    search_usd: float = Field(default=0.0, ge=0.0)
    """Money for pilots and search."""
    evaluation_usd: float = Field(default=0.0, ge=0.0)
    """Money for evaluation beside the run itself: judges, people who read answers."""
    train_usd: float | None = Field(default=None, ge=0.0)
    """Money for the training; null: its hours at the price of the machine."""
    electricity: bool = False
    """Count the energy of the training at the price of a kWh (`kwh` in the prices)."""
    train_kwh: float | None = Field(default=None, ge=0.0)
    """Energy of the training; null: as measured, or as forecast."""
    monitoring_usd_per_month: float = Field(default=0.0, ge=0.0)
    """Money for watching the tuned model."""
    retunes_per_year: Annotated[float, Field(ge=0.0, le=1000.0)] | Auto = 0.0
    """How often it will be tuned again; each costs training, search and evaluation once more.
    auto: as often as `watch` has raised an alarm."""
    prices: str | None = None
    """A file of your own prices (see `docs/benefit.md`)."""
    options: dict[str, BusinessOption] = Field(default_factory=dict)
    """Per system its tokens, prices and errors: `tuned`, a baseline of the run, or another name."""


class WatchSection(Section):
    """How a model in use is watched."""

    batch_size: int = Field(default=50, ge=10, le=10_000)
    """Requests that are looked at together; larger: later, and surer."""
    false_alarms: float = Field(default=0.3, gt=0.0, le=1.0)
    """Chance of any false alarm in 500 batches that limits are set for."""
    rules_off: tuple[str, ...] = ()
    """Rules that stay silent (see docs/watch.md)."""
    most_novel: float = Field(default=0.045, gt=0.0, lt=1.0)
    """Share of unknown requests above which the accuracy estimate is called invalid."""
    review_rows: int = Field(default=100, ge=0)
    """Rows that an alarm sends for review, stratified by confidence."""
    webhook: str | None = None
    """URL to which alarms are posted as JSON."""


class KeepSection(Section):
    """What tuning again keeps of the model before; `retune` fills it in by its strategy."""

    ewc: float = Field(default=0.0, ge=0.0)
    """Strength with which weights that keep.rows depend on are held near their start."""
    rows: str | None = None
    """JSONL of old rows (input, output) that keep.ewc looks at."""
    model: str | None = None
    """A tuned model of the same base, merged with the new one at the end (classify, regress)."""
    merge: Literal["linear", "ties", "dare"] = "linear"
    """How changes are added: weighted; the largest that agree; thinned at random."""
    density: float = Field(default=0.5, gt=0.0, le=1.0)
    """Share of the changes that ties and dare keep."""


class RetuneSection(Section):
    """When and how a model is tuned again."""

    retune_usd: float | None = Field(default=None, ge=0.0)
    """What tuning again costs; null: business.train_usd and evaluation_usd."""
    threshold: float = Field(default=1.0, gt=0.0)
    """Tuned again when errors have cost this many times retune_usd."""
    cooldown_hours: float = Field(default=24.0, ge=0.0)
    """Hours between two tunings, at least."""
    every_days: float | None = Field(default=None, gt=0.0)
    """Also tune again after so many days."""
    strategy: Literal["base", "continue", "ewc", "merge"] = "base"
    """base: from the base on old and new rows; continue: from the tuned weights, with replay; ewc:
    the same, weights that old rows depend on held; merge: from the base on replay and new rows,
    then merged with the tuned model."""
    ewc: float = Field(default=100.0, gt=0.0)
    """Strength of strategy ewc; what does well differs much from task to task."""
    merge: Literal["linear", "ties", "dare"] = "linear"
    """How strategy merge adds up what the two models learned."""
    replay: Annotated[float, Field(ge=0.0, le=1.0)] | Auto = "auto"
    """Old rows kept, as a share of all old rows; auto: all of them for base, else 10 %."""
    model_labels: float = Field(default=0.2, ge=0.0, le=1.0)
    """Most rows with labels made by a model, as a share of the new rows."""
    holdout: Share = 0.2
    """Share of the new rows that is never trained on, and judges the update."""
    margin: float = Field(default=0.03, gt=0.0, lt=1.0)
    """Loss on an old task that is too much for promotion."""
    ability_margin: Annotated[float, Field(gt=0.0)] | None = None
    """Loss on the probe of general ability (share of texts, or nats a token) that is too much for
    promotion; null: it is told and closes nothing."""
    least_rows: int = Field(default=50, ge=10)
    """auto: new rows with a label that must have come before it tunes again."""
    shadow_rows: int = Field(default=500, ge=0)
    """auto: newest requests that the new model answers, for nobody, before it may answer users."""
    canary_share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """auto: share of the requests that the new model answers at first; 0: all at once."""
    canary_requests: int = Field(default=200, ge=1)
    """auto: requests that a canary must have answered well before it takes all."""
