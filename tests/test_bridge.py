"""Flags and names of the papers' released code are answered with ours, and the page about them says the same."""

import shlex

import pytest

from runs import bridge
from tests.helpers.commands import ROOT, SCRIPTS, at_toy_size, commands

PAGE = "coming_from_the_original.md"
LINES = [*bridge.PAN_LI, *bridge.TOMIHARI_SATO]
EXAMPLES = {"N": "3", "X": "1e-8", "NAME": "linear", "FILE": "conf.yaml", "FOLDER": "conf"}


def filled(text: str) -> list[str]:
    """The words of a line with an example in place of what stands for any value."""
    return [EXAMPLES.get(word, word) for word in shlex.split(text)]


def known_to(script: str) -> set[str]:
    return set(SCRIPTS[script].make_parser()._option_string_actions)


def answers(script: str, words: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as exit:
        SCRIPTS[script].main(words)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1
    return error.strip()


def test_the_page_holds_every_line():
    page = (ROOT / "docs" / PAGE).read_text()
    assert bridge.table(bridge.PAN_LI) in page and bridge.table(bridge.TOMIHARI_SATO) in page
    assert len({line.there for line in LINES}) == len(LINES)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.there)
def test_each_line_is_answered_in_one_line(line, capsys):
    """By every script that lacks the flag, and by those that have it where the value is not ours."""
    words = filled(line.there)
    any_value = words != line.there.split()
    asked = [name for name in SCRIPTS if not (any_value and words[0] in known_to(name))]
    assert asked
    expected = " ".join(EXAMPLES.get(word, word) for word in line.here.split(" ")) if any_value else line.here
    for script in asked:
        said = answers(script, words, capsys)
        assert f": error: {' '.join(words)} of the original code is " in said
        assert f" is written {expected} here" in said if line.here else " is left out here" in said
        assert said.endswith(line.note)


@pytest.mark.parametrize("line", [line for line in LINES if line.here], ids=lambda line: line.there)
def test_what_a_line_says_is_a_flag_of_a_script(line):
    words = [EXAMPLES.get(word, word) for word in shlex.split(line.here)]
    script, flags = (words[0], words[1:]) if words[0].endswith(".py") else (None, words)
    asked = {word for word in flags if word.startswith("--")}
    able = [script] if script else [name for name in SCRIPTS if asked <= known_to(name)]
    assert able
    for name in able:
        SCRIPTS[name].make_parser().parse_args(flags)


def test_what_is_ours_is_not_taken_for_theirs(tmp_path, monkeypatch):
    """Our own names and values pass, also where a line is about the same flag; so does a folder called like a model."""
    monkeypatch.chdir(tmp_path)
    for script, flags in [
        ("run_landscape.py", "--task glue/rte --momentum --skip_search --save_model --train_optimizer sgd --seed 3"),
        ("run_convergence.py", "--task aircraft --only sgd adam --lr_scheduler linear --seeds 1 2 --save_model"),
        ("run_hessian.py", "--task super_glue/wic --model microsoft/resnet-18 --seed 4"),
    ]:
        assert bridge.answer(flags.split(), SCRIPTS[script].make_parser()._option_string_actions) is None
    assert "FacebookAI/roberta-base" in bridge.answer(["--model", "roberta-base"], ["--model"])
    (tmp_path / "roberta-base").mkdir()
    assert bridge.answer(["--model", "roberta-base"], ["--model"]) is None


@pytest.mark.parametrize("words, said", [
    (["--task=rte"], "--task rte of the original code is written --task glue/rte here"),
    (["--only", "adam", "signsgd", "--seeds", "1"], "--only signsgd of the original code is written --only sign_sgd"),
    (["--num_train_epochs", "7"], "--num_train_epochs 7 of the original code is written --num_epochs 7 here"),
    (["--optimizer_name", "rmsprop"], "--optimizer_name rmsprop of the original code is written --only rmsprop here"),
    (["--domain"], "--domain NAME of the original code is left out here: the task says it"),
])  # fmt: skip
def test_values_are_found_wherever_they_stand(words, said, capsys):
    assert said in answers("run_convergence.py", words, capsys)


@pytest.mark.parametrize("words", commands(PAGE), ids=shlex.join)
def test_each_command_of_the_page_is_understood(words):
    script, *flags = words
    settings = SCRIPTS[script].make_parser().parse_args(flags)
    assert settings.task is None or settings.task != "toy"


@pytest.mark.slow
def test_each_command_of_the_page_runs_at_toy_size(tmp_path, monkeypatch, capsys):
    """In the order of the page: a later one measures the model that an earlier one saved."""
    monkeypatch.chdir(tmp_path)
    command_lines = commands(PAGE)
    assert len(command_lines) == 14
    for words in command_lines:
        flags = at_toy_size(words)
        assert SCRIPTS[words[0]].main([*flags, "--overwrite"]) == 0, (words, capsys.readouterr().err)
