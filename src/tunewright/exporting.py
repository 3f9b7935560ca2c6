"""From a finished run to a file or folder that other programs serve, proven to answer alike.

Everything is written aside; only what passes the parity gate takes its place at `out`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewright.asking import open_asker
from tunewright.config import parse_recipe
from tunewright.data.prepare import prepare
from tunewright.data.render import encode_texts, input_text, render_prompts
from tunewright.errors import DataError, Refusal, RunError, UserError
from tunewright.evaluate.parity import TIE, Logits, Parity, compare_logits, same_answers
from tunewright.evaluate.predict import Asker
from tunewright.journal import Journal
from tunewright.model.embed import copy_modules
from tunewright.model.export.gguf import GGUF_TYPES, find_wrong_shape, save_gguf
from tunewright.model.export.merged import DTYPES, save_merged
from tunewright.model.export.ollama import write_modelfile
from tunewright.model.export.onnx import save_onnx
from tunewright.model.export.readers import (
    Reader,
    read_gguf,
    read_llama_cpp,
    read_onnx,
    read_trained,
    read_with_peft,
    read_with_transformers,
)
from tunewright.model.load import GENERATIVE_TASKS, Base, end_ids
from tunewright.model_card import write_model_card
from tunewright.records import Example
from tunewright.store import RunFolder, naming_disk_errors, write_atomic, write_json

GATE_PROMPTS = 50
GATE_TOKENS = 32
PARITY_FILE = "parity.json"
INT8 = "it was trained on int8, which rounds what goes into a layer as well; merged weights do not"
# Largest logit difference, in units of the logits' own spread; least share of equal choices; least
# share of equal greedy texts (eight bits may tip a close choice early in a text, so none there).
TOLERANCE = {
    "fp32": (1e-3, 0.999, 0.999), "f32": (1e-3, 0.999, 0.999), "f16": (0.02, 0.99, 0.95),
    "fp16": (0.02, 0.99, 0.95), "bf16": (0.15, 0.97, 0.8), "q8_0": (0.5, 0.95, 0.0),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and what the gate found."""

    to: str
    path: Path
    files: tuple[str, ...]
    precision: str
    parity: tuple[Parity, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """One export under way: `folder` is where its files are written aside."""

    run: RunFolder
    asker: Asker
    folder: Path
    precision: str
    examples: Sequence[Example]
    journal: Journal

    @property
    def base(self) -> Base:
        """The trained model, in fp32."""
        return self.asker.base


def export_run(
    run: Path, to: str, out: Path, journal: Journal, *, precision: str | None = None
) -> Exported:
    """Export a run's model and prove that it answers as trained.

    to: a key of EXPORTERS. precision: of the stored weights, by default the exporter's first.
    Raises UserError for what the user can mend, and Refusal when the gate finds a difference:
    then nothing is left at `out`.
    """
    if to not in EXPORTERS:
        raise UserError(f"--to {to}: unknown; use one of {', '.join(EXPORTERS)}")
    exporter = EXPORTERS[to]
    chosen = precision or exporter.precisions[0]
    if chosen not in exporter.precisions:
        raise UserError(f"--precision {chosen}: {to} has {', '.join(exporter.precisions)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: exists already; give another --out")
    folder = RunFolder(run)
    asker = open_asker(str(run), precision="fp32")
    examples = _gate_examples(folder, asker, journal)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    with naming_disk_errors(out):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            job = Job(folder, asker, temporary, chosen, examples, journal)
            journal.say(f"writing {to} ({chosen})")
            readers, notes = exporter.write(job)
            parity = tuple(_gate(job, reader) for reader in readers)
            _refuse_faults(parity, to)
            write_json(temporary / PARITY_FILE, parity)
            write_model_card(temporary, folder, asker.base, to, chosen)
            files = tuple(sorted(p.name for p in temporary.iterdir()))
            out.parent.mkdir(parents=True, exist_ok=True)
            if out.exists():
                out.rmdir()
            os.rename(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Exported(to, out, files, chosen, parity, notes)


def upload(exported: Exported, repo: str, journal: Journal, *, private: bool = True) -> str:
    """Send an exported folder to the model hub; returns the address of the commit.

    Goes through huggingface_hub, so HF_ENDPOINT and HF_TOKEN work as usual. Raises UserError in
    one line when the hub refuses.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = huggingface_hub.HfApi()
    journal.say(f"uploading {len(exported.files)} files to {repo}")
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo, folder_path=exported.path, commit_message="Tuned with Tunewright"
        )
    except HFValidationError as error:
        raise UserError(f"--repo {repo}: not a repository name ({error}); owner/name") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise UserError(
            f"--repo {repo}: the hub refused ({first}); check HF_TOKEN and the name. The files "
            f"lie in {exported.path}"
        ) from None
    return str(commit.commit_url)


def _refuse_faults(parity: Sequence[Parity], to: str) -> None:
    for found in parity:
        if not found.passed:
            raise Refusal(
                f"export: {to}, read by {found.checked_by}, does not answer as trained: "
                f"{'; '.join(found.faults)}; nothing was left behind"
            )


def _gate_examples(folder: RunFolder, asker: Asker, journal: Journal) -> Sequence[Example]:
    """Test rows of the run; its own prompts are the ones that matter."""
    recipe = parse_recipe(folder.recipe.read_text(encoding="utf-8"), str(folder.recipe))
    try:
        examples = prepare(recipe.data, recipe.task, journal).splits.test
    except DataError as error:
        raise RunError(
            f"{folder.path}: the rows of this run are needed for the parity gate ({error})"
        ) from error
    if not examples:
        raise RunError(f"{folder.path}: no test rows for the parity gate; set data.test")
    return examples if asker.rendering.task == "classify" else examples[:GATE_PROMPTS]


def _prompts(job: Job) -> list[list[int]]:
    """Token ids as evaluation asks them."""
    how = job.asker.rendering
    if job.base.task not in GENERATIVE_TASKS:
        texts = [input_text(example, how) for example in job.examples]
        return [ids.tolist() for ids in encode_texts(texts, how)]
    return [ids[-how.max_length :].tolist() for ids in render_prompts(job.examples, how)]


def _gate(job: Job, reader: Reader) -> Parity:
    """Ask both; see evaluate.parity."""
    prompts = _prompts(job)
    ends = end_ids(job.base)
    trained = read_trained(job.base, ends)
    steps = 3 if reader.answer else 1
    with job.journal.progress(f"parity by {reader.name}", steps) as advance:
        ours, theirs = trained.logits(prompts), reader.logits(prompts)
        largest, same_top, positions = compare_logits(ours, theirs)
        advance(1, "logits")
        same_text = None
        if reader.answer and trained.answer:
            left = trained.answer(prompts, GATE_TOKENS)
            right = reader.answer(prompts, GATE_TOKENS)
            ties = (
                () if job.base.kind == "encoder-decoder" else (_tie_finder(trained, prompts, left),)
            )
            same_text = same_answers(left, right, *ties)
            advance(3, "answers")
    spread = max(1.0, max(float(values.std()) for values in ours))
    tolerance, least_top, least_text = TOLERANCE[_rounded_to(job)]
    texts = [example.input for example in job.examples[:GATE_PROMPTS]]
    return Parity(
        checked_by=reader.name,
        num_prompts=len(prompts),
        num_positions=positions,
        max_logit_difference=largest,
        tolerance=tolerance * spread,
        same_top=same_top,
        same_text=same_text,
        same_tokens=trained.encode(texts) == reader.encode(texts),
        metrics=_accuracy(job, ours, theirs),
        least_same_top=least_top,
        least_same_text=least_text,
    )


def _rounded_to(job: Job) -> str:
    """The precision that says how far answers may lie apart.

    int8 rounds what goes into a layer, too, by all rows of a batch: no plain weight can show that,
    and the same prompt in another batch may be answered otherwise.
    """
    return "q8_0" if job.base.quantization == "int8" else job.precision


def _tie_finder(
    trained: Reader, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> Callable[[int, int], bool]:
    def is_tie(prompt: int, position: int) -> bool:
        ids = [*prompts[prompt], *answers[prompt][:position]]
        last = sorted(trained.logits([ids])[0][-1])
        return bool(last[-1] - last[-2] <= TIE)

    return is_tie


def _accuracy(
    job: Job, ours: Sequence[Logits], theirs: Sequence[Logits]
) -> dict[str, tuple[float, float]]:
    """Accuracy of both on the test rows, for classifiers."""
    how = job.asker.rendering
    if how.task != "classify" or how.multi_label:
        return {}
    labels = [example.output for example in job.examples]

    def share(rows: Sequence[Logits]) -> float:
        right = [how.labels[int(row.argmax())] == y for row, y in zip(rows, labels, strict=True)]
        return sum(right) / len(right)

    return {"accuracy": (share(ours), share(theirs))}


Written = tuple[list[Reader], tuple[str, ...]]


def to_adapter(job: Job) -> Written:
    """The PEFT adapter as the run left it."""
    if not (job.run.model / "adapter_config.json").exists():
        raise UserError(f"{job.run.path}: was tuned in full, there is no adapter; --to merged")
    shutil.copytree(job.run.model, job.folder, dirs_exist_ok=True)
    return [read_with_peft(job.folder, job.base, end_ids(job.base))], ()


def to_merged(job: Job) -> Written:
    """One folder for transformers alone."""
    save_merged(job.base, job.folder, precision=job.precision)
    copy_modules(job.run.model, job.folder)
    notes = (INT8,) if job.base.quantization == "int8" else ()
    return [read_with_transformers(job.folder, job.base, end_ids(job.base))], notes


def to_gguf(job: Job) -> Written:
    """One file for llama.cpp and its kin."""
    path = job.folder / f"model-{job.precision}.gguf"
    save_gguf(job.base, path, precision=job.precision)  # type: ignore[arg-type]
    wrong = find_wrong_shape(path, job.base.plain.config)
    if wrong:
        raise Refusal(f"export: gguf: {'; '.join(wrong)}; nothing was left behind")
    ends = end_ids(job.base)
    other = read_llama_cpp(path, ends)
    notes = () if other else ("llama.cpp did not check it: pip install llama-cpp-python",)
    return [reader for reader in (read_gguf(path, job.base, ends), other) if reader], notes


def to_ollama(job: Job) -> Written:
    """A folder for `ollama create`: GGUF and Modelfile."""
    tokenizer = job.base.tokenizer
    stops = [tokenizer.convert_ids_to_tokens(number) for number in end_ids(job.base)]
    name = f"model-{job.precision}.gguf"
    write_atomic(job.folder / "Modelfile", write_modelfile(tokenizer, name, stops))
    readers, notes = to_gguf(job)
    return readers, (*notes, "ollama create NAME -f Modelfile")


def to_onnx(job: Job) -> Written:
    """An encoder for onnxruntime."""
    save_onnx(job.base, job.folder)
    copy_modules(job.run.model, job.folder)
    return [read_onnx(job.folder, job.base.tokenizer.pad_token_id or 0)], ()


def to_vllm(job: Job) -> Written:
    """What vLLM serves: the adapter beside its base where vLLM can, else merged weights."""
    if job.base.kind != "decoder":
        raise UserError("--to vllm: serves models that write text; use --to onnx or --to merged")
    if _serves_adapter(job.base):
        readers, _ = to_adapter(job)
        base = (job.base.source.base or job.base.source).loadable
        rank = max(16, *(config.r for config in job.base.model.peft_config.values()))
        size = next((n for n in (16, 32, 64, 128, 256, 512) if n >= rank), rank)
        command = f"vllm serve {base} --enable-lora --max-lora-rank {size} --lora-modules tuned=."
    else:
        readers, _ = to_merged(job)
        command = "vllm serve ."
    return readers, (command,)


def _serves_adapter(base: Base) -> bool:
    """Whether vLLM takes the adapter as it is: LoRA on layers that are there, and nothing else."""
    if not base.is_adapted:
        return False
    config = base.model.peft_config["default"]
    more = ("use_dora", "modules_to_save", "trainable_token_indices")
    return str(config.peft_type.value) == "LORA" and not any(
        getattr(config, name, None) for name in more
    )


def to_hub(job: Job) -> Written:
    """What goes to a model hub: the adapter, or the whole model where it was tuned in full."""
    is_adapter = (job.run.model / "adapter_config.json").exists()
    return to_adapter(job) if is_adapter else to_merged(job)


@dataclass(frozen=True, slots=True)
class Exporter:
    """How to write one form, and the precisions it knows, the default first."""

    write: Callable[[Job], Written]
    precisions: tuple[str, ...] = ("fp32",)


EXPORTERS = {
    "adapter": Exporter(to_adapter),
    "merged": Exporter(to_merged, tuple(DTYPES)),
    "gguf": Exporter(to_gguf, ("f16", *(kind for kind in GGUF_TYPES if kind != "f16"))),
    "ollama": Exporter(to_ollama, ("f16", "q8_0", "f32")),
    "onnx": Exporter(to_onnx),
    "vllm": Exporter(to_vllm),
    "hub": Exporter(to_hub),
}
