"""LoRA SFT side by side with TRL, on the same model, rows and hyper-parameters, A B C A B C ...

python bench/speed_lora.py [15m|135m ...] [--repeats N] [--lengths mixed|2048] [--rows N]
                           [--systems A,B]
Repeats add up over several calls (they lie in the temporary folder), so that a machine need not be
kept quiet for long. A repeat that waited for other processes for more than 5 % of its time is
thrown away.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from record import at_least, at_most, record
from shapes import SHAPES, make_shape

HERE = Path(__file__).parent
PEERS = Path(os.environ.get("TUNEWRIGHT_PEERS", HERE.parent / ".peers")) / "bin" / "python"
HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16"
SCRATCH = Path(tempfile.gettempdir()) / "tunewright-speed"
SETTINGS = {"batch_size": 8, "learning_rate": 2e-4, "r": 16, "alpha": 32, "seed": 17}
MOST_WAITED = 0.05
SYSTEMS = ("tunewright", "shipped", "packed")


def make_rows(vocabulary: int, count: int, lengths: str, seed: int = 0) -> list[dict[str, Any]]:
    """Log-normal lengths with a median of 100 up to 512, half to four fifths of it prompt."""
    stream = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        size = int(np.clip(np.exp(stream.normal(np.log(100), 0.7)), 8, 512))
        size = size if lengths == "mixed" else int(lengths)
        prompt = int(size * stream.uniform(0.5, 0.8))
        rows.append({
            "input_ids": stream.integers(5, vocabulary, size).tolist(),
            "completion_mask": [0] * prompt + [1] * (size - prompt),
        })  # fmt: skip
    return rows


def own_run(model: str, rows_file: str, settings_file: str) -> None:
    """Child process: one measured run of ours through `fit`, as `tunewright train` calls it."""
    import torch

    import tunewright.train.loop as loop
    from tunewright.data.render import Row
    from tunewright.journal import silence
    from tunewright.model.adapters.table import attach, trainable_parameters
    from tunewright.model.device import cap_kernel_caches, keep_freed_memory, peak_memory
    from tunewright.model.load import load_base
    from tunewright.model.speed import make_fast
    from tunewright.sections import TrainingSection
    from tunewright.train.objectives import OBJECTIVES
    from tunewright.train.optimize import Rates

    imported, began = resident_bytes(), time.perf_counter()
    settings = json.loads(Path(settings_file).read_text())
    keep_freed_memory()
    cap_kernel_caches()
    base = load_base(model, task="generate", dtype=torch.bfloat16)
    base = attach(base, "lora", r=settings["r"], alpha=settings["alpha"], seed=settings["seed"])
    for _, parameter in trainable_parameters(base.model):
        parameter.data = parameter.data.to(torch.bfloat16)
    how = make_fast(base.model)
    rows = [
        Row(
            str(n),
            np.array(row["input_ids"], np.int32),
            np.array(row["completion_mask"], np.float32),
        )
        for n, row in enumerate(map(json.loads, Path(rows_file).read_text().splitlines()))
    ]
    plan = loop.Plan(
        batch_size=settings["batch_size"], max_batch_tokens=2048, num_epochs=1.0, eval_steps=10**9,
        rates=Rates(settings["learning_rate"], settings["learning_rate"]),
        head_names=frozenset(), pad_id=0,
    )  # fmt: skip
    steps: list[Any] = []
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        loop.fit(
            base.model, trainable_parameters(base.model), rows, plan,
            TrainingSection(max_length=settings["max_length"], seed=settings["seed"]),
            objective=OBJECTIVES["generate"], evaluate=None, checkpoints=Path(folder),
            log_step=lambda step: (steps.append(step), ends.append(time.perf_counter())),
            log_evaluation=lambda _: None, forget_after=lambda _: None, journal=silence(),
        )  # fmt: skip
    targets = sum(sum(row.target_weights) for row in rows)
    tokens, seconds = steps[-1].tokens - steps[0].tokens, ends[-1] - ends[0]
    print(json.dumps({
        "tokens_per_s": tokens / seconds, "tokens": tokens, "seconds": seconds,
        "steps": len(steps) - 1,
        "target_share": float(targets) / steps[-1].tokens, "how": how,
        "waited_share": waited_share(time.perf_counter() - began),
        "memory_bytes": peak_memory(torch.device("cpu")) - imported,
        "losses": [step.loss for step in steps], "product_flops_per_s": product_rate(base.plain),
        "flops_per_token": flops_per_token(base, float(targets) / steps[-1].tokens),
    }))  # fmt: skip


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def flops_per_token(base: Any, target_share: float) -> float:
    """4 per frozen weight and token, 6 per adapter weight, the head only where a label is."""
    import torch

    adapters = sum(p.numel() for p in base.model.parameters() if p.requires_grad)
    frozen = sum(
        m.weight.numel()
        for n, m in base.plain.named_modules()
        if isinstance(m, torch.nn.Linear) and "lora_" not in n and not n.endswith("lm_head")
    )
    head = base.plain.lm_head.weight.numel()
    return 4.0 * frozen + 6.0 * adapters + 4.0 * head * target_share


def product_rate(plain: Any, tokens: int = 2048) -> float:
    """FLOP/s of one layer's own products, there and back, each at its best of several tries."""
    import torch

    layer = plain.model.layers[0]
    flops = seconds = 0.0
    for name, module in layer.named_modules():
        if not (isinstance(module, torch.nn.Linear) and "lora_" not in name):
            continue
        weight = module.weight.detach()
        there = torch.randn(tokens, weight.shape[1]).to(weight.dtype)
        back = torch.randn(tokens, weight.shape[0]).to(weight.dtype)
        for left, right in ((there, weight.t()), (back, weight)):
            tries = []
            for _ in range(12):
                started = time.perf_counter()
                left @ right
                tries.append(time.perf_counter() - started)
            flops += 2.0 * tokens * weight.numel()
            seconds += min(tries)
    return flops / seconds


