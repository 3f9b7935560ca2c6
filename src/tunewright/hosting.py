"""Models by name, loaded on first use: what `serve` answers with.

LoRA adapters of one base share it: one base in memory, its adapters mixed in one batch. Models that
were tuned in full, classifiers and embedders have weights of their own; the least used is let go
when there are too many. What a request holds (a TextModel and the like) stays loaded until the
request has let go of it, so that no swap ever takes a model from under an answer.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from tunewright.asking import make_rendering, open_asker
from tunewright.data.render import Rendering
from tunewright.errors import ModelError, RunError
from tunewright.evaluate.predict import Asker, hidden_means, vectors_of
from tunewright.hosted_use import elsewhere_error, is_hosted
from tunewright.model.catalog import resolve_model
from tunewright.model.engine import Engine
from tunewright.model.load import load_base
from tunewright.model.manifest import read_manifest
from tunewright.model.tokenizer import load_tokenizer
from tunewright.records import Example
from tunewright.serve.batches import BatchRunner
from tunewright.serve.text import TextRunner, TextServer
from tunewright.serve.vllm import VllmServer
from tunewright.store import RunFolder, read_json

Kind = Literal["text", "labels", "embedding"]
WRITES = ("generate", "chat", "continue")
LABELS = ("classify", "regress", "tag")
MAX_LOADED = 4
MAX_ADAPTERS = 64
EngineName = Literal["here", "vllm"]
M = TypeVar("M")


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


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class TextModel:
    """How to ask one text model: the runner of its base, and its own adapter and template."""

    runner: TextServer
    rendering: Rendering
    adapter: str | None
    max_new_tokens: int


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LabelModel:
    """A classifier, regressor or tagger; answers are records.Prediction."""

    runner: BatchRunner
    labels: tuple[str, ...]
    task: str
    threshold: Mapping[str, Any] | None = None
    """What `tunewright threshold` found for its run."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class EmbeddingModel:
    """An embedder; answers are vectors of unit length."""

    runner: BatchRunner
    tokenizer: Any

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens that these texts have."""
        return sum(map(len, self.tokenizer(list(texts))["input_ids"]))


@dataclass
class _Loaded:
    """Something in memory, and who holds it. rendering: of an adapter or whole model."""

    runner: TextServer | BatchRunner
    asker: Asker | None = None
    threshold: Mapping[str, Any] | None = None
    tokenizer: Any = None
    adapters: OrderedDict[str, _Adapter] = field(default_factory=OrderedDict)
    held: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)

    @property
    def is_idle(self) -> bool:
        """Nobody holds it or waits for it."""
        return not self.held and self.runner.num_requests == 0


@dataclass
class _Adapter:
    rendering: Rendering
    max_new_tokens: int
    held: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)


def _threshold_of(source: str) -> Mapping[str, Any] | None:
    place = RunFolder(Path(source)).threshold
    return read_json(place) if place.is_file() else None


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
        if is_hosted(source):
            raise elsewhere_error(source)
        raise RunError(f"{source}: this run has no model yet; finish it with --resume")
    if not folder.is_dir():
        return Served(name, source, "embedding" if _is_encoder(source) else "text", 0)
    manifest = read_manifest(folder) or {}
    created = int(folder.stat().st_mtime)
    task = str(manifest.get("task") or "generate")
    is_adapter = (folder / "adapter_config.json").exists()
    if task == "reward":
        raise ModelError(
            f"{source}: a reward model compares answers and is not served; judge pairs with "
            "`tunewright evaluate`, or name it as a grader of objective grpo"
        )
    if task == "embed":
        return Served(name, source, "embedding", created, folder=folder)
    if task in LABELS:
        return Served(name, source, "labels", created, folder=folder)
    base = str((manifest.get("base") or {}).get("reference") or "") if is_adapter else None
    return Served(name, source, "text", created, base or None, folder)


def bases_of(models: Iterable[Served]) -> list[Served]:
    """The untuned bases beneath adapters, which answer from the same memory."""
    bases = dict.fromkeys(model.base for model in models if model.base)
    return [Served(base, base, "text", 0, base=base) for base in bases if base]


def _is_encoder(source: str) -> bool:
    from transformers import AutoConfig

    from tunewright.model.load import find_kind

    where = resolve_model(source)
    return find_kind(AutoConfig.from_pretrained(where.path, local_files_only=True)) == "encoder"


class Hosting:
    """The models of a server. Methods may be called from any thread, and block while loading.

    engine: "here" answers in this process, "vllm" by vLLM. max_adapters: of one base.
    """

    def __init__(
        self,
        models: Sequence[Served],
        *,
        max_loaded: int = MAX_LOADED,
        max_waiting: int = 256,
        max_adapters: int = MAX_ADAPTERS,
        engine: EngineName = "here",
    ) -> None:
        self.models = {model.id: model for model in models}
        self.max_loaded, self.max_waiting = max_loaded, max_waiting
        self.max_adapters, self.engine = max_adapters, engine
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._lock = threading.RLock()
        self._loading: dict[str, threading.Lock] = {}

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

    def open(self, name: str) -> TextModel | LabelModel | EmbeddingModel:
        """A model of any kind, loaded if it is not. Raises KeyError, ModelError."""
        kind = self.find(name).kind
        if kind == "text":
            return self.open_text(name)
        return self.open_labels(name) if kind == "labels" else self.open_embedding(name)

    def open_text(self, name: str) -> TextModel:
        """A text model, loaded if it is not. Raises KeyError, ModelError."""
        model = self.find(name, "text")
        if model.base:
            key = f"base:{model.base}"
            take = self._take_adapter
        else:
            key, take = model.source, self._take_whole
        while True:
            with self._lock:
                taken = take(key, model)
            if taken is not None:
                return taken
            self._load_text(key, model)

    def open_labels(self, name: str) -> LabelModel:
        """A classifier, loaded if it is not. Raises KeyError, ModelError."""
        model = self.find(name, "labels")

        def load() -> _Loaded:
            asker = open_asker(model.source)
            runner = BatchRunner(_labeller(asker), max_waiting=16 * self.max_waiting)
            return _Loaded(runner, asker, _threshold_of(model.source))

        def take(loaded: _Loaded) -> LabelModel:
            assert isinstance(loaded.runner, BatchRunner) and loaded.asker is not None
            how = loaded.asker.rendering
            return LabelModel(loaded.runner, how.labels, how.task, loaded.threshold)

        return self._open(model.source, load, take)

    def open_embedding(self, name: str) -> EmbeddingModel:
        """An embedder: mean of the last hidden states, unit length. Raises KeyError, ModelError."""
        model = self.find(name, "embedding", "labels")

        def load() -> _Loaded:
            embed, tokenizer = _embedder(model)
            runner = BatchRunner(embed, max_waiting=16 * self.max_waiting)
            return _Loaded(runner, tokenizer=tokenizer)

        def take(loaded: _Loaded) -> EmbeddingModel:
            assert isinstance(loaded.runner, BatchRunner)
            return EmbeddingModel(loaded.runner, loaded.tokenizer)

        return self._open(f"embedding:{model.source}", load, take)

    @property
    def num_requests(self) -> int:
        """Text requests that wait or are under way."""
        with self._lock:
            runners = [loaded.runner for loaded in self._loaded.values()]
        return sum(r.num_requests for r in runners if not isinstance(r, BatchRunner))

    @property
    def in_memory(self) -> dict[str, tuple[str, ...]]:
        """What is loaded now: bases and models, each with its adapters; the least used first."""
        with self._lock:
            return {key: tuple(loaded.adapters) for key, loaded in self._loaded.items()}

    def close(self) -> None:
        """Stop every runner."""
        with self._lock:
            loaded = list(self._loaded.values())
            self._loaded.clear()
        for item in loaded:
            item.runner.close()

    def _open(self, key: str, load: Callable[[], _Loaded], take: Callable[[_Loaded], M]) -> M:
        while True:
            with self._lock:
                loaded = self._use(key)
                if loaded is not None:
                    taken = take(loaded)
                    loaded.held.add(taken)
                    return taken
            self._load(key, load)

    def _use(self, key: str) -> _Loaded | None:
        loaded = self._loaded.get(key)
        if loaded is not None:
            self._loaded.move_to_end(key)
        return loaded

    def _take_whole(self, key: str, model: Served) -> TextModel | None:
        loaded = self._use(key)
        if loaded is None:
            return None
        assert loaded.asker is not None and not isinstance(loaded.runner, BatchRunner)
        how = loaded.asker.rendering
        taken = TextModel(loaded.runner, how, None, loaded.asker.max_new_tokens)
        loaded.held.add(taken)
        return taken

    def _take_adapter(self, key: str, model: Served) -> TextModel | None:
        loaded = self._use(key)
        adapter = loaded.adapters.get(model.source) if loaded else None
        if loaded is None or adapter is None:
            return None
        assert not isinstance(loaded.runner, BatchRunner)
        loaded.adapters.move_to_end(model.source)
        name = model.source if model.folder else None
        taken = TextModel(loaded.runner, adapter.rendering, name, adapter.max_new_tokens)
        loaded.held.add(taken)
        adapter.held.add(taken)
        return taken

    def _load_text(self, key: str, model: Served) -> None:
        """Load a whole model, or the base and then the adapter; others are served meanwhile."""
        self._load(key, lambda: self._text_runner(model))
        if not model.base:
            return
        with self._door(key), self._lock:
            loaded = self._loaded.get(key)
        if loaded is None:  # let go again meanwhile: the caller comes back
            return
        with self._door(key):
            if model.source not in loaded.adapters:
                adapter = self._add_adapter(loaded, model)
                with self._lock:
                    loaded.adapters[model.source] = adapter

    def _load(self, key: str, load: Callable[[], _Loaded]) -> None:
        with self._door(key):
            with self._lock:
                if key in self._loaded:
                    return
            loaded = load()
            with self._lock:
                self._loaded[key] = loaded
                idle = self._let_go(key)
            for other in idle:
                other.runner.close()

    def _door(self, key: str) -> threading.Lock:
        """Behind it, one thread loads for this key."""
        with self._lock:
            return self._loading.setdefault(key, threading.Lock())

    def _let_go(self, kept: str) -> list[_Loaded]:
        """Take the least used out that nobody holds, until there are few enough."""
        gone = []
        for key in list(self._loaded):
            if len(self._loaded) <= self.max_loaded:
                break
            if key != kept and self._loaded[key].is_idle:
                gone.append(self._loaded.pop(key))
        return gone

    def _text_runner(self, model: Served) -> _Loaded:
        if self.engine == "vllm":
            path = resolve_model(model.base or model.source).path
            return _Loaded(VllmServer(path, max_waiting=self.max_waiting))
        if model.base:
            base = load_base(model.base, task="generate")
            return _Loaded(TextRunner(Engine(base), max_waiting=self.max_waiting))
        asker = open_asker(model.source)
        return _Loaded(TextRunner(Engine(asker.base), max_waiting=self.max_waiting), asker)

    def _add_adapter(self, loaded: _Loaded, model: Served) -> _Adapter:
        assert not isinstance(loaded.runner, BatchRunner)
        if model.folder is None:
            return self._bare_base(loaded, model)
        manifest = read_manifest(model.folder) or {}
        source = resolve_model(str(model.folder))
        wanted = (manifest.get("base") or {}).get("sha256")
        if source.base and wanted and source.base.sha256 != wanted:
            raise ModelError(
                f"model {model.id!r}: trained on a base with sha256 {wanted}, but "
                f"{source.base.path} has {source.base.sha256}; restore that base"
            )
        self._make_room(loaded)
        loaded.runner.add_adapter(model.source, model.folder)
        tokenizer, is_default = load_tokenizer(source, "decoder", False)
        manifest.setdefault("default_template", is_default)
        base = loaded.runner.engine.base if isinstance(loaded.runner, TextRunner) else None
        rendering = make_rendering(
            tokenizer, manifest, base, task=str(manifest.get("task") or "chat")
        )
        return _Adapter(rendering, int(manifest.get("max_new_tokens") or 256))

    def _bare_base(self, loaded: _Loaded, model: Served) -> _Adapter:
        """A base without an adapter, asked as a model that nobody tuned."""
        tokenizer, is_default = load_tokenizer(resolve_model(model.source), "decoder", False)
        base = loaded.runner.engine.base if isinstance(loaded.runner, TextRunner) else None
        manifest = {"default_template": is_default}
        return _Adapter(make_rendering(tokenizer, manifest, base, task="chat"), 256)

    def _make_room(self, loaded: _Loaded) -> None:
        """Let the least used adapters go that nobody holds."""
        assert not isinstance(loaded.runner, BatchRunner)
        for name in list(loaded.adapters):
            if len(loaded.adapters) < self.max_adapters:
                return
            with self._lock:
                if loaded.adapters[name].held:
                    continue
                adapter = loaded.adapters.pop(name)
            try:
                loaded.runner.drop_adapter(name)
            except ModelError:  # a cancelled row follows it for one step more
                with self._lock:
                    loaded.adapters[name] = adapter


def _labeller(asker: Asker) -> Any:
    def answer(texts: Sequence[str]) -> Sequence[Any]:
        examples = [
            Example(id=str(number), place="request", input=text)
            for number, text in enumerate(texts)
        ]
        return asker.predict(examples, system="served", split="served")

    return answer


def _embedder(model: Served) -> tuple[Any, Any]:
    """(what turns texts into vectors, its tokenizer)."""
    import numpy as np

    if model.folder is not None and (read_manifest(model.folder) or {}).get("task") == "embed":
        asker = open_asker(model.source)
        prompt = asker.rendering.prompts[0]

        def embed(texts: Sequence[str]) -> Sequence[Any]:
            return list(vectors_of(asker, [prompt + text for text in texts]))

        return embed, asker.base.tokenizer
    base = load_base(model.source, task=None) if model.folder is None else open_asker(
        model.source
    ).base  # fmt: skip
    longest = min(512, int(getattr(base.plain.config, "max_position_embeddings", 512)))

    def answer(texts: Sequence[str]) -> Sequence[Any]:
        means = hidden_means(base, texts, longest)
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        return list(means / np.maximum(lengths, 1e-12))

    return answer, base.tokenizer
