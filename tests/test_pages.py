"""README and the pages of docs/: their commands, links, programs and columns are those of the code."""

import re
import shlex
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

import figures.__main__
import run_convergence
from algorithm_list import ALGORITHM_LISTS
from claims.page import CLAIMS, PAPER_ORDERINGS, PAPER_RATIOS
from convergence.best_epochs import COLUMNS as BEST_EPOCHS
from convergence.learning_rates import TRIALS
from hessian.robust_smoothness import RobustSmoothness
from hessian.tables import BLOCKS, HETEROGENEITY
from landscape.tables import COLUMNS
from tests.helpers.commands import ROOT, SCRIPTS
from tests.helpers.run_folders import write_run
from torch_optimizer import Algorithm
from torch_optimizer.rows import labeled

PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
CODE = re.compile(r"```(\w*)\n(.*?)```|^    ([^\n]+)|`([^`\n]+)`", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:\w+=\S+ )*(python|make) (.*)")
TABLES = {
    **{name: columns.split() for name, columns in COLUMNS.items()},
    "losses": run_convergence.LOSSES,
    "summary": run_convergence.SUMMARY,
    "scores": run_convergence.SCORES,
    "best_epochs": BEST_EPOCHS,
    "tuned_learning_rates": TRIALS,
    "blocks": BLOCKS,
    "heterogeneity": HETEROGENEITY,
    "claims": CLAIMS,
    "paper_ratios": PAPER_RATIOS,
    "paper_orderings": PAPER_ORDERINGS,
    "robust_smoothness": [field.name for field in fields(RobustSmoothness)],
}


def text_of(page):
    return (ROOT / page).read_text()


def commands(page):
    """Every command of a page, once, as words: `python` or `make` first."""
    command_lines = {}
    for _, block, indented, span in CODE.findall(text_of(page).replace("\\\n", " ")):
        for line in (block or indented or span).splitlines():
            for part in line.split("&&"):
                if command := COMMAND.fullmatch(part.strip()):
                    command_lines[command[1], *shlex.split(command[2], comments=True)] = None
    return list(command_lines)


def programs(page):
    return [block for language, block, *_ in CODE.findall(text_of(page)) if language == "python"]


@pytest.mark.parametrize("page, words", [(p, c) for p in PAGES for c in commands(p)])
def test_each_command_of_a_page_is_understood(page, words, monkeypatch, capsys):
    program, *flags = words
    monkeypatch.setitem(ALGORITHM_LISTS, "mine", [])  # README writes it
    if program == "make":
        assert re.search(rf"^{flags[0]}:", text_of("Makefile"), re.MULTILINE)
    elif flags[0].endswith(".py"):
        script = SCRIPTS.get(flags[0]) or import_module(flags[0].removesuffix(".py"))
        script.make_parser("").parse_args(flags[1:])
    elif flags[:2] == ["-m", "figures"]:
        monkeypatch.setattr(figures.__main__, "draw_all", lambda folder: [])
        monkeypatch.setattr(figures.__main__, "draw_overlay", lambda folders, output, names: [])
        assert figures.__main__.main(flags[2:]) == 0
    elif flags[1].split(".")[0] in ("benchmarks", "study"):
        path = ROOT / flags[1].replace(".", "/")
        source = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
        if "add_flags(parser" in source:
            source += (ROOT / "benchmarks" / "_machine.py").read_text()
        assert all(f'"{flag}"' in source for flag in flags[2:] if flag.startswith("--"))
    else:
        assert flags[:2] == ["-m", "pytest"]


def test_pages_are_searched_for_commands():
    """So that the test above cannot pass by finding nothing."""
    command_lines = [words for page in PAGES for words in commands(page)]
    assert len(command_lines) > 60
    assert ("python", "run_landscape.py") in commands("README.md")
    assert ("python", "-m", "pytest") in commands("README.md")
    assert ("python", "-m", "benchmarks.sharpness", "--threads", "1") in commands("docs/speed.md")


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_each_link_of_a_page_leads_somewhere(page):
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)\s]+)\)", text_of(page))
    inside = [link.partition("#")[0] for link in links if not link.startswith("https://")]
    assert [link for link in inside if not (folder / link).exists()] == []


def test_readme_leads_to_every_page_and_is_short():
    text = text_of("README.md")
    assert [page for page in PAGES[1:] if f"]({page})" not in text] == []
    assert len(text.splitlines()) <= 130 and len(text.split()) <= 1300


def test_readme_installs_the_torch_of_the_requirements():
    (version,) = re.findall(r"^(torch==\S+)", text_of("requirements.txt"), re.MULTILINE)
    assert re.findall(r"torch==\S+", text_of("README.md")) == [version]


def test_ci_finds_the_test_command_of_readme():
    pattern = re.search(r"grep -m1 -E '([^']+)' README.md", text_of(".ci/run"))[1]
    (command,) = re.findall(f"{pattern}.*$", text_of("README.md"), re.MULTILINE)
    assert command.endswith("python -m pytest")


def test_files_page_explains_every_column_of_every_table_in_order():
    sections = re.findall(r"^### `(\w+)\.csv`\n(.*?)(?=^##|\Z)", text_of("docs/files.md"), re.MULTILINE | re.DOTALL)
    explained = {name: re.findall(r"^\| `(\w+)` \| \S", body, re.MULTILINE) for name, body in sections}
    assert explained == TABLES


def test_python_in_the_pages_runs(tmp_path, monkeypatch, capsys):
    ratios = [dict(algorithm="adam", epoch=epoch, mean_ratio=epoch / 8) for epoch in (1, 5)]
    monkeypatch.chdir(tmp_path)
    write_run(Path("output/landscape-toy-adam"), ["sgd", "adam"], ratios=ratios, sharpness=[])
    names = {"Algorithm": Algorithm}
    for page in ("README.md", "docs/your_own.md", "docs/files.md"):
        for program in programs(page):
            exec(program, names)
    assert list(labeled(names["MINE"])) == ["sgd", "sgd, coordinate_clip=0.1", "muon_adamw"]
    assert "{'adam': 0.625}" in capsys.readouterr().out
    assert names["found"].slope < 0 < names["found"].sharpness
    assert names["settings"]["task"] == "toy"