def run_once(system: str, folder: Path, model: Path, settings: dict[str, Any]) -> dict[str, Any]:
    path = folder / "settings.json"
    path.write_text(json.dumps({**SETTINGS, **settings, "variant": system}))
    arguments = [str(model), str(folder / "rows.jsonl"), str(path)]
    command = (
        [sys.executable, __file__, "--child", *arguments]
        if system == "tunewright"
        else [str(PEERS), str(HERE / "peers" / "sft.py"), *arguments]
    )
    threads = str(len(os.sched_getaffinity(0)))
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": threads}
    )
    if done.returncode:
        raise SystemExit(f"{system}: {done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def waited_share(seconds: float) -> float:
    """Share of the processors' time that this process wanted and others had (Linux)."""
    waits = [int(p.read_text().split()[1]) for p in Path("/proc/self/task").glob("*/schedstat")]
    return sum(waits) / 1e9 / (seconds * len(os.sched_getaffinity(0)))


def measure(shape: str, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Runs of every system, added to those of earlier calls."""
    folder = SCRATCH / f"{shape}-{options.lengths}-{options.rows}"
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / shape
    if not (model / "config.json").exists():
        import torch
        import transformers

        make_shape(shape, folder)
        whole = transformers.LlamaForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
        whole.save_pretrained(model)  # published checkpoints are bf16
    rows = make_rows(SHAPES[shape]["vocab_size"], options.rows, options.lengths)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"max_length": 512 if options.lengths == "mixed" else int(options.lengths)}
    kept = folder / "runs.json"
    runs = json.loads(kept.read_text()) if kept.exists() else {}
    for _ in range(options.repeats):
        for system in options.systems.split(",") if options.systems else SYSTEMS:
            result = run_once(system, folder, model, settings)
            shown = {
                k: v
                for k, v in result.items()
                if k
                in (
                    "tokens_per_s",
                    "memory_bytes",
                    "waited_share",
                    "product_flops_per_s",
                    "seconds",
                )
            }
            print(shape, system, json.dumps(shown), flush=True)
            if result["waited_share"] <= MOST_WAITED:
                runs.setdefault(system, []).append(result)
        kept.write_text(json.dumps(runs))
    return runs


def conclude(
    shape: str, options: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]
) -> None:
    middle = {s: median(r["tokens_per_s"] for r in found) for s, found in runs.items()}
    memory = {s: median(r["memory_bytes"] for r in found) for s, found in runs.items()}
    ours = runs["tunewright"]
    best = max((s for s in middle if s not in ("tunewright", "shipped")), key=middle.__getitem__)
    share = median(
        r["tokens_per_s"] * r["flops_per_token"] / r["product_flops_per_s"] for r in ours
    )
    where = f"{shape}, {options.lengths} lengths"
    bars = [
        at_least(f"{where}: real tokens/s against TRL as shipped",
                 middle["tunewright"] / middle["shipped"], 5.0, "x"),
        at_least(f"{where}: real tokens/s against TRL at its best ({best})",
                 middle["tunewright"] / middle[best], 2.5, "x"),
    ]  # fmt: skip
    if shape == "135m":
        bars += [
            at_least(f"{where}: share of the measured product rate", share, 0.6),
            at_most(f"{where}: peak memory against TRL as shipped",
                    memory["tunewright"] / memory["shipped"], 0.6, "x"),
        ]  # fmt: skip
    record(f"speed_lora_{shape}_{options.lengths}", bars, HARDWARE, {
        "repeats": {s: len(found) for s, found in runs.items()}, "tokens_per_s": middle,
        "target_tokens_per_s": {
            s: median(r.get("target_tokens_per_s", r["tokens_per_s"] * r.get("target_share", 0))
                      for r in found) for s, found in runs.items()},
        "memory_bytes": memory, "share_of_product_rate": share,
        "product_flops_per_s": median(r["product_flops_per_s"] for r in ours),
        "flops_per_token": ours[0]["flops_per_token"], "how": ours[0]["how"],
        "settings": SETTINGS, "rows": options.rows,
        "peers": runs["shipped"][0]["versions"],
        "all_tokens_per_s": {s: [round(r["tokens_per_s"], 1) for r in f] for s, f in runs.items()},
    })  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        own_run(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("shapes", nargs="*", default=["15m", "135m"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--lengths", default="mixed")
    parser.add_argument("--systems", default="")
    options = parser.parse_args()
    if not PEERS.exists():
        raise SystemExit(f"{PEERS}: no peers' environment; `make .peers` builds it")
    for shape in options.shapes:
        runs = measure(shape, options)
        if {*SYSTEMS} <= runs.keys():
            conclude(shape, options, runs)


if __name__ == "__main__":
    main()
