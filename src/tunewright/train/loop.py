"""The training loop: order, steps, evaluations, checkpoints, early stopping, restore-best.

Resume is exact by construction: rows come in an order that is a pure function of (seed, epoch),
dropout follows from (seed, step), and a checkpoint holds the rest. The claim's scope: the same
processor class, thread count, precision and library versions.
"""

from __future__ import annotations

import hashlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.data.batch import hide_tokens, plan_epoch
from tunewright.data.render import Row
from tunewright.data.row_file import digest_rows, row_lengths
from tunewright.errors import Interrupted, RunError
from tunewright.journal import Journal
from tunewright.model.device import peak_memory
from tunewright.records import StepLog
from tunewright.sections import TrainingSection
from tunewright.train.objectives import Objective, packs_rows
from tunewright.train.optimize import Companion, MasterAdamW, Rates, rate_factor
from tunewright.train.parallel import ALONE, Ranks, check_same
from tunewright.train.resume import Checkpoint, prune
from tunewright.train.sharding import (
    load_checkpoint,
    load_newest,
    save_checkpoint,
    whole_weights,
)
from tunewright.train.step import MicroBatching, StepResult, take_step

MIXES = (0.25, 0.5, 0.75)
"""Shares of the way from the start to the best weights that are tried at the end."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One look at validation. value is the deciding metric, larger is better.

    best: better than every look before, the one at the start included; NaN is never best.
    """

    step: int
    epoch: float
    value: float
    loss: float
    metrics: Mapping[str, float]
    best: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do, fixed before the first step: all of it derived from recipe and data.

    batch_size: rows per optimiser step. max_batch_tokens: most tokens in a micro-batch.
    head_names: parameters that take the head's learning rate.
    """

    batch_size: int
    max_batch_tokens: int
    num_epochs: float
    eval_steps: int
    rates: Rates
    head_names: frozenset[str]
    pad_id: int
    mask_id: int | None = None
    rate_ratios: Mapping[str, float] = field(default_factory=dict)
    """By name, parameters that learn with so many times the rate."""
    companion: Companion | None = None
    """What the adapter's method does after each update."""
    fitted_start: bool = False
    """The start is a model worth having: it is evaluated, and mixed with the best at the end."""
    special_ids: frozenset[int] = frozenset()
    rollout: Callable[[Sequence[Row], int], list[Row]] | None = None
    """Makes what a step learns from out of its rows and its number (objective grpo)."""
    updates: int = 1
    """Updates that one such making serves."""
    minutes: float | None = None
    identity: str = ""
    """Stands for the base's weights and the validation rows: a resumed run must find the same."""

    def total_steps(self, num_rows: int, max_steps: int | None) -> int:
        """Optimiser steps of the whole run."""
        steps = max(1, math.ceil(self.num_epochs * math.ceil(num_rows / self.batch_size)))
        return min(steps, max_steps) if max_steps else steps


