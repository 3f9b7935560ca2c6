"""TRL's RewardTrainer on a seeded tiny model in fp32: its losses and the batches that it made.

Runs in an environment of its own that holds trl (`pip install trl==1.16.0`), not in the project's:
`python bench/rewards.py` writes results/rewards_trl.json. tests/train/test_reward.py recomputes our
losses on those batches, step by step.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
OUT = HERE / "results" / "rewards_trl.json"
BATCH, STEPS, RATE = 4, 20, 0.05


def main() -> None:
    import torch
    import transformers
    import trl
    from datasets import Dataset

    sys.path.insert(0, str(HERE))
    from preferences import make_tokenizer, make_words

    found: dict[str, object] = {"trl": trl.__version__}
    words = make_words()
    rows = [{"prompt": p + " ", "chosen": a, "rejected": b} for p, a, b, _ in words]
    for name, center in (("plain", None), ("centred", 0.1)):
        torch.manual_seed(0)
        model = transformers.LlamaForSequenceClassification(transformers.LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_labels=1,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
            pad_token_id=0,
        ))  # fmt: skip
        losses, batches = [], []

        class Recording(trl.RewardTrainer):
            def compute_loss(self, model, inputs, *args, losses=losses, batches=batches, **kwargs):
                mask = inputs["attention_mask"].bool()
                batches.append(
                    [r[m].tolist() for r, m in zip(inputs["input_ids"], mask, strict=True)]
                )
                out = super().compute_loss(model, inputs, *args, **kwargs)
                losses.append(float(out[0] if isinstance(out, tuple) else out))
                return out

        with tempfile.TemporaryDirectory() as place:
            config = trl.RewardConfig(
                output_dir=place, per_device_train_batch_size=BATCH, max_steps=STEPS,
                max_grad_norm=0.0, report_to=[], save_strategy="no", use_cpu=True, bf16=False,
                disable_tqdm=True, gradient_checkpointing=False, center_rewards_coefficient=center,
            )  # fmt: skip
            optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
            trainer = Recording(
                model=model, args=config, train_dataset=Dataset.from_list(rows),
                processing_class=make_tokenizer(), optimizers=(optimizer, schedule),
            )  # fmt: skip
            trainer.train()
        found[name] = {"losses": losses, "batches": batches, "rate": RATE, "center": center or 0.0}
        print(name, losses[:3], losses[-2:])
    OUT.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
