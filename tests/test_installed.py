"""`pip install .`: the core alone, with torch and numpy alone; and another package that is called torch_optimizer."""

import shutil
import subprocess
import sys
import tomllib

import pytest

from tests.test_house import ROOT, imports, room, sources

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES, PACKAGES = (PROJECT["tool"]["setuptools"][kind] for kind in ("py-modules", "packages"))
LOOP = """
import sys
for name in ("transformers", "datasets", "matplotlib", "sklearn", "PIL", "tqdm"):
    sys.modules[name] = None
import torch
from landscape_probe import LandscapeProbe
model = torch.nn.Linear(3, 1)
x = torch.randn(8, 3)
losses_of_batch = lambda model, x: model(x).square().flatten()
optimizer = torch.optim.AdamW(model.parameters())
probe = LandscapeProbe(model, losses_of_batch, optimizer=optimizer)
losses_of_batch(model, x).mean().backward()
probe.observe()
print([row["algorithm"] for row in probe.measure(x)])
"""


def run(code, *path, cwd):
    path = [str(folder) for folder in path]
    insert = f"import sys; sys.path[:0] = {path}\n"
    return subprocess.run([sys.executable, "-c", insert + code], cwd=cwd, capture_output=True, text=True)


def last_line(done):
    assert done.returncode
    return done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what the wheel has."""
    folder = tmp_path_factory.mktemp("site")
    for module in MODULES:
        shutil.copy(ROOT / f"{module}.py", folder)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def pypi(tmp_path_factory):
    """A stand-in for torch-optimizer of PyPI."""
    folder = tmp_path_factory.mktemp("pypi")
    (folder / "torch_optimizer").mkdir()
    (folder / "torch_optimizer" / "__init__.py").write_text("from .yogi import Yogi\nfrom .diffgrad import DiffGrad\n")
    for name in ("Yogi", "DiffGrad"):
        (folder / "torch_optimizer" / f"{name.lower()}.py").write_text(f"class {name}: pass\n")
    return folder


def test_what_is_installed_measures_from_an_empty_folder_with_torch_and_numpy_alone(installed, tmp_path):
    done = run(LOOP, installed, cwd=tmp_path)
    assert done.stdout.strip() == str(["training", "sgd", "sgd, coordinate_clip=0.1", "sign_sgd", "adam"]), done.stderr


def test_the_core_imports_nothing_outside_but_torch_and_numpy():
    names = {name.split(">")[0] for name in PROJECT["project"]["dependencies"]}
    assert names == {"torch", "numpy"}
    core = {*MODULES, *PACKAGES}
    assert all((ROOT / package).is_dir() for package in PACKAGES)
    allowed = {*sys.stdlib_module_names, *names, *core}
    outside = {
        (module, target)
        for module, path in sources().items()
        if room(module) in core
        for target, _ in imports(path)
        if room(target) not in allowed
    }
    assert outside == {("landscape_core.trainer_callback", "transformers.TrainerCallback")}


def test_another_torch_optimizer_earlier_on_the_path_is_named(installed, pypi, tmp_path):
    said = last_line(run("import landscape_probe", pypi, installed, cwd=tmp_path))
    assert said.startswith("ImportError: torch_optimizer is another package here, such as torch-optimizer of PyPI")
    assert "different environments" in said and str(pypi) in said


def test_another_torch_optimizer_later_on_the_path_is_not_mixed_in(installed, pypi, tmp_path):
    done = run(
        "import torch_optimizer; torch_optimizer.OPTIMIZERS; torch_optimizer.Yogi", installed, pypi, cwd=tmp_path
    )
    assert last_line(done) == (
        "AttributeError: module 'torch_optimizer' has no attribute 'Yogi': it is that of sharpness-of-optimizers, and "
        "not torch-optimizer of PyPI, which has the same import name"
    )


@pytest.mark.parametrize("last", ["ours", "theirs"])
def test_both_installed_into_one_folder_are_refused(last, installed, pypi, tmp_path):
    order = [pypi, installed] if last == "ours" else [installed, pypi]
    for folder in order:
        shutil.copytree(folder, tmp_path / "site", dirs_exist_ok=True)
    said = last_line(run("from torch_optimizer import Algorithm", tmp_path / "site", cwd=tmp_path))
    if last == "ours":
        assert "mixes the files of two packages" in said and "an environment of its own" in said
    else:  # landscape_utils names it
        assert "cannot import name 'Algorithm' from 'torch_optimizer'" in said
