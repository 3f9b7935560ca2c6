"""What is put off is done all the same, and imports stay light."""

import subprocess
import sys

import torch

from tunewright.model.peft_quietly import compile_later


def test_a_function_is_compiled_at_its_first_call_and_only_then(monkeypatch):
    asked = []

    def compile_now(function, **options):
        asked.append(options)
        return lambda x: function(x) + 1

    monkeypatch.setattr(torch, "compile", compile_now)
    once = compile_later(dynamic=False)(lambda x: 2 * x)
    assert not asked
    assert [once(3), once(4)] == [7, 9]
    assert asked == [{"dynamic": False}]
    assert compile_later(lambda x: x)(1) == 2


def test_importing_peft_leaves_the_compiler_unimported_and_torch_as_it_was():
    code = (
        "import sys, torch; real = torch.compile\n"
        "import tunewright.model.peft_quietly\n"
        "assert torch.compile is real\n"
        "assert 'peft' in sys.modules and 'torch._inductor.compile_fx' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
