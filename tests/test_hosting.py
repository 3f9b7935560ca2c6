"""Models in memory: loaded on first use, least used out, never from under a request."""

import concurrent.futures
import gc
import json
import threading

import pytest
import torch
from safetensors.torch import save_file

from model_zoo import make_tiny
from tunewright.errors import ModelError
from tunewright.hosting import Hosting, find_served
from tunewright.model.catalog import resolve_model
from tunewright.model.engine import Request
from tunewright.serve.vllm import check_vllm


def make_adapters(folder, count):
    """LoRA adapters of one tiny base, each of random weights; sources by name."""
    base = make_tiny("llama", folder / "base")
    digest = resolve_model(str(base)).sha256
    found = {}
    for number in range(count):
        path = folder / f"a{number}"
        path.mkdir()
        stream = torch.Generator().manual_seed(number)
        tensors = {}
        for layer in (0, 1):
            for name, (wide, high) in {
                "self_attn.q_proj": (32, 32),
                "mlp.up_proj": (32, 48),
            }.items():
                where = f"base_model.model.model.layers.{layer}.{name}"
                tensors[f"{where}.lora_A.weight"] = torch.randn(4, wide, generator=stream)
                tensors[f"{where}.lora_B.weight"] = torch.randn(high, 4, generator=stream)
        save_file(tensors, path / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": str(base),
                  "target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM"}  # fmt: skip
        (path / "adapter_config.json").write_text(json.dumps(config))
        manifest = {"task": "chat", "base": {"reference": str(base), "sha256": digest}}
        (path / "tunewright.json").write_text(json.dumps(manifest))
        found[path.name] = str(path)
    return found


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    return make_adapters(tmp_path_factory.mktemp("adapters"), 6)


def ask(model, most=12):
    """The greedy answer's tokens."""
    done, ids = threading.Event(), []

    def hear(token):
        ids.append(token.id)
        if token.ended is not None:
            done.set()

    prompt = model.rendering.tokenizer("where is my card")["input_ids"]
    model.runner.submit(Request(prompt, most, adapter=model.adapter), hear)
    assert done.wait(30)
    return tuple(ids)


def test_adapters_are_loaded_on_use_and_the_least_used_goes(adapters):
    hosting = Hosting(find_served(adapters.values()), max_adapters=2)
    assert hosting.in_memory == {}
    answers = {name: ask(hosting.open_text(name)) for name in adapters}
    assert len(set(answers.values())) == len(adapters)
    gc.collect()
    (loaded,) = hosting.in_memory.values()
    assert loaded == (adapters["a4"], adapters["a5"])
    assert ask(hosting.open_text("a0")) == answers["a0"]  # and comes back
    hosting.close()


def test_what_a_request_holds_stays(adapters):
    hosting = Hosting(find_served(adapters.values()), max_adapters=1)
    first = hosting.open_text("a0")
    wanted = ask(first)
    for name in ("a1", "a2", "a3"):
        ask(hosting.open_text(name))
        assert ask(first) == wanted
    del first
    gc.collect()
    ask(hosting.open_text("a4"))
    gc.collect()
    ask(hosting.open_text("a5"))
    (loaded,) = hosting.in_memory.values()
    assert adapters["a0"] not in loaded
    hosting.close()


def test_many_threads_load_and_evict_at_once(adapters):
    """Two places for six adapters under 16 threads: every answer is that adapter's own."""
    calm = Hosting(find_served(adapters.values()))
    wanted = {name: ask(calm.open_text(name)) for name in adapters}
    calm.close()
    hosting = Hosting(find_served(adapters.values()), max_adapters=2)
    names = [name for _ in range(10) for name in adapters]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda name: ask(hosting.open_text(name)), names))
    assert answers == [wanted[name] for name in names]
    hosting.close()


def test_a_loading_model_keeps_nobody_else_waiting(adapters, monkeypatch):
    from tunewright import hosting as module

    hosting = Hosting(find_served([*adapters.values(), str(adapters["a0"]).replace("a0", "base")]))
    ask(hosting.open_text("a0"))
    gate, entered = threading.Event(), threading.Event()
    real = module.open_asker

    def slow(*given, **named):
        entered.set()
        assert gate.wait(30)
        return real(*given, **named)

    monkeypatch.setattr(module, "open_asker", slow)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        late = pool.submit(hosting.open_text, "base")
        assert entered.wait(30)
        ask(hosting.open_text("a1"))  # answered while `base` still loads
        assert not late.done()
        gate.set()
        ask(late.result(30))
    hosting.close()


def test_vllm_is_refused_in_one_line_where_it_is_not_installed():
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(ModelError, match="not installed here"):
            check_vllm()
    else:
        check_vllm()
