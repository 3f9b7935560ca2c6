"""Model files are checked before a library reads them."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tunewright.errors import ModelError
from tunewright.model import safety


def write_raw(path, header, data):
    raw = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def tensor(begin, end, shape=None, dtype="U8"):
    return {"dtype": dtype, "shape": shape or [end - begin], "data_offsets": [begin, end]}


def test_a_real_file_passes(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(3, 4), "b": torch.zeros(2, dtype=torch.bfloat16)}, path)
    assert set(safety.read_header(path)) == {"a", "b"}
    assert safety.find_weights(tmp_path) == (path,)


def test_every_truncation_is_found(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(3, 4), "b": torch.zeros(7)}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"model\.safetensors: .*download it again"):
            safety.read_header(path)


def test_a_truncated_file_is_named_with_its_bytes(tmp_path):
    path = write_raw(tmp_path / "x.safetensors", {"a": tensor(0, 100)}, b"\0" * 60)
    with pytest.raises(ModelError, match=r"x\.safetensors: truncated, 60 bytes .* promises 100"):
        safety.read_header(path)


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
         b'"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', b"12", "tensor a is named twice"),
        ({"a": tensor(0, 4), "b": tensor(8, 12)}, b"\0" * 12, "hole or overlap at byte 4"),
        ({"a": tensor(0, 8), "b": tensor(4, 12)}, b"\0" * 12, "hole or overlap"),
        ({"a": tensor(0, 4)}, b"\0" * 9, "too long, 9 bytes"),
        ({"a": tensor(0, 4, [2], "F32")}, b"\0" * 4, "tensor a needs 8 bytes, its entry has 4"),
        ({"a": {"dtype": "F32", "shape": [1]}}, b"\0" * 4, "tensor a has a broken entry"),
        (b"[1,2]", b"", "header is not a table"),
        (b"{nonsense", b"", "header is not valid JSON"),
    ],
)  # fmt: skip
def test_malformed_files_are_refused(tmp_path, header, data, message):
    path = write_raw(tmp_path / "x.safetensors", header, data)
    with pytest.raises(ModelError, match=message):
        safety.read_header(path)


def test_a_header_longer_than_the_file_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError, match="its header alone claims"):
        safety.read_header(path)


@pytest.mark.parametrize(
    "config",
    [
        {"auto_map": {"AutoModel": "evil.Model"}},
        {"_attn_implementation": "someone/kernel"},
        {"_attn_implementation_internal": "someone/kernel"},
        {"_experts_implementation_internal": "someone/kernel"},
        {"text_config": {"trust_remote_code": True}},
        {"sub": [{"deeper": {"_attn_implementation_internal": "x/y"}}]},
    ],
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_configs_that_lead_to_foreign_code_are_refused(tmp_path, config, name):
    (tmp_path / name).write_text(json.dumps({"model_type": "llama"} | config))
    with pytest.raises(ModelError, match=rf"{name}: key .* can run code"):
        safety.check_configs(tmp_path, trust_remote_code=False)
    safety.check_configs(tmp_path, trust_remote_code=True)


def test_harmless_keys_pass(tmp_path):
    values = {"model_type": "llama", "_attn_implementation_autoset": True, "auto_map": None}
    (tmp_path / "config.json").write_text(json.dumps(values))
    safety.check_configs(tmp_path, trust_remote_code=False)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "a.ckpt"])
def test_pickled_weights_are_refused_unread(tmp_path, name):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    with pytest.raises(ModelError, match=f"{name}, which can run code .* convert to safetensors"):
        safety.find_weights(tmp_path)
    assert not (tmp_path / "canary").exists()


def test_missing_weights_and_shards_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        safety.find_weights(tmp_path)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / safety.INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model-00001-of-00002\.safetensors: missing"):
        safety.find_weights(tmp_path)
    index = {"weight_map": {"a": "../other/model.safetensors"}}
    (tmp_path / safety.INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(ModelError, match="not a safetensors file here"):
        safety.find_weights(tmp_path)


def test_an_adapter_config_that_imports_a_module_is_refused(tmp_path):
    values = {"base_model_name_or_path": "x", "megatron_config": {"a": 1}, "megatron_core": "evil"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match="megatron_config imports a module"):
        safety.check_adapter_config(tmp_path)


def test_broken_json_is_one_line(tmp_path):
    path = tmp_path / "config.json"
    for text in ("{", "[]", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ModelError, match=r"config\.json") as caught:
            safety.read_model_json(path)
        assert "\n" not in str(caught.value)


def test_hashes_are_remembered_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(safety, "REMEMBERED_BYTES", 1)
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = safety.file_sha256(path)
    memory = safety.cache_folder() / "sha256.json"
    assert first in memory.read_text()
    memory.write_text(memory.read_text().replace(first, "remembered"))
    assert safety.file_sha256(path) == "remembered"
    path.write_bytes(b"three")
    assert safety.file_sha256(path) not in ("remembered", first)
    assert len(json.loads(memory.read_text())) == 1
