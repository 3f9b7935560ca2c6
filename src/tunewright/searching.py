"""`search`: recipe keys varied within a budget, in a study that several processes may work on.

Optuna draws the trials and keeps the study in SQLite or PostgreSQL; trials are real trainings on
nested rows, promoted by where their curves lead. Selection is on validation. A trial is counted
when it is drawn, and finished once: killed in between, it goes on from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.config import Knob, Recipe, SearchSection, dump_recipe, with_values
from tunewright.data.prepare import Prepared, prepare
from tunewright.decide.curves import Goal, Point
from tunewright.decide.search import (
    RangeTest,
    TrialRow,
    best_trial,
    find_range,
    goes_on,
    rungs_for,
)
from tunewright.errors import DataError, Interrupted, RecipeError, Refusal, RunError
from tunewright.journal import Journal, silence
from tunewright.methods import METHODS
from tunewright.piloting import pin
from tunewright.records import Derived
from tunewright.sections import UNSMOOTHED
from tunewright.setup import Setup, make_setup
from tunewright.store import to_plain, write_atomic, write_json
from tunewright.train.step import NonFiniteLossError
from tunewright.trial import (
    TrialBook,
    deciding_metric,
    free,
    goal_of,
    nested_order,
    ramp_losses,
    with_rows,
)

if TYPE_CHECKING:
    import optuna

RANGE_STEPS = 60
RANGE_ENDS = (0.01, 100.0)
"""A range test runs from a hundredth of the usual rate to a hundred times it."""
STALE_S = 60.0
"""A trial whose process has not been heard of for so long is taken over."""
ASKED = "asked"
POINTS = "points"
OWNER = "owner"
BEAT = "beat"


@dataclass(frozen=True, slots=True)
class SearchReport:
    """What a study has shown so far. importance: of each knob, adding up to 1."""

    metric: str
    num_rows: int
    rows: tuple[TrialRow, ...]
    best: TrialRow | None
    importance: Mapping[str, float]
    range_test: RangeTest | None
    space: Mapping[str, Knob]
    seconds: float
    test_touched: int
    because: tuple[str, ...]


def search(
    recipe: Recipe,
    folder: Path,
    journal: Journal,
    *,
    minutes: float | None = None,
    usd_per_hour: float | None = None,
    range_test: bool = True,
    judge: bool = False,
) -> SearchReport:
    """Vary what recipe.search.space names (by default rate, batch and rank) within the budget.

    minutes and recipe.budget.usd (at usd_per_hour) end it; what runs then is finished. Several
    processes may call this at once with one storage. Leaves search.json, search.html and
    recipe.yaml with the best settings. judge: train them whole into best/, with the test split,
    which is counted in the study and happens once.
    Raises RecipeError, DataError, RunError, Interrupted (resumable).
    """
    started = time.monotonic()
    section = recipe.search or SearchSection()
    limit_s = _limit_s(recipe, minutes, usd_per_hour)
    folder.mkdir(parents=True, exist_ok=True)
    study_of = _Study(recipe, section, folder, journal)
    if range_test and study_of.test is None and "training.learning_rate" in study_of.space:
        study_of.run_range_test()
    study_of.begin()
    while True:
        spent = time.monotonic() - started
        if limit_s is not None and spent >= limit_s:
            journal.say(f"the budget is spent after {spent / 60:.1f} minutes")
            break
        trial = study_of.claim()
        if trial is None:
            break
        study_of.run(trial, None if limit_s is None else limit_s - spent)
    report = study_of.report(time.monotonic() - started)
    _write(study_of, report)
    if judge:
        study_of.judge(report)
        report = study_of.report(time.monotonic() - started)
        _write(study_of, report)
    return report


def _limit_s(recipe: Recipe, minutes: float | None, usd_per_hour: float | None) -> float | None:
    limits = []
    asked = minutes if minutes is not None else recipe.budget.minutes
    if asked is not None:
        limits.append(60.0 * asked)
    if recipe.budget.usd is not None:
        if usd_per_hour is None:
            raise RecipeError("budget.usd: what this machine costs is not known; --usd-per-hour")
        limits.append(3600.0 * recipe.budget.usd / max(usd_per_hour, 1e-9))
    return min(limits, default=None)


class _Study:
    """One study: its data, its space, its storage, and the trials of this process."""

    def __init__(
        self, recipe: Recipe, section: SearchSection, folder: Path, journal: Journal
    ) -> None:
        self.folder, self.journal, self.section = folder, journal, section
        budget = {"budget.minutes": None, "budget.usd": None, "search": None, "candidates": ()}
        self.recipe = with_values(recipe, budget)
        self.prepared: Prepared = prepare(recipe.data, recipe.task, journal)
        if not self.prepared.splits.validation:
            raise DataError("data.validation is 0: trials are judged on validation; give a share")
        self.order = nested_order(self.prepared.splits.train, recipe.data.split_seed)
        self.metric = deciding_metric(recipe, self.prepared)
        self.goal: Goal = goal_of(self.metric)
        self.book = TrialBook(folder)
        setup = make_setup(self.recipe, with_rows(self.prepared, self.order), journal)
        free(setup.base)
        self.setup: Setup = setup
        searched = set(section.space)
        self.pinned = _pinned(self.recipe, setup, searched)
        self.space = dict(section.space) or _usual_space(setup)
        self.url = section.storage or f"sqlite:///{(folder / 'study.db').resolve()}"
        self.study = self._open()
        self.token = f"{socket.gethostname()}:{os.getpid()}:{_born(os.getpid())}"
        known = self.study.user_attrs.get("range_test")
        self.test: RangeTest | None = _range_from(known) if known else None

    @property
    def num_rows(self) -> int:
        return len(self.order)

    def _open(self) -> optuna.Study:
        """The study in its storage, made at first use. Raises RunError where it cannot be had."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        wait = {"timeout": 60} if self.url.startswith("sqlite") else {}
        try:
            with self._alone():  # two processes that make the tables at once would collide
                storage = optuna.storages.RDBStorage(self.url, engine_kwargs={"connect_args": wait})
                return optuna.create_study(
                    study_name="tunewright", storage=storage, load_if_exists=True,
                    direction="maximize" if self.goal.higher_is_better else "minimize",
                )  # fmt: skip
        except Exception as error:  # drivers raise their own kinds
            line = str(error).strip().splitlines()[0][:200]
            raise RunError(f"{self.url}: the study cannot be opened ({line}); check it") from error

    def run_range_test(self) -> None:
        """Ramp the learning rate over a few dozen steps, and keep what was seen in the study."""
        factors = [
            math.exp(math.log(RANGE_ENDS[0]) + i / (RANGE_STEPS - 1) * math.log(1e4))
            for i in range(RANGE_STEPS)
        ]
        rate = self.setup.recipe.training.learning_rate
        fixed = with_values(self.pinned, {"training.learning_rate": _usual_rate(rate)})
        part = with_rows(self.prepared, self.order[: max(64, self.num_rows // 8)])
        usual, losses = ramp_losses(fixed, part, factors)
        try:
            self.test = find_range([usual * f for f in factors[: len(losses)]], losses)
        except ValueError:
            self.journal.warn("the learning-rate range test blew up at once; it is left out")
            return
        self.study.set_user_attr("range_test", to_plain(asdict(self.test)))
        self.journal.say(
            f"learning rates from {self.test.low:.2g} to {self.test.high:.2g} work, by a ramp of "
            f"{len(losses)} steps"
        )

    def begin(self) -> None:
        """The recipe's own settings are the first trial, the range test's rate the second."""
        with self._alone():
            if self.study.user_attrs.get("begun"):
                return
            usual = {key: _clip(knob, _read(self.setup.recipe, key))
                     for key, knob in self.space.items()}  # fmt: skip
            self.study.enqueue_trial(usual)
            if self.test is not None:
                knob = self.space["training.learning_rate"]
                tried = _clip(knob, math.sqrt(self.test.low * self.test.high))
                self.study.enqueue_trial({**usual, "training.learning_rate": tried})
            self.study.set_user_attr("begun", True)
            self.study.set_user_attr("test_touched", 0)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else draws or takes over a trial meanwhile: a lock in PostgreSQL, or of a file."""
        if self.url.startswith("postgresql"):
            import sqlalchemy

            engine = sqlalchemy.create_engine(self.url)
            try:
                with engine.begin() as connection:
                    connection.execute(sqlalchemy.text("select pg_advisory_xact_lock(741852)"))
                    yield
            finally:
                engine.dispose()
            return
        with open(self.folder / ".claim", "w") as lock:
            _lock(lock)
            yield

    def claim(self) -> optuna.trial.Trial | None:
        """A trial whose process is gone, or a new one; None where all are drawn and living."""
        import optuna

        with self._alone():
            trials = self.study.get_trials(deepcopy=False)
            for frozen in trials:
                if frozen.state.name == "RUNNING" and self._is_orphan(frozen):
                    self.study.sampler = self._sampler(frozen.number)
                    trial = optuna.trial.Trial(self.study, frozen._trial_id)
                    self._own(trial)
                    self.journal.say(f"trial {frozen.number} goes on where it was left")
                    return trial
            drawn = sum(frozen.state.name != "WAITING" for frozen in trials)
            if drawn >= self.section.trials:
                return None
            self.study.sampler = self._sampler(drawn)
            trial = self.study.ask()
            trial.set_user_attr(ASKED, {k: _suggest(trial, k, v) for k, v in self.space.items()})
            self._own(trial)
            return trial

    def _sampler(self, drawn: int) -> optuna.samplers.BaseSampler:
        """Seeded by the trial's number: processes that began together must not draw alike."""
        import optuna

        seed = self.recipe.training.seed + 1009 * drawn
        if self.section.sampler == "tpe":
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=6)
        return optuna.samplers.RandomSampler(seed=seed)

    def _own(self, trial: optuna.trial.Trial) -> None:
        trial.set_user_attr(OWNER, self.token)
        trial.set_user_attr(BEAT, time.time())

    def _is_orphan(self, frozen: optuna.trial.FrozenTrial) -> bool:
        """True for a trial whose process died here, or was not heard of elsewhere for long."""
        host, _, rest = str(frozen.user_attrs.get(OWNER, "::")).partition(":")
        pid, _, born = rest.partition(":")
        if frozen.user_attrs.get(OWNER) == self.token:
            return True
        if host == socket.gethostname() and pid.isdigit():
            return _born(int(pid)) != born
        return time.time() - float(frozen.user_attrs.get(BEAT, 0.0)) > STALE_S

    def run(self, trial: optuna.trial.Trial, left_s: float | None) -> None:
        """One trial from rung to rung until it ends, is overtaken, or fails."""
        params = dict(trial.user_attrs.get(ASKED) or {})
        if set(params) != set(self.space):  # killed between being drawn and written down
            params = {key: _suggest(trial, key, knob) for key, knob in self.space.items()}
            trial.set_user_attr(ASKED, params)
        started = time.monotonic()
        shown = ", ".join(f"{key.split('.')[-1]} {_show(value)}" for key, value in params.items())
        self.journal.say(f"trial {trial.number}: {shown}")
        try:
            with _beating(trial):
                self._climb(trial, params, started, left_s)
        except (Interrupted, KeyboardInterrupt):
            raise
        except (Refusal, NonFiniteLossError, RecipeError) as error:
            trial.set_user_attr("reason", str(error)[:300])
            self._tell(trial, "FAIL", None)
            self.journal.warn(f"trial {trial.number} failed: {error}")

    def _climb(
        self, trial: optuna.trial.Trial, params: Mapping[str, Any], started: float,
        left_s: float | None,
    ) -> None:  # fmt: skip
        recipe = with_values(self.pinned, dict(params))
        points: list[Point] = []
        sizes = rungs_for(self.num_rows, self.section.promotion, trial.number)
        for size in sizes:
            whole = size == self.num_rows
            part = with_rows(self.prepared, self.order[:size])
            made = self.book.run(recipe, part, self.metric, silence(), careful=whole)
            points.append(made.point())
            trial.set_user_attr(POINTS, [[p.num_rows, p.value, p.deviation] for p in points])
            trial.set_user_attr("seconds", time.monotonic() - started)
            trial.report(made.value, size)
            if whole:
                break
            others = [row.points for row in self.rows() if row.number != trial.number]
            next_s = made.seconds * sizes[sizes.index(size) + 1] / size
            broke = left_s is not None and time.monotonic() - started + next_s > left_s
            if broke or not goes_on(points, others, self.goal, self.num_rows):
                why = "the budget" if broke else "overtaken"
                trial.set_user_attr("reason", why)
                self._tell(trial, "PRUNED", None)
                self.journal.say(f"trial {trial.number} ends at {size} rows: {why}")
                return
        self._tell(trial, "COMPLETE", points[-1].value)
        self.journal.say(f"trial {trial.number}: {self.metric} {points[-1].value:.4g}")

    def _tell(self, trial: optuna.trial.Trial, state: str, value: float | None) -> None:
        import optuna

        self.study.tell(trial, value, state=optuna.trial.TrialState[state])

    def rows(self) -> list[TrialRow]:
        """Every trial that was drawn, as plain records."""
        found = []
        for frozen in self.study.get_trials(deepcopy=False):
            if frozen.state.name == "WAITING":
                continue
            attrs = frozen.user_attrs
            points = tuple(Point(int(n), float(v), float(d)) for n, v, d in attrs.get(POINTS, []))
            value = frozen.value if frozen.state.name == "COMPLETE" else None
            params = dict(attrs.get(ASKED) or frozen.params)
            found.append(
                TrialRow(frozen.number, frozen.state.name.lower(), params, points, value,
                         float(attrs.get("seconds", 0.0)))
            )  # fmt: skip
        return found

    def judge(self, report: SearchReport) -> None:
        """Train the best settings whole and touch the test split, once in the life of a study.

        Raises RunError where there is no best yet, or the test split was used by other settings.
        """
        from tunewright.pipeline import train

        if report.best is None:
            raise RunError(f"{self.folder}: no trial was trained whole yet; nothing to judge")
        place, best = self.folder / "best", report.best.number
        with self._alone():
            judged = self.study.user_attrs.get("judged")
            if judged is not None and judged != best:
                raise RunError(
                    f"{self.folder}: the test split was used for trial {judged} and now {best} is "
                    "best; judging again would choose on test. Give new test rows and --dir"
                )
            if judged is None:
                self.study.set_user_attr("judged", best)
                self.study.set_user_attr("test_touched", report.test_touched + 1)
        recipe = with_values(self.recipe, dict(report.best.params))
        train(recipe, place, self.journal, resume=place.exists())

    def report(self, seconds: float) -> SearchReport:
        rows = self.rows()
        best = best_trial(rows, self.goal)
        because = [f"{len(rows)} of {self.section.trials} trials drawn, "
                   f"{sum(row.state == 'complete' for row in rows)} trained whole"]  # fmt: skip
        if best is None:
            because.append("none was trained whole yet; run again with more budget")
        elif best.number == 0:
            because.append("the settings that the recipe came with are the best of them")
        return SearchReport(
            metric=self.metric,
            num_rows=self.num_rows,
            rows=tuple(rows),
            best=best,
            importance=importance(rows, self.space, self.goal, self.num_rows),
            range_test=self.test,
            space=self.space,
            seconds=seconds,
            test_touched=int(self.study.user_attrs.get("test_touched", 0)),
            because=tuple(because),
        )


def _pinned(recipe: Recipe, setup: Setup, searched: set[str]) -> Recipe:
    """The recipe with passes, lengths and adapter settled, but for what is searched."""
    whole = pin(recipe, setup)
    kept = {key: _read(recipe, key) for key in searched}
    return with_values(whole, kept)


def _usual_space(setup: Setup) -> dict[str, Knob]:
    """What matters most by the evidence: learning rate, batch, smoothing, an adapter's rank."""
    training, adapter = setup.recipe.training, setup.recipe.adapter
    rate = _usual_rate(training.learning_rate)
    space = {
        "training.learning_rate": Knob(low=rate / 10, high=min(10.0, rate * 10), log=True),
        "training.batch_size": Knob(choices=(8, 16, 32, 64)),
    }
    if setup.objective not in (*UNSMOOTHED, "regress", "embed"):
        space["training.label_smoothing"] = Knob(choices=(0.0, 0.1))
    if adapter.method in METHODS and "r" in METHODS[adapter.method].takes:
        space["adapter.r"] = Knob(choices=(8, 16, 32, 64))
    return space


def _usual_rate(value: Any) -> float:
    assert isinstance(value, float)
    return value


def _read(recipe: Recipe, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(recipe, section), name)


def _clip(knob: Knob, value: Any) -> Any:
    """The value nearest to this one that the knob may take."""
    if knob.choices:
        if value in knob.choices:
            return value
        numbers = [item for item in knob.choices if isinstance(item, (int, float))]
        if isinstance(value, (int, float)) and numbers:
            return min(numbers, key=lambda item: abs(item - value))
        return knob.choices[0]
    assert knob.low is not None and knob.high is not None
    number = value if isinstance(value, (int, float)) else (knob.low + knob.high) / 2
    number = min(knob.high, max(knob.low, number))
    return round(number) if knob.whole else float(number)


def _suggest(trial: optuna.trial.Trial, key: str, knob: Knob) -> Any:
    if knob.choices:
        return trial.suggest_categorical(key, list(knob.choices))
    assert knob.low is not None and knob.high is not None
    if knob.whole:
        step = int(knob.step or 1)
        return trial.suggest_int(key, int(knob.low), int(knob.high), step=step, log=knob.log)
    return trial.suggest_float(key, knob.low, knob.high, step=knob.step, log=knob.log)


def importance(
    rows: Sequence[TrialRow], space: Mapping[str, Knob], goal: Goal, num_rows: int
) -> dict[str, float]:
    """How much of the spread of scores each knob explains, adding up to 1 (PED-ANOVA, Watanabe et
    al. 2023). Trials that were overtaken count by where their curves lead. {} for too few.
    """
    import warnings

    import optuna

    from tunewright.decide.choose import expected_loss

    known = [row for row in rows if row.points]
    if len(known) < 4:
        return {}
    study = optuna.create_study(direction="minimize")
    for row in known:
        study.add_trial(
            optuna.trial.create_trial(
                params=dict(row.params),
                distributions={key: _distribution(knob) for key, knob in space.items()},
                value=expected_loss(row.points, goal, num_rows),
            )
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {k: float(v) for k, v in optuna.importance.get_param_importances(study).items()}
    except (ValueError, RuntimeError):  # all scores alike
        return {}


def _distribution(knob: Knob) -> Any:
    import optuna

    if knob.choices:
        return optuna.distributions.CategoricalDistribution(list(knob.choices))
    assert knob.low is not None and knob.high is not None
    if knob.whole:
        step = int(knob.step or 1)
        return optuna.distributions.IntDistribution(
            int(knob.low), int(knob.high), log=knob.log, step=step
        )
    return optuna.distributions.FloatDistribution(knob.low, knob.high, log=knob.log, step=knob.step)


@contextlib.contextmanager
def _beating(trial: optuna.trial.Trial) -> Iterator[None]:
    """Says every few seconds that this process lives, for processes on other machines."""
    import threading

    over = threading.Event()

    def beat() -> None:
        while not over.wait(STALE_S / 4):
            with contextlib.suppress(Exception):  # a missed beat is not worth a training
                trial.set_user_attr(BEAT, time.time())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _born(pid: int) -> str:
    """When a process began; "" where there is none: numbers of dead ones come again."""
    import psutil

    try:
        process = psutil.Process(pid)
        dead = process.status() == psutil.STATUS_ZOMBIE
        return "" if dead else f"{process.create_time():.2f}"
    except psutil.Error:
        return ""


def _lock(file: Any) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: one process at a time works on a study there
        return
    fcntl.flock(file, fcntl.LOCK_EX)


def _range_from(values: Mapping[str, Any]) -> RangeTest:
    from tunewright.decide.search import RangePoint

    curve = tuple(RangePoint(float(p["rate"]), float(p["loss"])) for p in values["curve"])
    return RangeTest(values["low"], values["high"], values["steepest"], curve)


def _show(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _write(study: _Study, report: SearchReport) -> None:
    from tunewright.report.search import make_search_page

    document = to_plain(document_of(report))
    write_json(study.folder / "search.json", document)
    write_atomic(study.folder / "search.html", make_search_page(document))
    if report.best is not None:
        chosen = with_values(study.recipe, dict(report.best.params))
        reason = f"trial {report.best.number} of a search: {report.metric} {report.best.value:.4g}"
        derived = [Derived(key, value, reason) for key, value in report.best.params.items()]
        write_atomic(study.folder / "recipe.yaml", dump_recipe(chosen, derived))


def document_of(report: SearchReport) -> dict[str, Any]:
    """What --json prints and search.json holds."""
    goal = goal_of(report.metric)
    return {
        "best": report.best,
        "because": report.because,
        "metric": report.metric,
        "higher_is_better": goal.higher_is_better,
        "num_rows": report.num_rows,
        "importance": report.importance,
        "trials": report.rows,
        "range_test": report.range_test,
        "space": {key: knob.model_dump() for key, knob in report.space.items()},
        "seconds": report.seconds,
        "test_touched": report.test_touched,
    }
