"""The field's known holes, S1 to S18, each with a test that would have caught it here.

Where a file of tests has more of the same kind, its name stands beside.
"""

import ast
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers
from tests.model_zoo import make_tiny

from tunewright.access import create_key
from tunewright.data import web
from tunewright.errors import DataError, ModelError, UserError
from tunewright.hosting import Hosting, find_served
from tunewright.jobs.home import open_home
from tunewright.jobs.webhooks import RefusedAddressError, checked_address
from tunewright.model import safety
from tunewright.yaml_text import load_yaml

REPO = Path(__file__).parents[1]
MAIN = "from tunewright.cli.main import main; main()"
PICKLE = b"cos\nsystem\n(S'touch canary'\ntR."
TEMPLATES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch canary').read() }}",
    "{{ lipsum.__globals__['os'].system('touch canary') }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ (messages|attr('__class__')) .__mro__ }}",
    "{{ messages|map(attribute='__class__')|list|first|attr('mro')() }}",
    "{{ ''['__class__'] .__base__ }}",
    "{{ range.__self__ }}",
    "{% set x = messages.append({}) %}{{ messages }}",
    "{{ messages.clear() }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{{ raise_exception.__globals__ }}",
    "{{ range(10**9)|list }}",
)


def read_tree():
    for path in sorted((REPO / "src").rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pth", "adapter_model.bin", "a.ckpt", "b.pkl"]
)
def test_S1_pickled_weights_are_never_read(
    tmp_path, monkeypatch, name
):  # and test_house, test_safety
    monkeypatch.chdir(tmp_path)
    folder = make_tiny("bert", tmp_path / "bert")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(PICKLE)
    with pytest.raises(ModelError):
        hosting = Hosting(find_served([str(folder)]))
        hosting.open(next(iter(hosting.models)))
    assert not list(tmp_path.rglob("canary"))


def test_S2_torch_is_new_enough_and_is_not_relied_on():
    assert tuple(map(int, torch.__version__.split("+")[0].split(".")[:2])) >= (2, 10)
    assert re.search(r'"torch>=2\.1\d', (REPO / "pyproject.toml").read_text())
    assert "weights_only=" not in "".join(path.read_text() for path, _ in read_tree())


def test_S3_a_config_that_names_code_is_refused_and_not_imported(tmp_path):  # and test_safety
    assert tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 3)
    folder = make_tiny("bert", tmp_path / "bert")
    (folder / "modeling_evil.py").write_text("open('canary', 'w')")
    path = folder / "config.json"
    for key in ({"auto_map": {"AutoModel": "modeling_evil.X"}}, {"trust_remote_code": True},
                {"sub": {"_attn_implementation_internal": "a/b"}}):  # fmt: skip
        path.write_text(json.dumps(json.loads(path.read_text()) | key))
        with pytest.raises(ModelError, match="can run code"):
            hosting = Hosting(find_served([str(folder)]))
            hosting.open(next(iter(hosting.models)))
    assert not list(Path.cwd().glob("canary"))


@pytest.mark.parametrize("template", TEMPLATES)
def test_S4_a_chat_template_stays_in_its_sandbox(tmp_path, template, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from tunewright.data.render import Rendering, render_prompts
    from tunewright.model.catalog import resolve_model
    from tunewright.model.tokenizer import load_tokenizer
    from tunewright.records import Example, Message

    folder = make_tiny("llama", tmp_path / "llama")
    tokenizer, _ = load_tokenizer(resolve_model(str(folder)), "decoder", False)
    tokenizer.chat_template = template
    turns = (Message("user", "hi"), Message("assistant", ""))
    row = Example(id="1", place="x", input="hi", output="", messages=turns)
    how = Rendering(task="chat", tokenizer=tokenizer, max_length=64, native_template=True)
    try:
        text = tokenizer.decode(render_prompts([row], how)[0])
    except DataError:
        text = ""
    assert not re.search(r"class|function|globals|\bos\b", text)
    assert not list(tmp_path.rglob("canary"))


@pytest.mark.parametrize(
    "data", [b"GGUF" + b"\xff" * 64, b"GGUF\x03\0\0\0" + b"\xff" * 16, b"", b"GGUF"]
)
def test_S5_gguf_is_written_and_never_served_from(tmp_path, data):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(data)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError):
        hosting = Hosting(find_served([str(folder)]))
        hosting.open(next(iter(hosting.models)))