@dataclass
class Progress:
    """What changes from step to step beside the weights; saved whole in every checkpoint."""

    step: int = 0
    tokens: int = 0
    target_weight: float = 0.0
    seconds: float = 0.0
    stale: int = 0
    best_step: int | None = None
    best_value: float = -math.inf
    best_loss: float = math.inf
    max_batch_tokens: int = 0
    finished: str = ""
    mix: float = 1.0
    start_value: float = math.nan
    start_loss: float = math.nan
    evaluations: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What training came to. steps are those taken; best_step is where the weights come from.

    weights: fp32, by parameter name; the model itself holds them rounded to its own precision.
    """

    steps: int
    best_step: int
    tokens: int
    seconds: float
    peak_memory_bytes: int
    ended: str
    mix: float
    evaluations: tuple[Evaluation, ...]
    weights: Mapping[str, Tensor]


Evaluate = Callable[[], tuple[float, float, Mapping[str, float]]]
"""Judges the model on validation: (value with larger better, loss, metrics to show)."""


def fit(
    model: nn.Module,
    parameters: Sequence[tuple[str, nn.Parameter]],
    rows: Sequence[Row],
    plan: Plan,
    config: TrainingSection,
    *,
    objective: Objective,
    evaluate: Evaluate | None,
    checkpoints: Path,
    log_step: Callable[[StepLog], None],
    log_evaluation: Callable[[Evaluation], None],
    forget_after: Callable[[int], None],
    journal: Journal,
    resume: bool = False,
    noise: Callable[[], float] = lambda: 0.0,
    ranks: Ranks = ALONE,
) -> Fitted:
    """Train `parameters` of `model` on `rows`; ends with the best weights in the model.

    noise(): standard error of the value that `evaluate` gave last. forget_after(step) is called on
    resume: drop log lines of later steps, they come again. ranks: those that train together; each
    calls `fit` with the same rows and plan, and rank 0 alone writes.
    Raises Interrupted (saved, resumable) on SIGINT or SIGTERM; DiskFull, NonFiniteLossError or
    Refusal.
    """
    run = _Run(model, parameters, rows, plan, config, objective, checkpoints, journal, ranks)
    run.start(resume, forget_after)
    with (
        stop_requests() as stop,
        run.workers(),
        journal.progress("training", run.total_steps) as advance,
    ):
        if evaluate is not None and plan.fitted_start and not run.progress.evaluations:
            run.judge_start(evaluate, log_evaluation)
        while not run.progress.finished:
            run.one_step(log_step, advance)
            stopping, over, due = ranks.any(stop.is_set(), run.out_of_time(), run.save_is_due())
            run.look_around(evaluate, log_evaluation, over=over, save_is_due=due)
            if stopping:
                if not run.progress.finished:
                    run.save()
                raise Interrupted(
                    f"training: stopped at step {run.progress.step} of {run.total_steps} and "
                    "saved; run again with --resume to go on"
                )
    run.restore_best()
    if evaluate is not None and plan.fitted_start:
        run.mix_with_start(evaluate, noise)
    return run.summary()


class _Run:
    """The state of one training run; `fit` reads as its story."""

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[tuple[str, nn.Parameter]],
        rows: Sequence[Row],
        plan: Plan,
        config: TrainingSection,
        objective: Objective,
        checkpoints: Path,
        journal: Journal,
        ranks: Ranks,
    ) -> None:
        self.ranks = ranks
        self.model, self.rows, self.plan, self.config = model, rows, plan, config
        self.objective, self.checkpoints, self.journal = objective, checkpoints, journal
        self.optimizer = MasterAdamW(
            parameters, plan.head_names, plan.rates, config,
            ratios=plan.rate_ratios, companion=plan.companion, sharding=ranks.sharding,
        )  # fmt: skip
        self.lengths = row_lengths(rows)
        self.total_steps = plan.total_steps(len(rows), config.max_steps)
        if plan.companion is not None:
            plan.companion.begin(self.total_steps)
        self.steps_per_epoch = math.ceil(len(rows) / plan.batch_size)
        self.progress = Progress(max_batch_tokens=plan.max_batch_tokens)
        device = parameters[0][1].device
        packed = packs_rows(model, rows[0], config.packing)
        self.cutting = MicroBatching(plan.max_batch_tokens, plan.pad_id, device, packed)
        self.scope = _scope(rows, plan, config, [name for name, _ in parameters])
        check_same(ranks, "data, base model and recipe", self.scope)
        self.last_save = self.resumed_at = time.monotonic()
        self.seconds_before = 0.0
        self.batches: Iterator[list[Row]] = iter(())

    def start(self, resume: bool, forget_after: Callable[[int], None]) -> None:
        checkpoint = load_newest(self.checkpoints, self.journal, self.ranks) if resume else None
        if checkpoint is not None:
            self._take_up(checkpoint)
        if resume:
            # Without a checkpoint nothing stays, the look at step 0 included: it comes again.
            forget_after(self.progress.step if checkpoint is not None else -1)
        self.batches = self._batches_from(self.progress.step)
        self.model.train()

    def judge_start(self, evaluate: Evaluate, log_evaluation: Callable[[Evaluation], None]) -> None:
        """Evaluate before the first step, so that tuning never ends worse than it began.

        The start is kept beside the best of training: patience counts what tuning does.
        """
        self.model.eval()
        value, loss, metrics = self.ranks.tell(evaluate())
        self.model.train()
        self.progress.start_value, self.progress.start_loss = value, loss
        best = not math.isnan(value)
        self._note(Evaluation(0, 0.0, value, loss, dict(metrics), best), log_evaluation)
        self.save()

    @contextmanager
    def workers(self) -> Iterator[None]:
        """Ends the processes that prepare batches, however training ends."""
        try:
            yield
        finally:
            self.batches = iter(())

    def one_step(
        self, log_step: Callable[[StepLog], None], advance: Callable[[float, str], None]
    ) -> None:
        started = time.monotonic()
        step = self.ranks.step = self.progress.step
        self.ranks.stage = "step"
        self.ranks.beat(self.ranks, False)
        factor = rate_factor(step, self.total_steps, self.config)
        rows = next(self.batches)
        if self.plan.rollout is not None:
            rows = self.plan.rollout(rows, step)
        for update in range(self.plan.updates):
            result = take_step(
                self.model,
                rows,
                self.cutting,
                self.optimizer,
                self.objective,
                rate_factor=factor,
                seed=_step_seed(
                    self.config.seed, step + update * self.total_steps, self.ranks.rank
                ),
                label_smoothing=self.config.label_smoothing,
                on_out_of_memory=self._note_smaller,
                ranks=self.ranks,
            )
        self.ranks.stage = "between"
        self._count(result)
        took = time.monotonic() - started
        log_step(self._step_log(result, factor, took))
        advance(self.progress.step, f"loss {result.loss:.3f}")

    def look_around(
        self,
        evaluate: Evaluate | None,
        log_evaluation: Callable[[Evaluation], None],
        *,
        over: bool,
        save_is_due: bool,
    ) -> None:
        """After a step: evaluate, stop or save, each where it is due. over: the time is up."""
        at, plan = self.progress.step, self.plan
        last = at >= self.total_steps or over
        improved = False
        if evaluate is not None and (last or at % plan.eval_steps == 0):
            improved = self._evaluate(evaluate, log_evaluation)
            patience = self.config.early_stopping_patience
            if patience is not None and self.progress.stale >= patience and not last:
                self.progress.finished = f"no better for {patience} evaluations"
        if last and not self.progress.finished:
            self.progress.finished = "the time budget" if over else "all steps taken"
        if improved or self.progress.finished or save_is_due:
            self.save()

    def save(self) -> None:
        """Write a checkpoint; keeps the newest two and the best."""
        state = self._state()
        tensors = self.optimizer.state_tensors()
        save_checkpoint(self.checkpoints, self.progress.step, tensors, state, self.ranks)
        best = self.progress.best_step
        keep = {best} if best is not None else set()
        keep |= self._epoch_ends()
        if self.ranks.is_first:
            prune(self.checkpoints, keep | ({0} if self.plan.fitted_start else set()))
        self.last_save = time.monotonic()

    def restore_best(self) -> None:
        """Put the weights of the best evaluation into the model (the last ones without any)."""
        best = self.progress.best_step
        if best is not None and best != self.progress.step:
            self._load_best(self.checkpoints / f"step-{best:08d}")
        self.optimizer.use_averages()
        self.model.eval()

    def mix_with_start(self, evaluate: Evaluate, noise: Callable[[], float]) -> None:
        """Take the best on validation of weights between the start and the best ones.

        A step back along the line often generalises better than its end, most of all with few
        rows (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", WiSE-FT). Values
        within one standard error of the highest count as equal, and the loss decides: it weighs
        how sure every row is, where a metric of right and wrong sees a row or two.
        """
        try:
            start = load_checkpoint(self.checkpoints / "step-00000000", self.ranks).tensors
        except RunError:
            return
        ends = {name: tensor.clone() for name, tensor in self.optimizer.weights().items()}
        looks = {1.0: self.ranks.tell(evaluate())[:2]}
        spread = self.ranks.tell(noise())
        looks[0.0] = (self.progress.start_value, self.progress.start_loss)
        for share in MIXES:
            self._use_mix(start, ends, share)
            looks[share] = self.ranks.tell(evaluate())[:2]
        chosen = choose_mix(looks, spread)
        self._use_mix(start, ends, chosen)
        self.progress.mix = chosen
        if chosen < 1.0:
            self.journal.say(
                f"{chosen:.0%} of the way from the start does best on validation, and is kept"
            )

    def _use_mix(
        self, start: Mapping[str, Tensor], ends: Mapping[str, Tensor], share: float
    ) -> None:
        mixed = {
            name: torch.lerp(start[f"master.{name}"].to(end.device), end, share)
            for name, end in ends.items()
        }
        self.optimizer.set_weights(mixed)

    def _load_best(self, path: Path) -> None:
        try:
            checkpoint = load_checkpoint(path, self.ranks)
        except RunError as damage:
            # Repeating the run is the user's choice; refusing for ever would lose what there is.
            self.journal.warn(f"{damage}; the weights of the last step are used instead")
            self.progress.best_step = self.progress.step
            return
        self.optimizer.load_state_tensors(checkpoint.tensors, checkpoint.state["updates"])

    def summary(self) -> Fitted:
        progress = self.progress
        return Fitted(
            steps=progress.step,
            best_step=progress.step if progress.best_step is None else progress.best_step,
            tokens=progress.tokens,
            seconds=self._seconds(),
            peak_memory_bytes=peak_memory(self.cutting.device),
            ended=progress.finished,
            mix=progress.mix,
            evaluations=tuple(Evaluation(**item) for item in progress.evaluations),
            weights=whole_weights(self.ranks, self.optimizer.weights()),
        )

    def _evaluate(self, evaluate: Evaluate, log_evaluation: Callable[[Evaluation], None]) -> bool:
        self.optimizer.use_averages()
        self.model.eval()
        value, loss, metrics = self.ranks.tell(evaluate())
        self.model.train()
        self.optimizer.use_masters()
        progress = self.progress
        # NaN compares false with everything, so it is never best; ties go to the lower loss.
        better: bool = value > progress.best_value or (
            value == progress.best_value and loss < progress.best_loss
        )
        if better:
            progress.best_value, progress.best_loss = value, loss
            progress.best_step, progress.stale = progress.step, 0
        else:
            progress.stale += 1
        best = better and not (progress.start_value, -progress.start_loss) > (value, -loss)
        now = Evaluation(progress.step, self._epoch(), value, loss, dict(metrics), best)
        self._note(now, log_evaluation)
        return better

    def _note(self, evaluation: Evaluation, log_evaluation: Callable[[Evaluation], None]) -> None:
        self.progress.evaluations.append(
            {name: getattr(evaluation, name) for name in evaluation.__slots__}
        )
        log_evaluation(evaluation)

    def _batches_from(self, step: int) -> Iterator[list[Row]]:
        """Batches of rows from a step on; the position is computed, never skipped to."""
        if self.config.num_workers == 0:
            return (self._batch_of(at) for at in range(step, self.total_steps))
        loader: Iterator[list[Row]] = iter(
            torch.utils.data.DataLoader(
                _StepBatches(self, step),
                batch_size=None,
                num_workers=self.config.num_workers,
                multiprocessing_context="fork" if hasattr(signal, "SIGKILL") else None,
                worker_init_fn=_leave_signals_to_the_run,
            )
        )
        return loader

    def _batch_of(self, step: int) -> list[Row]:
        epoch, position = divmod(step, self.steps_per_epoch)
        chosen = [self.rows[i] for i in self._epoch_plan(epoch)[position]]
        share, mask_id = self.config.token_dropout, self.plan.mask_id
        if share == 0.0 or mask_id is None:
            return chosen
        special, seed = self.plan.special_ids, self.config.seed
        return [hide_tokens(r, share, mask_id, special, seed=seed, epoch=epoch) for r in chosen]

    def _epoch_plan(self, epoch: int) -> list[Any]:
        if getattr(self, "_planned", None) != epoch:
            self._plan = plan_epoch(
                self.lengths, self.plan.batch_size, seed=self.config.seed, epoch=epoch
            )
            self._planned = epoch
        return self._plan

    def _count(self, result: StepResult) -> None:
        self.progress.step += 1
        self.progress.tokens += result.tokens
        self.progress.target_weight += result.target_weight
        self.progress.max_batch_tokens = self.cutting.max_tokens

    def _step_log(self, result: StepResult, factor: float, took_s: float) -> StepLog:
        return StepLog(
            step=self.progress.step,
            tokens=self.progress.tokens,
            epoch=self._epoch(),
            loss=result.loss,
            learning_rate=self.plan.rates.base * factor,
            grad_norm=result.grad_norm,
            tokens_per_s=result.tokens / max(took_s, 1e-9),
            peak_memory_bytes=peak_memory(self.cutting.device),
            seconds=self._seconds(),
        )

    def _state(self) -> dict[str, Any]:
        self.progress.seconds = self._seconds()
        plain = {name: getattr(self.progress, name) for name in self.progress.__dataclass_fields__}
        return {
            "progress": plain,
            "updates": self.optimizer.updates,
            "scope": self.scope,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    def _take_up(self, checkpoint: Checkpoint) -> None:
        if checkpoint.state["scope"] != self.scope:
            changed = _changed(checkpoint.state["scope"], self.scope)
            raise RunError(
                f"{checkpoint.path}: {changed} changed since this run began; "
                "start a new run in another --run-dir"
            )
        for key, now in (("threads", torch.get_num_threads()), ("torch", torch.__version__)):
            before = checkpoint.state[key]
            if before != now:
                self.journal.warn(
                    f"resume: {key} was {before}, is {now}; the last bits of the result may differ"
                )
        self.progress = Progress(**checkpoint.state["progress"])
        self.cutting.max_tokens = self.progress.max_batch_tokens
        self.seconds_before = self.progress.seconds
        self.optimizer.load_state_tensors(checkpoint.tensors, checkpoint.state["updates"])
        self.journal.say(f"resuming at step {self.progress.step} of {self.total_steps}")

    def _note_smaller(self, max_tokens: int) -> None:
        self.journal.warn(f"out of memory: micro-batches now hold at most {max_tokens} tokens")

    def _epoch(self) -> float:
        return round(self.progress.step / self.steps_per_epoch, 4)

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.resumed_at

    def out_of_time(self) -> bool:
        """True once the minutes of the plan are spent."""
        return self.plan.minutes is not None and self._seconds() >= 60 * self.plan.minutes

    def _epoch_ends(self) -> set[int]:
        """Last steps of the newest epochs that the recipe wants kept."""
        each, wanted = self.steps_per_epoch, self.config.keep_epochs
        whole = self.progress.step // each
        return {epoch * each for epoch in range(max(1, whole - wanted + 1), whole + 1)}

    def save_is_due(self) -> bool:
        """True where enough steps or seconds have gone by, or an epoch that is kept ends."""
        if self.progress.step in self._epoch_ends():
            return True
        every = self.config.save_steps
        if every is not None and self.progress.step % every == 0:
            return True
        return time.monotonic() - self.last_save >= self.config.save_interval_s


def choose_mix(looks: Mapping[float, tuple[float, float]], spread: float) -> float:
    """The share with the lowest loss among those whose value is the highest, or within `spread`.

    looks: (value with larger better, loss) by share of the way from start to end; NaN never wins.
    """
    values = [value for value, _ in looks.values() if not math.isnan(value)]
    if not values:
        return 1.0
    least = max(values) - (spread if math.isfinite(spread) else 0.0)
    equal = [share for share, (value, _) in looks.items() if value >= least]
    losses = {s: math.inf if math.isnan(looks[s][1]) else looks[s][1] for s in equal}
    return min(equal, key=lambda share: (losses[share], -looks[share][0], -share))


class _StepBatches(torch.utils.data.Dataset[list[Row]]):
    """Batches by step number, for worker processes."""

    def __init__(self, run: _Run, first: int) -> None:
        self.run, self.first = run, first

    def __len__(self) -> int:
        return self.run.total_steps - self.first

    def __getitem__(self, index: int) -> list[Row]:
        return self.run._batch_of(self.first + index)


def _leave_signals_to_the_run(worker: int) -> None:
    """Ctrl-C reaches the whole process group; a worker that dies of it would fail the last step."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second SIGINT stops at once. Main thread only."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def ask(number: int, frame: Any) -> None:
        if event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def state_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bytes of tensors: equal exactly when the weights are bit for bit."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        flat = tensors[name].detach().contiguous().cpu().flatten().view(torch.uint8)
        digest.update(flat.numpy().tobytes())
    return digest.hexdigest()


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Of a step's dropout; ranks that share the rows of a step must not share its dice."""
    key = f"step:{seed}:{step}" + (f":{rank}" if rank else "")
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _scope(
    rows: Sequence[Row], plan: Plan, config: TrainingSection, names: Sequence[str]
) -> dict[str, str]:
    """Digests of what must be the same for a resumed run to be the same run."""
    # When to save, on how many threads and with how many helpers does not change the numbers.
    free = {"save_interval_s", "save_steps", "keep_epochs", "parallel"}
    free |= {"num_workers", "num_threads", "trackers", "device"}
    settings = repr(sorted(config.model_dump(exclude=free).items()))
    fixed = repr((plan.batch_size, plan.max_batch_tokens, plan.num_epochs, plan.eval_steps))
    fixed += repr((plan.rates, sorted(plan.head_names), plan.pad_id, plan.mask_id))
    fixed += repr(sorted(plan.rate_ratios.items())) if plan.rate_ratios else ""
    return {
        "the training data": digest_rows(rows),
        "the base model or the validation data": plan.identity,
        "the recipe": hashlib.sha256((settings + fixed).encode()).hexdigest(),
        "the set of trained weights": hashlib.sha256("\n".join(names).encode()).hexdigest(),
    }


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    return " and ".join(name for name in now if before.get(name) != now[name])
