"""One of two hosts is lost in the middle of a run; it goes on with the other.

    python bench/parallel_hosts.py

Hosts are network namespaces on a bridge (needs root); each runs one rank.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT), str(ROOT / "bench")]

from safetensors.torch import load_file  # noqa: E402

from cluster.netns import SHELL, lose, two_hosts, why_not  # noqa: E402
from record import at_most, record  # noqa: E402
from train.whole_command import make_place  # noqa: E402

HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16"
SAME = ["--set=training.num_epochs=20", "--set=training.learning_rate=0.0001",
        '--set=training.interpolate="off"',
        "--set=training.token_dropout=0",
        "--set=training.dropout=0", "--set=training.early_stopping_patience=null",
        '--set=training.temperature="off"']  # fmt: skip


def main() -> None:
    reason = why_not()
    if reason:
        print(f"skipped: {reason}")
        return
    with tempfile.TemporaryDirectory() as place, two_hosts() as hosts:
        folder = Path(place)
        make_place(folder)
        train = [sys.executable, "-m", "tunewright", "train", "recipe.yaml", *SAME, "--run-dir"]
        with open(folder / "out.txt", "w") as output:
            subprocess.run([*train, "one"], cwd=folder, stdout=output, stderr=output, check=True)
            child = subprocess.Popen(
                [*train, "two", "--nproc", "1", "--hosts", hosts, "--remote-shell", SHELL],
                cwd=folder, stdout=output, stderr=output,
            )  # fmt: skip
            wait_for_steps(folder / "two", 1, 2, child)
            time.sleep(1.0)
            lose("tw-b")
            began = time.monotonic()
            wait_for_steps(folder / "two", 2, 1, child)
            recovered_s = time.monotonic() - began
            print(f"went on after {recovered_s:.1f} s", flush=True)
            assert child.wait(600) == 0, (folder / "out.txt").read_text()[-3000:]
        one = load_file(folder / "one" / "model" / "model.safetensors")
        two = load_file(folder / "two" / "model" / "model.safetensors")
        differences = {name: float((one[name] - two[name]).abs().max()) for name in one}
        apart = max(differences.values())
        # The gradient of a key's bias is rounding alone, which Adam makes large; no output sees it.
        felt = max(value for name, value in differences.items() if "key.bias" not in name)
    bars = [
        at_most("one of two hosts lost: goes on after", recovered_s, 60.0, "s"),
        at_most("one of two hosts lost: weights apart, in millionths", apart * 1e6, 1.0),
    ]
    record("parallel_hosts", bars, HARDWARE, {"apart_without_key_biases": felt})


def wait_for_steps(
    run: Path, attempt: int, ranks: int, child: subprocess.Popen[bytes], limit_s: float = 200.0
) -> None:
    """Until all ranks of an attempt take steps."""
    folder = run / ".launch" / f"attempt-{attempt:04d}"
    began = time.monotonic()
    while True:
        beats = []
        for path in folder.glob("rank-*.beat"):
            with suppress(OSError, ValueError):
                beats.append(json.loads(path.read_text()))
        if len(beats) == ranks and all(b["stage"] != "starting" and b["step"] > 0 for b in beats):
            return
        assert child.poll() is None, "the command ended early"
        assert time.monotonic() - began < limit_s, "a hang"
        time.sleep(0.05)


if __name__ == "__main__":
    main()
