"""Code of the user's own that grades answers, in a process that can do little harm.

It runs in an empty folder of its own without our environment, with limits on processor time,
memory, open files, written bytes and processes, and is killed when its time is up. Where the system
allows (Linux with user namespaces) it has no network. It can still read files that the user can:
this guards against accidents, not against an attacker.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.errors import RecipeError

MOST_WRITTEN = 1 << 20
MOST_FILES, MOST_PROCESSES = 32, 64
START_S = 20.0
"""For the process to begin, beside the time of its answers."""
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_WORKER = """
import json, math, signal, sys
job = json.load(sys.stdin)
out = sys.stdout
sys.stdout = sys.stderr
space = {"__name__": "grader"}
def stop(number, frame):
    raise TimeoutError
def note(value, error=None):
    out.write(json.dumps([value, error]) + "\\n")
    out.flush()
try:
    exec(compile(job["code"], "grader", "exec"), space)
    grade = space["grade"]
except BaseException as error:
    note(None, "%s: %s" % (type(error).__name__, error))
    sys.exit(0)
signal.signal(signal.SIGALRM, stop)
for answer, row in job["items"]:
    signal.setitimer(signal.ITIMER_REAL, job["timeout_s"])
    try:
        value = float(grade(answer, row))
        note(value if math.isfinite(value) else 0.0)
    except BaseException as error:
        note(0.0, "%s: %s" % (type(error).__name__, error))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
"""


def grade_by_code(
    code: str,
    items: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    timeout_s: float,
    memory_mb: int,
) -> list[float]:
    """What grade(answer, row) gives to each item; 0 where it fails, or its time is up.

    Raises RecipeError where the code defines no such function or fails at once.
    """
    scores: list[float] = []
    while len(scores) < len(items):
        rest = items[len(scores) :]
        lines = _run(code, rest, timeout_s, memory_mb)
        if lines and lines[0][0] is None:
            raise RecipeError(f"graders.code: {lines[0][1]}; define grade(answer, row) -> number")
        scores += [float(value) for value, _ in lines]
        if len(lines) < len(rest):  # this answer took the process down with it
            scores.append(0.0)
    return scores


def _run(
    code: str, items: Sequence[tuple[str, Mapping[str, Any]]], timeout_s: float, memory_mb: int
) -> list[list[Any]]:
    """One line per item that was graded before the process ended."""
    job = json.dumps({"code": code, "items": [list(i) for i in items], "timeout_s": timeout_s})
    limit_s = START_S + timeout_s * len(items)
    with tempfile.TemporaryDirectory(prefix="tunewright-grader-") as place:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _WORKER],
            cwd=place, env={"PATH": "/usr/bin:/bin"}, text=True, encoding="utf-8",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True, preexec_fn=_limits(memory_mb, math.ceil(limit_s)),
        )  # fmt: skip
        try:
            out, _ = process.communicate(job, timeout=limit_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            out, _ = process.communicate()
        finally:
            _kill(process)
    return [line for line in map(_read, out.splitlines()) if line is not None]


def _read(line: str) -> list[Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, list) and len(found) == 2 else None


def _kill(process: subprocess.Popen[str]) -> None:
    """End the process with everything that it started."""
    try:
        os.killpg(process.pid, 9)
    except (ProcessLookupError, PermissionError):
        return


def _limits(memory_mb: int, cpu_s: int) -> Any:
    """What the child does before it begins; nothing where the system has no such limits."""
    if sys.platform == "win32":
        return None
    import resource

    limits = [
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, MOST_WRITTEN),
        (resource.RLIMIT_NOFILE, MOST_FILES),
        (resource.RLIMIT_CORE, 0),
    ]
    if sys.platform == "linux":
        limits += [
            (resource.RLIMIT_AS, memory_mb << 20),
            (resource.RLIMIT_NPROC, _processes() + MOST_PROCESSES),
        ]
    library = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def limit() -> None:
        if library is not None:
            library.unshare(_NEW_USER | _NEW_NET)  # without permission it keeps the network
        for kind, most in limits:
            resource.setrlimit(kind, (most, most))

    return limit


def _processes() -> int:
    """Processes of this user now, which the limit counts too."""
    return sum(1 for path in Path("/proc").glob("[0-9]*"))
