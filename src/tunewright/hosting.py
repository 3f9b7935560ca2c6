"""Models by name, loaded on first use: what `serve` answers with.

LoRA adapters of one base share it: one base in memory, its adapters mixed in one batch. Models that
were tuned in full, classifiers and embedders have weights of their own; the least used is let go
when there are too many.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tunewright.asking import make_rendering, open_asker
from tunewright.data.render import Rendering
from tunewright.errors import ModelError, RunError
from tunewright.evaluate.predict import Asker, hidden_means
from tunewright.model.catalog import resolve_model
from tunewright.model.engine import Engine
from tunewright.model.load import load_base
from tunewright.model.tokenizer import load_tokenizer
from tunewright.model.weights import read_manifest
from tunewright.records import Example
from tunewright.serve.batches import BatchRunner
from tunewright.serve.text import TextRunner
from tunewright.store import RunFolder

Kind = Literal["text", "labels", "embedding"]
WRITES = ("generate", "chat", "continue")
LABELS = ("classify", "regress", "tag")
MAX_LOADED = 4
MAX_ADAPTERS = 64


@dataclass(frozen=True, slots=True)
class Served:
    """A model that can be asked for by its id.

    source: run folder, model folder or hub id. base: what an adapter sits on, else None.
    """

    id: str
    source: str
    kind: Kind
    created_at: int
    base: str | None = None
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class TextModel:
    """How to ask one text model: the runner of its base, and its own adapter and template."""

    runner: TextRunner
    rendering: Rendering
    adapter: str | None
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class LabelModel:
    """A classifier, regressor or tagger; answers are records.Prediction."""

    runner: BatchRunner
    labels: tuple[str, ...]
    task: str


def find_served(sources: Iterable[str]) -> list[Served]:
    """What there is behind run folders, model folders and hub ids. No weights are loaded.

    Raises RunError for a run without a model, ModelError for what is no model.
    """
    return [_find_one(source) for source in sources]


def _find_one(source: str) -> Served:
    path = Path(source)
    name = path.resolve().name if path.exists() else source
    folder = RunFolder(path).model if (path / "model").is_dir() else path
    if path.is_dir() and (path / "recipe.yaml").exists() and not (path / "model").is_dir():
        raise RunError(f"{source}: this run has no model yet; finish it with --resume")
    if not folder.is_dir():
        return Served(name, source, "embedding" if _is_encoder(source) else "text", 0)
    manifest = read_manifest(folder) or {}
    created = int(folder.stat().st_mtime)
    task = str(manifest.get("task") or "generate")
    is_adapter = (folder / "adapter_config.json").exists()
    if task in LABELS:
        return Served(name, source, "labels", created, folder=folder)
    base = str((manifest.get("base") or {}).get("reference") or "") if is_adapter else None
    return Served(name, source, "text", created, base or None, folder)


def _is_encoder(source: str) -> bool:
    from transformers import AutoConfig

    from tunewright.model.load import find_kind

    where = resolve_model(source)
    return find_kind(AutoConfig.from_pretrained(where.path, local_files_only=True)) == "encoder"


class Hosting:
    """The models of a server. Methods may be called from any thread, and block while loading."""

    def __init__(
        self, models: Sequence[Served], *, max_loaded: int = MAX_LOADED, max_waiting: int = 256
    ) -> None:
        self.models = {model.id: model for model in models}
        self.max_loaded, self.max_waiting = max_loaded, max_waiting
        self._runners: OrderedDict[str, TextRunner | BatchRunner] = OrderedDict()
        self._askers: dict[str, Asker] = {}
        self._adapters: dict[str, OrderedDict[str, Rendering]] = {}
        self._lock = threading.RLock()

    def add(self, model: Served) -> None:
        """Offer one more model."""
        with self._lock:
            self.models[model.id] = model

    def remove(self, name: str) -> Served | None:
        """Offer a model no longer; requests under way go on."""
        with self._lock:
            return self.models.pop(name, None)

    def find(self, name: str, *kinds: Kind) -> Served:
        """The model of that id. Raises KeyError when there is none, ModelError for another kind."""
        model = self.models[name]
        if kinds and model.kind not in kinds:
            raise ModelError(f"model {name!r}: is a {model.kind} model, not {' or '.join(kinds)}")
        return model

    def open_text(self, name: str) -> TextModel:
        """A text model, loaded if it is not. Raises KeyError, ModelError."""
        model = self.find(name, "text")
        with self._lock:
            return self._with_adapter(model) if model.base else self._whole(model)

    def open_labels(self, name: str) -> LabelModel:
        """A classifier, loaded if it is not. Raises KeyError, ModelError."""
        model = self.find(name, "labels")
        with self._lock:
            key = model.source
            if key not in self._runners:
                asker = self._askers[key] = open_asker(model.source)
                self._keep(key, BatchRunner(_labeller(asker), max_waiting=16 * self.max_waiting))
            runner = self._use(key)
            assert isinstance(runner, BatchRunner)
            how = self._askers[key].rendering
            return LabelModel(runner, how.labels, how.task)

    def open_embedding(self, name: str) -> BatchRunner:
        """An embedder: mean of the last hidden states, unit length. Raises KeyError, ModelError."""
        model = self.find(name, "embedding", "labels")
        with self._lock:
            key = f"embedding:{model.source}"
            if key not in self._runners:
                self._keep(key, BatchRunner(_embedder(model), max_waiting=16 * self.max_waiting))
            runner = self._use(key)
            assert isinstance(runner, BatchRunner)
            return runner

    @property
    def num_requests(self) -> int:
        """Text requests that wait or are under way."""
        return sum(r.num_requests for r in self._runners.values() if isinstance(r, TextRunner))

    def close(self) -> None:
        """Stop every runner."""
        with self._lock:
            for runner in self._runners.values():
                runner.close()
            self._runners.clear()

    def _whole(self, model: Served) -> TextModel:
        key = model.source
        if key not in self._runners:
            asker = self._askers[key] = open_asker(model.source)
            self._keep(key, TextRunner(Engine(asker.base), max_waiting=self.max_waiting))
        asker, runner = self._askers[key], self._use(key)
        assert isinstance(runner, TextRunner)
        return TextModel(runner, asker.rendering, None, asker.max_new_tokens)

    def _with_adapter(self, model: Served) -> TextModel:
        assert model.base is not None and model.folder is not None
        key = f"base:{model.base}"
        manifest = read_manifest(model.folder) or {}
        if key not in self._runners:
            base = load_base(model.base, task="generate")
            self._keep(key, TextRunner(Engine(base), max_waiting=self.max_waiting))
            self._adapters[key] = OrderedDict()
        runner = self._use(key)
        assert isinstance(runner, TextRunner)
        adapters = self._adapters[key]
        if model.id not in adapters:
            source = resolve_model(str(model.folder))
            wanted = (manifest.get("base") or {}).get("sha256")
            if source.base and wanted and source.base.sha256 != wanted:
                raise ModelError(
                    f"model {model.id!r}: trained on a base with sha256 {wanted}, but "
                    f"{source.base.path} has {source.base.sha256}; restore that base"
                )
            self._make_room(runner, adapters)
            folder = model.folder
            runner.between_steps(lambda: runner.engine.add_adapter(model.id, folder)).result()
            tokenizer, is_default = load_tokenizer(source, "decoder", False)
            manifest.setdefault("default_template", is_default)
            adapters[model.id] = make_rendering(
                tokenizer, manifest, runner.engine.base, task=str(manifest.get("task") or "chat")
            )
        adapters.move_to_end(model.id)
        most = int(manifest.get("max_new_tokens") or 256)
        return TextModel(runner, adapters[model.id], model.id, most)

    def _make_room(self, runner: TextRunner, adapters: OrderedDict[str, Rendering]) -> None:
        """Let the least used adapter go that no request follows."""
        for name in list(adapters):
            if len(adapters) < MAX_ADAPTERS:
                return
            try:
                runner.between_steps(partial(runner.engine.drop_adapter, name)).result()
            except ModelError:  # in use
                continue
            del adapters[name]

    def _keep(self, key: str, runner: TextRunner | BatchRunner) -> None:
        """Hold a runner, and let the least used idle ones go."""
        self._runners[key] = runner
        for name in list(self._runners):
            if len(self._runners) <= self.max_loaded:
                return
            other = self._runners[name]
            idle = not isinstance(other, TextRunner) or other.num_requests == 0
            if name != key and idle:
                self._runners.pop(name).close()
                self._askers.pop(name, None)
                self._adapters.pop(name, None)

    def _use(self, key: str) -> TextRunner | BatchRunner:
        self._runners.move_to_end(key)
        return self._runners[key]


def _labeller(asker: Asker) -> Any:
    def answer(texts: Sequence[str]) -> Sequence[Any]:
        examples = [
            Example(id=str(number), place="request", input=text)
            for number, text in enumerate(texts)
        ]
        return asker.predict(examples, system="served", split="served")

    return answer


def _embedder(model: Served) -> Any:
    import numpy as np

    base = load_base(model.source, task=None) if model.folder is None else open_asker(
        model.source
    ).base  # fmt: skip
    longest = min(512, int(getattr(base.plain.config, "max_position_embeddings", 512)))

    def answer(texts: Sequence[str]) -> Sequence[Any]:
        means = hidden_means(base, texts, longest)
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        return list(means / np.maximum(lengths, 1e-12))

    return answer
