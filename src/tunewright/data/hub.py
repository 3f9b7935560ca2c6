"""Data files of a hub repository: listed and downloaded, never executed.

Goes through huggingface_hub, so HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE work as usual.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.data.listing import select, split_names
from tunewright.errors import DataError

HUB_PREFIX = "hf://datasets/"
_HUB_ID = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?(?::(?P<split>[\w.-]+))?"
)


@dataclass(frozen=True, slots=True)
class HubSource:
    """A hub data set: repository, optional revision, split, and path inside it."""

    repo: str
    revision: str | None = None
    split: str | None = None
    path: str = ""


def parse_hub_source(source: str) -> HubSource | None:
    """Read `owner/name[@revision][:split]` or `hf://datasets/owner/name[@revision][/path]`."""
    if source.startswith(HUB_PREFIX):
        rest = source.removeprefix(HUB_PREFIX).strip("/")
        found = re.fullmatch(r"([^/@:]+/[^/@:]+)(?:@([^/:]+))?(?:/([^:]+))?(?::([\w.-]+))?", rest)
        if not found:
            raise DataError(f"{source}: not a hub address; write hf://datasets/owner/name/path")
        repo, revision, path, split = found.groups()
        return HubSource(repo, revision, split, path or "")
    found = _HUB_ID.fullmatch(source)
    if not found:
        return None
    return HubSource(found["repo"], found["revision"], found["split"])


def hub_splits(source: HubSource) -> frozenset[str]:
    """Names of the splits that the repository's data files are named after. Raises DataError."""
    _, names = _list_files(source)
    return split_names(names)


def fetch_hub(source: HubSource, split: str | None) -> list[tuple[Path, str]]:
    """(local copy, name in the repository) of each data file of a split. Raises DataError."""
    revision, names = _list_files(source)
    if source.path in names:
        chosen = [source.path]
    else:
        chosen = select(names, source.repo, source.split or split, remote=True)
    return [(_fetch(source, name, revision), f"{source.repo}/{name}") for name in chosen]


def _list_files(source: HubSource) -> tuple[str | None, list[str]]:
    """The commit and its file names (below source.path); from the local cache when offline."""
    hub = _hub()
    with _naming_hub_errors(source):
        if hub.constants.HF_HUB_OFFLINE:
            folder = Path(
                hub.snapshot_download(
                    source.repo,
                    repo_type="dataset",
                    revision=source.revision,
                    local_files_only=True,
                )
            )
            commit: str | None = folder.name
            names = sorted(
                p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()
            )
        else:
            info = hub.HfApi().dataset_info(source.repo, revision=source.revision)
            commit = info.sha
            names = [sibling.rfilename for sibling in info.siblings or []]
    inside = [n for n in names if n == source.path or n.startswith(f"{source.path}/")]
    if source.path and not inside:
        raise DataError(
            f"{HUB_PREFIX}{source.repo}/{source.path}: no such file in the data set; "
            f"it holds {', '.join(names[:6])}"
        )
    return commit, inside if source.path else names


def _fetch(source: HubSource, name: str, commit: str | None) -> Path:
    """The local copy of one file, asked for by branch name so that the cache serves offline."""
    with _naming_hub_errors(source):
        found = Path(
            _hub().hf_hub_download(source.repo, name, repo_type="dataset", revision=source.revision)
        )
    if commit and commit not in found.parts:
        raise DataError(f"{source.repo}: changed on the hub while it was read; run again")
    return found


def _hub() -> Any:
    """The huggingface_hub module, told to be quiet; imported late because it is slow to load."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import huggingface_hub
    import huggingface_hub.constants
    import huggingface_hub.errors

    return huggingface_hub


@contextmanager
def _naming_hub_errors(source: HubSource) -> Iterator[None]:
    errors: Any = _hub().errors
    # The base classes of the hub's own error are those of its HTTP client, whichever that is.
    failures: tuple[type[Exception], ...] = (OSError, ValueError, *errors.HfHubHTTPError.__bases__)
    place = source.repo + (f"@{source.revision}" if source.revision else "")
    try:
        yield
    except errors.GatedRepoError:
        raise DataError(
            f"{place}: access must be granted on the hub first; ask there, then set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise DataError(f"{place}: no such revision on the hub; check the part after @") from None
    except errors.RepositoryNotFoundError:
        raise DataError(
            f"{source.repo}: no such file or folder here, and no such data set on the hub; check "
            "the name, or set HF_TOKEN if it is private"
        ) from None
    except errors.HFValidationError as error:
        raise DataError(f"{place}: not a data set name ({error}); write owner/name") from None
    except failures as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise DataError(
            f"{place}: no such file or folder here, and the hub does not answer ({reason}); "
            "check the name and the network, or give a local file"
        ) from None
