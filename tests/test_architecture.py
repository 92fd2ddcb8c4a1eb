"""The layout of toylib: which way imports run, what importing it changes, and how long its files and functions are."""

import ast
import json
import subprocess
import sys

import pytest
from conftest import ROOT

TOYLIB = ROOT / "toylib"
READING_ORDER = ("loss", "logps", "reference", "preferences", "tokens", "models", "train", "replies", "claims")
CORE_FILES = tuple(
    f"{name}.py" for name in (*READING_ORDER, "__init__")
)  # __main__.py only hands over to engine/cli.py
WINGS = ("plots", "widgets", "evaluation", "engine", "labs")
MAY_IMPORT = {
    "core": {"core"},
    "plots": {"plots"},
    "widgets": {"widgets", "plots"},
    "evaluation": {"evaluation", "core"},
    "engine": {"engine", "core"},
    "labs": {"labs", "core", "plots", "evaluation", "engine"},
}
# Imports that leave these arrows, each inside a function or a file that only hands over.
LAZY = {
    ("toylib/preferences.py", "toylib.engine.formats"),
    ("toylib/tokens.py", "toylib.engine.rendering"),
    ("toylib/tokens.py", "toylib.engine.notices"),
    ("toylib/tokens.py", "toylib.engine.arguments"),
    ("toylib/replies.py", "toylib.engine.arguments"),
    ("toylib/train.py", "toylib.engine.checks"),
    ("toylib/models.py", "toylib.engine.adapters"),
    ("toylib/__init__.py", "toylib.engine.trainer"),
    ("toylib/__main__.py", "toylib.engine.cli"),
}
FILES = sorted(TOYLIB.rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def wing_of(module):
    """Return the wing that a module belongs to; files directly in toylib/ are the core."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in WINGS else "core"


def imports(path, tree, at_module_level=False):
    """Return the names of the modules of this project that a file imports, inside functions too unless told otherwise."""
    skipped = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda) if at_module_level else ()
    nodes, found = [tree], set()
    while nodes:
        node = nodes.pop()
        nodes += [child for child in ast.iter_child_nodes(node) if not isinstance(child, skipped)]
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
            found |= submodules or {node.module}
        elif isinstance(node, ast.Constant) and not at_module_level and isinstance(node.value, str):
            found |= {node.value} & set(MODULES)  # what importlib.import_module is given
    return found


def own(names):
    return {name for name in names if name.split(".")[0] == "toylib"}


# ---- the arrows ----


@each_file
def test_imports_run_one_way(path):
    name, relative = module_name(path), path.relative_to(ROOT).as_posix()
    allowed = MAY_IMPORT[wing_of(name)]
    against = {other for other in own(imports(path, tree_of(path))) if wing_of(other) not in allowed}
    against -= {module for file, module in LAZY if file == relative}
    assert not against, f"{relative} may import {', '.join(sorted(allowed))} only"


@each_file
def test_no_file_imports_a_notebook_a_test_or_a_script(path):
    outside = {"notebooks", "tests", "data", "lab", "build", "nbformat", "nbclient", "conftest", "tiny"}
    assert not {name.split(".")[0] for name in imports(path, tree_of(path))} & outside


def test_every_lazy_import_is_needed_and_stays_out_of_the_module_level():
    for file, module in LAZY:
        path = ROOT / file
        assert module in imports(path, tree_of(path)), f"{file} no longer imports {module}: take it off the list"
        if path.name != "__main__.py":
            assert module not in imports(path, tree_of(path), at_module_level=True)


def test_no_cycle_at_module_level():
    edges = {name: own(imports(path, tree_of(path), at_module_level=True)) for name, path in MODULES.items()}
    done = set()

    def visit(name, above):
        assert name not in above, f"a cycle of imports: {' → '.join((*above[above.index(name) :], name))}"
        if name not in done:
            for other in sorted(edges[name] & set(MODULES)):
                visit(other, (*above, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())
    assert done == set(MODULES)


@pytest.mark.parametrize(
    "source, module_level, inside",
    [
        ("from toylib.engine.cli import main", {"toylib.engine.cli"}, {"toylib.engine.cli"}),
        ("from toylib.plots import memory", {"toylib.plots.memory"}, {"toylib.plots.memory"}),
        ("def f():\n    import toylib.labs.memory", set(), {"toylib.labs.memory"}),
        ("if True:\n    from toylib import plots", {"toylib.plots"}, {"toylib.plots"}),
        ("def f():\n    g('toylib.train')", set(), {"toylib.train"}),
    ],
)
def test_the_reader_of_imports_sees_every_kind(source, module_level, inside):
    tree = ast.parse(source)
    assert own(imports(None, tree, at_module_level=True)) == module_level
    assert own(imports(None, tree)) == inside


# ---- what `import toylib` does ----


def in_a_fresh_python(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_importing_toylib_prints_nothing_and_loads_nothing_slow():
    code = "import sys, toylib; sys.exit(str({'transformers', 'datasets', 'matplotlib', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "" and done.stderr == "set()\n"


STATE = """
import json, logging, os, random, signal, warnings
import matplotlib, numpy, torch

def state():
    threads = torch.get_num_threads(), torch.is_grad_enabled(), str(torch.get_default_dtype())
    precision = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    seeds = torch.initial_seed(), hash(random.getstate()), repr(numpy.random.get_state())
    return [dict(matplotlib.rcParams), threads, precision, seeds, torch.random.get_rng_state().tolist(),
            list(map(str, warnings.filters)), logging.root.level, len(logging.root.handlers), dict(os.environ),
            str(signal.getsignal(signal.SIGINT)), str(torch.get_default_device())]

before = state()
import toylib
MORE
after = state()
print(json.dumps([str(x) for x, y in zip(before, after, strict=True) if x != y]))
"""


@pytest.mark.parametrize("more", ["", "import toylib.plots"], ids=["toylib", "plots"])
def test_importing_toylib_changes_nothing_global(more):
    assert json.loads(in_a_fresh_python(STATE.replace("MORE", more)).stdout) == []


# ---- how long things are ----


def lines_of(path):
    return path.read_text(encoding="utf-8").count("\n")


def test_the_core_is_ten_files_read_in_an_evening():
    assert {path.name for path in TOYLIB.glob("*.py")} == {*CORE_FILES, "__main__.py"}
    assert {path.name for path in TOYLIB.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(WINGS)
    first_words = tree_of(TOYLIB / "__init__.py").body[0].value.value
    assert ", ".join(READING_ORDER) in first_words
    assert len(CORE_FILES) == 10 and sum(lines_of(TOYLIB / name) for name in CORE_FILES) <= 900


def test_toylib_grows_only_on_purpose():
    assert sum(map(lines_of, FILES)) <= 10_150  # raise it only for a feature that is worth the reader's time


@each_file
def test_files_and_functions_are_short(path):
    assert lines_of(path) <= 250
    functions = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not {node.name for node in functions if node.end_lineno - node.lineno + 1 > 45}
