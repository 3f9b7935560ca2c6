"""TRL's losses on a seeded tiny model, 50 steps in fp32, with the batches that it made of our rows.

Runs in an environment of its own that holds trl (`pip install trl==1.16.0`), not in the project's:
`python bench/preferences.py` writes results/preferences_trl.json. tests/train/test_preferences.py
recomputes our losses on those batches; `python bench/preferences.py --ours` (in the project's own
environment) does the same and writes the bars to results/preferences.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
OUT = HERE / "results" / "preferences_trl.json"
COUNT, BATCH, STEPS, BETA = 40, 4, 50, 0.1
# IPO's gradients are a hundred times as large; at more it leaves the range where rounding is small.
RATES = {"dpo": 0.05, "ipo": 0.0005, "kto": 0.05, "orpo": 0.05, "simpo": 0.5}


def make_words(seed: int = 11) -> list[tuple[str, str, str, bool]]:
    """(prompt, better, worse, liked) in words of a made-up language of 60."""
    dice = np.random.default_rng(seed)

    def text(low: int, high: int) -> str:
        return " ".join(f"w{n}" for n in dice.integers(0, 60, int(dice.integers(low, high))))

    return [(text(3, 8), text(3, 9), text(3, 9), bool(n % 2 == 0)) for n in range(COUNT)]


def make_tokenizer():
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[EOS]", "[BOS]", "[UNK]", *(f"w{n}" for n in range(60))]
    vocabulary = {word: number for number, word in enumerate(words)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", eos_token="[EOS]", bos_token="[BOS]",
        unk_token="[UNK]",
    )  # fmt: skip


def make_model():
    """As tests/train/test_preferences.py makes it."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def record(trainer_class, config, rows, rate):
    """(losses, batches) of one of TRL's trainers."""
    import torch
    from datasets import Dataset

    losses, batches = [], []

    class Recording(trainer_class):
        def compute_loss(self, model, inputs, *args, **kwargs):
            kept = {
                k: v.tolist()
                for k, v in inputs.items()
                if hasattr(v, "tolist") and "logps" not in k
            }
            out = super().compute_loss(model, inputs, *args, **kwargs)
            loss = out[0] if isinstance(out, tuple) else out
            losses.append(float(loss))
            batches.append(kept)
            return out

        def _get_train_sampler(self, *args, **kwargs):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    model = make_model()
    alone = any(name in trainer_class.__name__ for name in ("ORPO", "CPO"))
    more = {} if alone else {"ref_model": make_model()}
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    trainer = Recording(
        model=model, args=config, train_dataset=Dataset.from_list(rows),
        processing_class=make_tokenizer(), optimizers=(optimizer, schedule),
        **more,
    )  # fmt: skip
    trainer.train()
    return losses[:STEPS], batches[: COUNT // BATCH]


def theirs() -> None:
    import trl
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    words = make_words()
    pairs = [{"prompt": p + " ", "chosen": a, "rejected": b} for p, a, b, _ in words]
    singles = [{"prompt": p + " ", "completion": a, "label": liked} for p, a, _, liked in words]
    with tempfile.TemporaryDirectory() as place:
        shared: dict[str, object] = {
            "output_dir": place, "per_device_train_batch_size": BATCH, "max_steps": STEPS,
            "max_grad_norm": 0.0, "beta": BETA, "report_to": [], "save_strategy": "no",
            "logging_steps": 1, "use_cpu": True, "disable_tqdm": True, "bf16": False,
            "gradient_checkpointing": False, "remove_unused_columns": False,
        }  # fmt: skip
        found = {}
        for name, config, trainer, rows in (
            ("dpo", trl.DPOConfig(loss_type="sigmoid", **shared), trl.DPOTrainer, pairs),
            ("ipo", trl.DPOConfig(loss_type="ipo", **shared), trl.DPOTrainer, pairs),
            ("kto", trl.KTOConfig(train_sampling_strategy="sequential", **shared),
             trl.KTOTrainer, singles),
            ("orpo", ORPOConfig(**shared), ORPOTrainer, pairs),
            ("simpo", CPOConfig(loss_type="simpo", cpo_alpha=0.0, simpo_gamma=1.0, **shared),
             CPOTrainer, pairs),
        ):  # fmt: skip
            found[name] = record(trainer, config, rows, RATES[name])
            print(name, len(found[name][0]), found[name][0][:3], found[name][0][-2:])
    document = {
        "what": "losses of TRL's trainers and the batches they saw; see bench/preferences.py",
        "trl": trl.__version__,
        "losses": {name: losses for name, (losses, _) in found.items()},
        "rates": RATES,
        "batches": {name: batches for name, (_, batches) in found.items()},
    }
    OUT.write_text(json.dumps(document) + "\n")


def ours() -> None:
    sys.path.insert(0, str(HERE.parent / "tests" / "train"))
    from test_preferences import fifty_steps

    from record import at_most
    from record import record as write

    known = json.loads(OUT.read_text())
    bars = []
    for name, losses in known["losses"].items():
        gap = max(abs(a - b) for a, b in zip(fifty_steps(name), losses, strict=True))
        bars.append(at_most(f"{name}: largest difference from TRL in 50 steps", gap, 1e-4))
    write("preferences", bars, "2 shared cores of an AMD EPYC with AVX512-BF16",
          {"trl": known["trl"]})  # fmt: skip


if __name__ == "__main__":
    ours() if "--ours" in sys.argv else theirs()
