"""No sentence of a page says what the tables do not: each is worked out a second time from the CSV files."""

import pytest

from figures.run_tables import read_run
from reporting import answers
from reporting.page import RunOnPage, page_of_run
from runs.config import read_config
from tests.helpers.report_folders import convergence, hessian, landscape, scan_only, seeds
from tests.helpers.traced_sentences import FIRST, KINDS, THEN, Cells, Said, trace

FOLDERS = {
    "landscape": landscape,
    "seeds": seeds,
    "no reference": lambda folder: landscape(folder, ("adam", "lion", "training"), reference=None),
    "negative reference": lambda folder: landscape(folder, changes={"sgd": ((-8.0, 10.0), 0.57, -2.0, 0.1)}),
    "scans": scan_only,
    "convergence": convergence,
    "one seed, not tuned": lambda folder: convergence(folder, seeds=(4,), tuned=False),
    "hessian": hessian,
    "hessian, unclear": lambda folder: hessian(folder, low=-0.1, high=0.9),
}


def traced(folder):
    run = read_run(folder)
    page = page_of_run(RunOnPage("run", run, read_config(folder), [], True))
    said = Said(page).found
    assert said == [sentence.text for sentence in answers.answer(run)]
    return said, [pattern for sentence in said for pattern in trace(Cells(folder), sentence)]


@pytest.mark.parametrize("name", FOLDERS)
def test_every_sentence_of_the_page_is_traced_to_cells_that_give_its_numbers(tmp_path, name):
    said, _ = traced(FOLDERS[name](tmp_path))
    assert len(said) > 1


def test_each_kind_of_sentence_is_traced_somewhere(tmp_path):
    """So that no pattern above is there in vain, and no sentence goes untried."""
    used = set()
    for i, make in enumerate(FOLDERS.values()):
        used.update(traced(make(tmp_path / str(i)))[1])
    assert {*KINDS, *FIRST, *THEN} - used == set()


def test_a_cell_that_changes_changes_the_sentence_that_it_gives(tmp_path):
    before, _ = traced(landscape(tmp_path / "a"))
    after, _ = traced(landscape(tmp_path / "b", changes={"adam": ((1.0, 1.2), 0.62, -0.7, 0.001)}))
    assert {a.split(";")[0] for a in after} - {b.split(";")[0] for b in before} == {
        "The step of adam is 8.2 times flatter than that of sgd (8.0 to 8.3, 2 points)"
    }


def test_a_sentence_says_what_the_issue_asked_for(tmp_path):
    said, _ = traced(seeds(tmp_path))
    assert (
        "The step of adam is 4.1 times flatter than that of sgd (3.2 to 5.0, 3 seeds); with its learning rate of 0.001 "
        "it ends at 0.31 of its edge." in said
    )
