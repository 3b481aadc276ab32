"""An old Python is answered in one line, and Ctrl-C before a run has begun ends the process without a word."""

import ast
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runs import start_up
from runs.start_up import answer_to

ROOT = Path(start_up.__file__).parent.parent
SCRIPTS = sorted(path for path in ROOT.glob("run_*.py"))
PYTHONS = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"))


def test_the_oldest_python_is_the_one_that_the_project_declares():
    declared = re.search(r'requires-python = ">=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert tuple(map(int, declared.groups())) == start_up.OLDEST


@pytest.mark.parametrize("version, found", [((3, 10, 13), "3.10.13"), ((3, 6, 15), "3.6.15"), ((2, 7, 18), "2.7.18")])
def test_an_older_python_is_named_with_the_one_that_is_needed(version, found):
    assert answer_to(version) == f"this needs Python 3.11 or later; {sys.executable} is Python {found}"


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 13, 1), (4, 0, 0), sys.version_info])
def test_a_python_that_will_do_is_not_answered(version):
    assert answer_to(version) is None


@pytest.mark.parametrize("path", [*SCRIPTS, ROOT / "runs" / "start_up.py"], ids=lambda path: path.name)
def test_an_old_python_can_read_as_far_as_the_answer(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 6))
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    if path in SCRIPTS:
        assert ast.unparse(imports[0]) == "import runs.start_up"


@pytest.mark.parametrize("python", PYTHONS or [None], ids=lambda path: path and path.parts[-3])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_real_old_pythons_answer_in_one_line(python, script):
    if python is None:
        pytest.skip("no other Python is installed here")
    code = "import sys; print(*sys.version_info[:3], sep='.')"
    answer = subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()
    if tuple(map(int, answer.split("."))) >= start_up.OLDEST:
        pytest.skip(f"Python {answer} will do")
    done = subprocess.run([python, "-B", script], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"{script.name}: error: this needs Python 3.11 or later; {python} is Python {answer}\n"


def test_who_imports_a_script_keeps_ctrl_c():
    code = "import signal, runs.start_up; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", f"import signal; signal.signal(2, signal.default_int_handler); {code}"],
                   cwd=ROOT, check=True)  # fmt: skip


def test_ctrl_c_during_the_imports_ends_without_a_traceback(tmp_path):
    def default():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell in the background has it ignored

    command = [sys.executable, ROOT / "run_landscape.py", "--output_dir", tmp_path / "run"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=default)
    maps, until = Path(f"/proc/{process.pid}/maps"), time.monotonic() + 60
    if not maps.exists():
        process.kill()
        pytest.skip("the system does not tell how far a process has come")
    while "libtorch" not in maps.read_text() and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT and process.stderr.read() == ""
    assert not list(tmp_path.iterdir())


MISSING = {
    "run_landscape.py": ["--dataset gone.jsonl", "--model ./gone", "--from_points gone"],
    "run_convergence.py": ["--dataset gone.jsonl", "--model ./gone", "--dataset ~nobody_of_that_name/rows.json"],
    "run_hessian.py": ["--dataset gone.jsonl", "--model ./gone", "--checkpoint gone"],
}
WRONG = ["--num_epochs 0", "--batch_size=--", "--resume /nowhere", "--task tooy", "--allow_changes", "--hf_key x",
         "--output_dir ''", "--dtype float16", "--no_such_flag"]  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_wrong_flags_and_missing_paths_are_answered_before_torch_is_imported(script):
    code = (
        "import runpy, shlex, sys\n"
        "script, *given = sys.argv[1:]\n"
        "for words in given:\n"
        "    sys.argv = [script, *shlex.split(words)]\n"
        "    try: runpy.run_path(script, run_name='__main__')\n"
        "    except SystemExit as exit: print(exit.code, 'torch' in sys.modules)\n"
    )
    given = WRONG + MISSING[script.name]
    done = subprocess.run([sys.executable, "-c", code, script.name, *given], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "2 False\n" * len(given), (done.stdout, done.stderr)
    assert done.stderr.count("\n") == done.stderr.count("error: ") == len(given)
