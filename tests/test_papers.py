"""The commands of docs/papers.md: each is understood, and runs at toy size."""

import shlex

import pytest

from tests.helpers.commands import ROOT, SCRIPTS, at_toy_size, commands
from tests.helpers.hub_repositories import REPOSITORIES
from tests.helpers.paper_numbers import section

PAGE = "papers.md"


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
        assert len(algorithms) == len(getattr(settings, "only", None) or range(rows.get(first_word, 6)))


def test_the_page_counts_the_rows_of_each_split():
    page = (ROOT / "docs" / PAGE).read_text()
    for task, repository in REPOSITORIES.items():
        if repository.used and task not in ("binary_classification", "image_classification"):
            assert f"| `{task}` | " + " | ".join(f"{n:,}" for n in repository.used) + " |" in page


@pytest.mark.slow
@pytest.mark.parametrize("words", commands(PAGE), ids=shlex.join)
def test_each_command_runs_at_toy_size(words, tmp_path, capsys):
    flags = at_toy_size(words)
    assert SCRIPTS[words[0]].main([*flags, "--output_dir", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    assert list((tmp_path / "run" / "figures").glob("*.png"))


def test_the_page_holds_the_papers_numbers_as_the_data_file_has_them():
    page = (ROOT / "docs" / PAGE).read_text()
    assert page.endswith(section()) and page.count("\n| ") > 200
