"""What TRL's GRPOTrainer makes of fixed answers on a seeded tiny model: its losses, in fp32.

Runs in an environment of its own that holds trl (`pip install trl==1.16.0`), not in the project's:
`python bench/grpo_trl.py` writes results/grpo_trl.json. tests/train/test_grpo.py recomputes our
losses on those answers.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
OUT = HERE / "results" / "grpo_trl.json"
CASES = 10


def make_answers(case: int) -> list[dict[str, object]]:
    """Two prompts with four answers each; log-probabilities before are drawn around the model's."""
    dice = np.random.default_rng(100 + case)
    answers = []
    for _ in range(2):
        prompt = dice.integers(4, 64, 4).tolist()
        rewards = dice.random(4)
        gains = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
        for gain in gains:
            said = dice.integers(4, 64, int(dice.integers(3, 8))).tolist()
            answers.append({"prompt": prompt, "completion": said, "advantage": float(gain)})
    return answers


def main() -> None:
    import torch
    import trl
    from datasets import Dataset

    sys.path.insert(0, str(HERE))
    from preferences import make_model, make_tokenizer

    cases = []
    for number in range(CASES):
        kind, beta = ("grpo", "bnpo")[number % 2], (0.0, 0.04, 0.3)[number % 3]
        with tempfile.TemporaryDirectory() as place:
            config = trl.GRPOConfig(
                output_dir=place, beta=0.0, loss_type=kind, epsilon=0.2, num_generations=4,
                use_bias_correction_kl=False,
                per_device_train_batch_size=8, use_cpu=True, bf16=False, report_to=[],
                gradient_checkpointing=False,
            )  # fmt: skip
            trainer = trl.GRPOTrainer(
                model=make_model(), reward_funcs=lambda completions, **_: [0.0] * len(completions),
                args=config, train_dataset=Dataset.from_list([{"prompt": "w1"}] * 8),
                processing_class=make_tokenizer(),
            )  # fmt: skip
        trainer.beta = beta  # with it in the config a reference would be loaded by its name
        model = trainer.model.eval()
        answers, dice = make_answers(number), np.random.default_rng(number)
        longest = max(len(a["completion"]) for a in answers)
        ids = torch.zeros(len(answers), longest, dtype=torch.long)
        mask = torch.zeros(len(answers), longest, dtype=torch.long)
        prompts = torch.tensor([a["prompt"] for a in answers])
        for row, answer in enumerate(answers):
            size = len(answer["completion"])
            ids[row, :size] = torch.tensor(answer["completion"])
            mask[row, :size] = 1
        with torch.no_grad():
            logits = model(torch.cat([prompts, ids], 1)).logits[:, 3:-1].log_softmax(-1)
        now = logits.gather(2, ids[..., None])[..., 0]
        old = now + torch.tensor(dice.normal(0, 0.3, now.shape), dtype=torch.float32)
        ref = now + torch.tensor(dice.normal(0, 0.3, now.shape), dtype=torch.float32)
        inputs = {
            "prompt_ids": prompts, "prompt_mask": torch.ones_like(prompts),
            "completion_ids": ids, "completion_mask": mask,
            "advantages": torch.tensor([a["advantage"] for a in answers]),
            "old_per_token_logps": old, "ref_per_token_logps": ref,
            "num_items_in_batch": mask.sum(),
        }  # fmt: skip
        trainer.current_gradient_accumulation_steps = 1
        loss = float(trainer._compute_loss(model, inputs))
        for row, answer in enumerate(answers):
            size = len(answer["completion"])
            answer |= {"old": old[row, :size].tolist(), "ref": ref[row, :size].tolist()}
        cases.append(
            {"loss_type": kind, "beta": beta, "epsilon": 0.2, "loss": loss, "answers": answers}
        )
        print(kind, beta, loss)
    OUT.write_text(json.dumps({"trl": trl.__version__, "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
