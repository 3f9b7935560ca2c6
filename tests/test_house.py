"""The house stands as DESIGN.md section 3 draws it: arrows go down, and no dangers live in it."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
SRC = REPO / "src" / "tunewright"
FLOORS = (
    ("errors", "records"),
    (
        "yaml_text",
        "methods",
        "aims",
        "sections",
        "config",
        "cache",
        "importers",
        "store",
        "journal",
        "prices",
        "cost",
        "defaults",
        "figures",
        "settings",
        "database",
    ),
    ("data", "model", "metrics"),
    ("train", "evaluate", "decide", "monitor", "providers", "report", "registry", "serve"),
    (
        "setup",
        "hosting",
        "planning",
        "preflight",
        "meaning",
        "learnability",
        "checking",
        "preparing",
        "kept",
        "tokenising",
        "exporting",
        "model_card",
        "cleaning",
        "picking",
        "validation",
        "probing",
        "price_desk",
        "worth",
        "weighing",
        "outlook",
        "remote_chat",
        "teaching",
        "hosted",
        "hosted_asking",
        "hosted_cost",
        "hosted_job",
        "hosted_report",
        "hosted_rivals",
        "hosted_run",
        "hosted_use",
        "migrating",
        "grading",
        "judging",
        "canaries",
        "rollouts",
        "learning",
        "keeping_old",
        "trial",
        "piloting",
        "choosing",
        "searching",
        "confidence",
        "rivals",
        "spreading",
        "pipeline",
        "asking",
        "watching",
        "trusting",
        "training_set",
        "lifecycle",
        "access",
        "releases",
        "unattended",
        "jobs",
        "cluster",
    ),
    ("api", "web", "notebook"),
    ("cli", "__main__"),
)
# Shelves and rooms: whoever stands on these floors is a stranger to its neighbours.
STRANGERS = (2, 3)
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc"}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
MAX_LINES = 80


def modules() -> dict[str, ast.Module]:
    """Every module of the package by dotted name below tunewright: "data.formats"."""
    found = {}
    for path in sorted(SRC.rglob("*.py")):
        name = ".".join(path.relative_to(SRC).with_suffix("").parts)
        if path.name != "__init__.py":
            found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


MODULES = modules()


def room(module: str) -> str:
    return module.partition(".")[0]


def floor(module: str) -> int:
    for number, names in enumerate(FLOORS):
        if room(module) in names:
            return number
    raise AssertionError(f"{module} stands on no floor; give it one in FLOORS, see DESIGN.md")


def imports_of(tree: ast.Module) -> set[str]:
    """Our own modules that a module imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
            names.add(str(node.module))
    ours = {name.removeprefix("tunewright.") for name in names if name.startswith("tunewright.")}
    return ours & MODULES.keys()


ARROWS = {name: imports_of(tree) for name, tree in MODULES.items()}


def test_every_module_has_a_floor():
    assert len({floor(name) for name in MODULES}) > 3


def test_no_arrow_climbs():
    climbing = [
        f"{a} -> {b}" for a, targets in ARROWS.items() for b in targets if floor(b) > floor(a)
    ]
    assert not climbing


def test_neighbours_are_strangers():
    doors = [
        f"{a} -> {b}"
        for a, targets in ARROWS.items()
        for b in targets
        if floor(a) == floor(b) and floor(a) in STRANGERS and room(a) != room(b)
    ]
    assert not doors


def test_no_import_cycle():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in sorted(ARROWS[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in ARROWS:
        visit(name, ())


def test_init_files_are_empty():
    files = [*SRC.rglob("__init__.py")]
    assert files
    assert not [str(path) for path in files if path.read_bytes().strip()]


def test_every_file_says_what_it_holds():
    named = [*SRC.rglob("*.py"), *(REPO / "tests").rglob("*.py"), *(REPO / "bench").rglob("*.py")]
    assert not [str(path) for path in named if path.stem in NAMELESS]
    assert not [name for name, tree in MODULES.items() if not ast.get_docstring(tree)]


def dangers(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = names if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"{node.lineno}: {name}" for name in modules if name in PICKLES)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            yield from (f"{node.lineno}: {danger}" for danger in dangerous_call(called, node))
        elif isinstance(node, ast.FunctionDef):
            defaults = [*zip(reversed(node.args.args), reversed(node.args.defaults), strict=False)]
            defaults += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            for argument, default in defaults:
                if "remote_code" in argument.arg and default and ast.unparse(default) != "False":
                    yield f"{node.lineno}: {argument.arg} on by default"


def dangerous_call(called: str, node: ast.Call) -> Iterator[str]:
    if called in ("eval", "exec", "torch.load", "torch.save", "os.system", "yaml.unsafe_load"):
        yield called
    options = {word.arg: ast.unparse(word.value) for word in node.keywords}
    for option in ("shell", "allow_pickle"):
        if options.get(option) == "True":
            yield f"{option}=True"
    if called in ("yaml.load", "yaml.load_all") and options.get("Loader") != "StrictLoader":
        yield "yaml.load without our strict loader"


def test_no_dangers_in_the_source():
    assert not [f"{name}:{danger}" for name, tree in MODULES.items() for danger in dangers(tree)]


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import dump",
        "torch.load(p)",
        "eval(x)",
        "run(c, shell=True)",
        "yaml.load(t, Loader=yaml.Loader)",
        "def f(*, trust_remote_code=True): pass",
    ],
)
def test_dangers_are_noticed(line):
    assert list(dangers(ast.parse(line)))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_function_is_long_without_a_reason():
    """A comment "Long because ..." in the function is the reason."""
    long = []
    for name, tree in MODULES.items():
        lines = (SRC / (name.replace(".", "/") + ".py")).read_text(encoding="utf-8").splitlines()
        for node in functions(tree):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            if size > MAX_LINES and "Long because" not in text:
                long.append(f"{name}.{node.name}: {size} lines")
    assert not long


def test_public_functions_are_typed_and_documented():
    bare = []
    for name, tree in MODULES.items():
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            untyped = [item.arg for item in arguments if item.annotation is None]
            if untyped or node.returns is None or not ast.get_docstring(node):
                bare.append(f"{name}.{node.name} {untyped}")
    assert not bare


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_ground_and_start_up_import_no_torch():
    light = [name for name in MODULES if floor(name) <= 1] + ["cli.main", "registry"]
    code = "\n".join(f"import tunewright.{name}" for name in light)
    heavy = "{'torch', 'transformers', 'datasets', 'sklearn', 'scipy', 'numpy', 'pandas'}"
    assert python(f"{code}\nimport sys\nprint(sorted({heavy} & set(sys.modules)))") == "[]"


def test_start_up_is_light():
    code = "import sys, tunewright.cli.main\nprint('pydantic' in sys.modules)"
    assert python(code) == "False"


def test_help_answers_at_once():
    """Processor seconds, best of five: the wall clock also counts whoever else is at work here."""
    executable = Path(sys.executable).with_name("tunewright")
    if not executable.exists():
        pytest.skip(f"{executable} is not installed")
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([executable, "--help"], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert "quickstart" in done.stdout
    assert min(seconds) < 0.4, seconds