def test_S6_safetensors_with_a_name_twice_are_refused(tmp_path):  # and test_safety
    head = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"\0" * 4)
    with pytest.raises(ModelError):
        safety.read_header(path)


def test_S7_no_text_becomes_a_command():
    """Programs are started by lists of arguments, and nowhere through a shell."""
    shells = []
    for path, tree in read_tree():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("os.system", "os.popen", "subprocess.getoutput") or any(
                    word.arg == "shell" and called.startswith("subprocess")
                    for word in node.keywords
                ):
                    shells.append(f"{path}:{node.lineno}")
                if called in ("subprocess.run", "subprocess.Popen") and isinstance(
                    node.args[0], ast.JoinedStr | ast.Constant
                ):
                    shells.append(f"{path}:{node.lineno}")
    assert shells == []


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/b", "%2e%2e", "", "a" * 65, "a\0b", "C:\\x", "．．", "a b"]
)
def test_S8_ids_are_made_by_us_and_lead_nowhere_else(tmp_path, name):  # and api/test_hostile
    home = open_home(tmp_path / "server")
    for place in (home.folder.file, home.folder.job):
        with pytest.raises(ValueError, match="is not an id"):
            place(name)
    home.database.close()


def test_S9_archives_are_never_unpacked():
    imported = {
        alias.name
        for _, tree in read_tree()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert not imported & {"tarfile", "zipfile"}
    used = [path for path, _ in read_tree() if "unpack_archive" in path.read_text()]
    assert used == []


ADDRESSES = ("127.0.0.1", "10.0.0.1", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0",
             "::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "fe80::1", "fc00::1", "100.64.0.1",
             "2002:7f00:1::", "224.0.0.1")  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_S10_no_request_of_ours_goes_inside(address, monkeypatch):  # and data/test_data_web
    def resolve(host, port, *more, **named):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]

    def connect(*given):
        raise AssertionError("connected")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(DataError, match="not a public address"):
        web.connect_public("evil.example", 443, 1)
    with pytest.raises(RefusedAddressError):
        checked_address("evil.example", 443, (), resolve)


@pytest.mark.parametrize(
    "url", ["http://example.com/a", "file:///etc/passwd", "ftp://x/y", "gopher://x", "https:///x"]
)
def test_S10_only_https_leads_out(url):
    with pytest.raises(DataError):
        web.check_address(url)


def test_S11_every_route_stands_in_the_census():  # and api/test_hostile, with every kind of key
    from tunewright.api.app import ROUTERS
    from tunewright.api.census import CENSUS

    there = {(method, route.path) for router in ROUTERS for route in router.routes
             for method in route.methods if method != "HEAD"}  # fmt: skip
    assert there == set(CENSUS)
    open_ones = {path for (_, path), need in CENSUS.items() if need == "open"}
    assert open_ones == {"/healthz", "/readyz", "/login", "/logout", "/static/pages.{kind}"}


class Started:
    """The real command as a process; `ask` gives a status."""

    def __init__(self, folder, *arguments, **environment):
        command = [sys.executable, "-c", MAIN, "serve", "--server", str(folder), "--port", "0",
                   "--no-worker", *arguments]  # fmt: skip
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, cwd=folder.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )  # fmt: skip
        self.said = []
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"OPENAI_BASE_URL=http://([\w.:]+)/v1", line):
                self.port = int(found[1].rpartition(":")[2])
                return

    def ask(self, path, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        self.text = reply.read().decode()
        return reply.status

    def stop(self):
        self.process.terminate()
        self.said.append(self.process.communicate(timeout=60)[1])
        return "".join(self.said)


def test_S12_and_S17_the_started_command_asks_for_the_key_and_never_shows_it(tmp_path):
    """One start for both: each documented way of guarding bites, and nothing written holds a key."""
    home = open_home(tmp_path / "server")
    key, _ = create_key(home.database, "app", ["read"])
    home.database.close()
    given = "an-environment-key-of-some-length"
    server = Started(tmp_path / "server", TUNEWRIGHT_API_KEY=given)
    try:
        assert server.ask("/v1/models") == 401
        assert server.ask("/v1/models", Authorization="Bearer wrong") == 401
        pages = []
        for known in (key, given):
            assert server.ask("/v1/models", Authorization=f"Bearer {known}") == 200
            for path in ("/", "/metrics", "/v1/nothing", "/openapi.json", f"/runs/{known}x"):
                server.ask(path, Authorization=f"Bearer {known}")
                pages.append(server.text.replace(f"{known}x", ""))
        assert server.ask("/v1/models", Host="evil.example") == 421
        listed = subprocess.run(["ps", "-o", "args=", "-p", str(server.process.pid)],
                                capture_output=True, text=True, check=False).stdout  # fmt: skip
    finally:
        said = server.stop()
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()).decode(
        "latin-1"
    )
    for place, text in {"pages": "".join(pages), "log": said, "disk": kept, "ps": listed}.items():
        assert key not in text and given not in text, place


