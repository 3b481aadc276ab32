"""The commands of docs/papers.md: each is understood, and runs at toy size."""

import json
import shlex

import pytest

from tests.helpers.commands import ROOT, SCRIPTS, at_toy_size, commands
from tests.helpers.hub_repositories import FACTS, REPOSITORIES
from tests.helpers.paper_numbers import section, text_of

PAGE = "papers.md"
OTHER_SCHEDULES = ("-constant", "-cosine", "-linear_with_warmup")  # of lists with the two momentum methods alone


@pytest.mark.parametrize("words", commands(PAGE), ids=shlex.join)
def test_each_command_is_understood_and_takes_the_papers_rows(words):
    script, *flags = words
    settings = SCRIPTS[script].make_parser().parse_args(flags)
    resolved = SCRIPTS[script].resolve(settings)
    assert "toy" not in (settings.task, settings.dataset, settings.model)
    if script != "run_hessian.py":
        rows = {"machine_translation": 12, "autoregressive": 6, "workshop": 7}
        first_word = settings.algorithm_list.split("/")[0].split("_masked")[0]
        algorithms = resolved[1] if script == "run_landscape.py" else resolved
        expected = 2 if settings.algorithm_list.endswith(OTHER_SCHEDULES) else rows.get(first_word, 6)
        assert len(algorithms) == expected


def test_the_page_counts_the_rows_that_each_task_uses():
    page = (ROOT / "docs" / PAGE).read_text()
    assert len(REPOSITORIES) == 14
    for task, repository in REPOSITORIES.items():
        counts = [*(f"{n:,}" for n in repository.used), *["none"] * (3 - len(repository.used))]
        assert f"| `{task}` | {' | '.join(counts)} |\n" in page


def test_the_page_says_of_each_number_that_differs_what_is_here_and_why():
    page = (ROOT / "docs" / PAGE).read_text().splitlines()
    facts = json.loads(FACTS.read_text())
    entries = [
        e for part in facts.values() if isinstance(part, list) for e in part if isinstance(e, dict) and "here" in e
    ]
    entries += [row for part in facts["algorithm_lists"] for row in part["rows"] if "here" in row]
    assert len(entries) > 50
    for entry in entries:
        assert any(f"| {text_of(entry['here'])} |" in line and line.endswith(f"| {entry['why']} |") for line in page), (
            entry
        )


@pytest.mark.slow
@pytest.mark.parametrize("words", commands(PAGE), ids=shlex.join)
def test_each_command_runs_at_toy_size(words, tmp_path, capsys):
    flags = at_toy_size(words)
    assert SCRIPTS[words[0]].main([*flags, "--output_dir", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    assert list((tmp_path / "run" / "figures").glob("*.png"))


def test_the_page_holds_the_papers_numbers_as_the_data_file_has_them():
    page = (ROOT / "docs" / PAGE).read_text()
    assert page.endswith(section()) and page.count("\n| ") > 200
