"""Who may import whom: arrows between the rooms of the house point one way."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLAIN = {
    "runs.files",
    "runs.tables",
    "runs.config",
    "runs.intervals",
}  # of the standard library alone: results are read back anywhere
CORE = {"curvature", "torch_optimizer"}
# A room and the rooms that it may import from, besides itself.
MAY_IMPORT = {
    "curvature": set(),
    "torch_optimizer": set(),
    "training": {"curvature"},
    "runs": {"curvature"},
    "algorithm_list": {"torch_optimizer"},
    "landscape_utils": CORE,
    "landscape_core": CORE | {"landscape_utils"},
    "landscape_probe": CORE | {"landscape_core"},
    "hessian": {"curvature", "training", "runs"},
    "tasks": {"runs", "landscape_core"},
    "landscape": CORE | {"landscape_utils", "landscape_core", "hessian", "training", "runs", "tasks", "algorithm_list"},
    "convergence": {"curvature", "training", "runs", "torch_optimizer", "tasks", "algorithm_list"},
    "claims": {"runs", "torch_optimizer"},
    "figures": {"runs", "hessian"},
    "reporting": {"runs", "figures", "claims"},
    "report": {"runs", "reporting"},
    "study": {"algorithm_list", "claims", "figures", "runs", "tasks", "torch_optimizer"},
    "known_cases": CORE | {"landscape_utils", "hessian", "runs"},
    "check_known_cases": {"known_cases", "runs"},
    "compare_with_paper": {"claims", "figures", "runs"},
    "run_landscape": {
        "landscape",
        *CORE,
        "landscape_utils",
        "landscape_core",
        "training",
        "runs",
        "tasks",
        "algorithm_list",
        "reporting",
    },
    "run_convergence": {"convergence", "training", "runs", "tasks", "algorithm_list", "reporting", "torch_optimizer"},
    "run_hessian": {"hessian", "curvature", "training", "runs", "tasks", "reporting"},
}
FLAGS = {
    "runs",
    "tasks",
    "algorithm_list",
    "torch_optimizer",
    "training",
}  # of a flags.py, flag_types.py and estimate.py
SCRIPTS = {"run_landscape", "run_convergence", "run_hessian", "check_known_cases", "compare_with_paper", "report"}
GROUND_FLOOR = {"algorithm_list", "landscape_probe", "landscape_utils", *SCRIPTS}


def room(module):
    return module.split(".")[0]


@cache
def sources():
    """Module name -> its file, of everything but tests and benchmarks."""
    paths = [*ROOT.glob("*.py"), *(path for name in MAY_IMPORT for path in (ROOT / name).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports(path):
    """(module, line) of every import, except those that only a type checker reads."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
            assert all(alias.name != "*" for alias in node.names), f"{path}:{node.lineno}: imports are explicit"
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)


def forbidden(module, path, root=ROOT):
    for target, line in imports(path):
        if room(target) == room(module):
            continue
        known = room(target) in MAY_IMPORT or room(target) in ("tests", "benchmarks")
        below = MAY_IMPORT[room(module)] | (FLAGS if module.endswith((".flags", ".flag_types", ".estimate")) else set())
        if known and room(target) not in below:
            yield f"{path.relative_to(root)}:{line} imports {target}"


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_a_room_imports_only_from_rooms_below_it(name):
    own = {module: path for module, path in sources().items() if room(module) == name}
    assert own
    assert [line for module, path in own.items() for line in forbidden(module, path)] == []


def test_no_arrow_comes_back():
    below = {name: set(rooms) for name, rooms in MAY_IMPORT.items()}
    while free := {name for name, rooms in below.items() if not rooms & below.keys()}:
        below = {name: rooms for name, rooms in below.items() if name not in free}
    assert not below, f"these import each other in a circle: {sorted(below)}"


def test_no_two_files_import_each_other_not_even_inside_a_function():
    known = sources()
    below = {}
    for module, path in known.items():
        targets = {target if target in known else target.rpartition(".")[0] for target, _ in imports(path)}
        below[module] = targets - {module}
    while free := {module for module, targets in below.items() if not targets & below.keys()}:
        below = {module: targets for module, targets in below.items() if module not in free}
    assert not below, f"a circle of imports among {sorted(below)}"


def test_a_forbidden_import_is_seen_and_names_both_files(tmp_path):
    path = ROOT / "curvature" / "products.py"
    wrong = tmp_path / "products.py"
    wrong.write_text(f"from runs.tables import Table\n{path.read_text()}")
    assert list(forbidden("curvature.products", wrong, tmp_path)) == ["products.py:1 imports runs.tables.Table"]


def test_only_known_modules_stand_on_the_ground_floor():
    assert {path.stem for path in ROOT.glob("*.py")} == GROUND_FLOOR


@pytest.mark.parametrize("module", sorted(PLAIN))
def test_results_are_read_back_with_the_standard_library_alone(module):
    path = sources()[module]
    outside = [t for t, _ in imports(path) if room(t) not in {*sys.stdlib_module_names, "runs"}]
    assert outside == [] and all(f"runs.{t.split('.')[1]}" in PLAIN for t, _ in imports(path) if room(t) == "runs")


@pytest.mark.parametrize("modules", ["figures.__main__, figures.drawing", "report"])
def test_figures_and_pages_are_made_without_torch(modules):
    code = (
        "import sys; sys.modules['torch'] = None\n"  # an import of it fails
        f"import {modules}; assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