def test_S12_beyond_loopback_only_with_a_key(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "serve", "--host", "0.0.0.0", "--server", str(tmp_path / "s")],
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "TUNEWRIGHT_API_KEY"},
    )  # fmt: skip
    assert done.returncode == 2 and "make a key first" in done.stderr


def test_S13_who_may_ask_is_never_decided_by_an_address_put_together():  # raw: api/test_hostile
    text = (REPO / "src" / "tunewright" / "api" / "guard.py").read_text()
    assert "request.url" not in text and "base_url" not in text
    assert "x-forwarded" not in text.lower().split('"""', 2)[2]


def test_S14_changes_need_our_own_page_or_a_key():  # every method: api/test_hostile
    source = (REPO / "src" / "tunewright" / "web" / "pages.py").read_text()
    assert 'samesite="strict"' in source and "httponly=True" in source
    everything = "".join(path.read_text() for path, _ in read_tree())
    assert "CORSMiddleware" not in everything and "Access-Control-Allow" not in everything


@pytest.mark.parametrize(
    "text",
    ["a: &x [1]\nb: *x", "a: 1\na: 2", "a: " + "[" * 3000 + "]" * 3000,
     "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]"],
)  # fmt: skip
def test_S15_bombs_of_yaml_are_refused_at_once(text):  # JSON and Range: api/test_hostile
    started = time.process_time()  # others may be at work on this machine
    with pytest.raises(UserError):
        load_yaml(text, "settings.yaml", {})
    assert time.process_time() - started < 2


def test_S16_nobody_else_on_the_machine_reads_a_servers_folder(tmp_path):
    code = (
        "import os; os.umask(0)\n"
        "from pathlib import Path; from tunewright.jobs.home import open_home\n"
        f"open_home(Path({str(tmp_path / 'server')!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert (tmp_path / "server").stat().st_mode & 0o077 == 0


def test_S18_every_version_is_pinned():
    lines = [line for line in (REPO / "constraints.txt").read_text().splitlines()
             if line.strip() and not line.startswith("#")]  # fmt: skip
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines)
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    for name in (
        "torch",
        "transformers",
        "fastapi",
        "llguidance",
        "playwright",
        "sqlalchemy",
        "uvicorn",
    ):
        assert name in pinned


@pytest.mark.parametrize("template", [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% set x = 'a' * 900000000 %}{{ x }}",
    "{% for a in range(99999) %}{{ 'a' * 9999 }}{% endfor %}",
])  # fmt: skip
def test_S4_a_chat_template_that_never_ends_is_refused_when_it_is_loaded(tmp_path, template):
    from tunewright.model.catalog import resolve_model
    from tunewright.model.tokenizer import load_tokenizer

    folder = make_tiny("llama", tmp_path / "llama")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ModelError, match="chat template .* needs more than 2 s"):
        load_tokenizer(resolve_model(str(folder)), "decoder", False)


def test_S4_templates_in_use_pass_the_trial():
    from tunewright.model.chat_template import DEFAULT_CHAT_TEMPLATE, check_template

    strict = "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}"
    for template in (DEFAULT_CHAT_TEMPLATE, strict, "{% broken", "plain"):
        assert check_template(template, "x") == template
