"""Wrong command lines made from each parser's own flags: every one is answered in one line, and no folder changes."""

import json
import random
import shutil
from pathlib import Path

import pytest

import runs.lifecycle
from tests.helpers import tiny_run
from tests.test_every_flag import BASE, SCRIPTS

EDGES = [
    "", " ", "--", "-", "-1", "0", "1", "2", "1.5", "1e308", "1e-300", "-1e-3", "nan", "inf", "-inf", "1e400", "0x10",
    "1_0", "1" + "0" * 400, "9" * 5_000, "2147483648", "x", "a" * 5_000, "é", "‖", "\udcff", "a\nb", "\x1b[31m", "%s",
    "%(prog)s", "{}", "None", "True", "[1]", "=", "--overwrite", "-h", "cpu", "cuda:99", "cuda:-1", "meta", "hpu",
    "auto", "toy", "tiny", "paper", "all", "float64", "bfloat16", "(", "[", "*", ".", "..", "/", "~", "~nobody/x",
    "/nowhere/x", "/dev/null", "/dev/null/x", "FOLDER", "FOLDER/model", "FOLDER/config.json", "EMPTY", "FILE",
]  # fmt: skip


def actions_of(script):
    actions = SCRIPTS[script].make_parser()._actions
    return [action for action in actions if action.dest not in ("help", "verbose")]  # which say more


def drawn(action, rng):
    """A flag with a value, or several, or none where it wants one."""
    name = rng.choice(action.option_strings)
    if action.nargs == 0:
        return rng.choice([[name], [name], [name, rng.choice(EDGES)], [f"{name}={rng.choice(EDGES)}"]])
    values = [rng.choice(EDGES) for _ in range(rng.choice([0, 1, 1, 1, 1, 1, 2]))]
    return [f"{name}={values[0]}", *values[1:]] if values and rng.random() < 0.3 else [name, *values]


def command_line(script, rng, number):
    """The flags of a small run, and one to three more. In turn each flag of the parser is among them."""
    actions = actions_of(script)
    chosen = [actions[number % len(actions)], *rng.sample(actions, rng.choice([0, 1, 1, 2]))]
    words = BASE[script].split() if rng.random() < 0.8 else []
    for action in chosen:
        words += drawn(action, rng)
    return words


def files(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run that kept its points and can be resumed, an empty folder and a file."""
    place = tmp_path_factory.mktemp("place")
    flags = [*BASE["landscape"].split(), "--save_points", "--save_model", "--output_dir", str(place / "run")]
    with pytest.MonkeyPatch.context() as patch:
        tiny_run.undone_by(patch)
        assert tiny_run.main("landscape", flags) == 0
    config = json.loads((place / "run" / "config.json").read_text())
    del config["finished"]
    (place / "run" / "config.json").write_text(json.dumps(config))
    (place / "empty").mkdir()
    (place / "file").write_text("mine")
    return place


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("wanted", [25, pytest.param(300, marks=pytest.mark.slow)])
def test_wrong_command_lines_are_answered_in_one_line(script, wanted, place, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(runs.lifecycle, "to_its_end", lambda folder, *_: (runs.lifecycle.unlock(folder), (0, ""))[1])
    tiny_run.undone_by(monkeypatch)
    rng, refused, number = random.Random(wanted), 0, 0
    pristine = Path(shutil.copytree(place, tmp_path / "pristine"))
    while refused < wanted:
        work = Path(shutil.copytree(pristine, tmp_path / f"work{number}"))
        monkeypatch.chdir(work)
        known = {"FOLDER": "run", "EMPTY": "empty", "FILE": "file"}
        words = command_line(script, rng, number)
        for short, real in known.items():
            words = [word.replace(short, real) for word in words]
        if not any(word.startswith(("--output_dir", "--resume")) for word in words):
            words += ["--output_dir", "new"]
        number += 1
        capfd.readouterr()
        before = files(work)
        try:
            status = tiny_run.main(script, words)
        except SystemExit as exit:
            status = exit.code
        except Exception as error:
            pytest.fail(f"{script} {words} ends in {error!r}")
        said = capfd.readouterr().err
        if status == 2:
            refused += 1
            assert files(work) == before, words
            assert "error: " in said and "Traceback" not in said, (words, said)
            assert said.count("\n") == 1, (words, said)
        else:
            assert status == 0, (words, said)
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(work)
    print(f"{script}: {refused} of {number} command lines were wrong")
