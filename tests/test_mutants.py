"""The list of tests/mutants/ fits the code: what it would change is still there, once."""

from collections import Counter
from functools import cache

from tests.mutants import AREAS, ROOT, mutants

text_of = cache(lambda file: (ROOT / file).read_text())


def test_every_mutant_changes_one_place_and_leaves_the_file_readable():
    for mutant in mutants():
        text = text_of(mutant.file)
        assert text.count(mutant.old) == 1, f"{mutant}: {mutant.old!r} is there {text.count(mutant.old)} times"
        assert mutant.old != mutant.new, str(mutant)
        compile(text.replace(mutant.old, mutant.new), str(mutant), "exec")


def test_every_mutant_has_tests_and_a_claim_of_its_own():
    every_mutant = list(mutants())
    for mutant in every_mutant:
        assert mutant.tests and all((ROOT / test.partition("::")[0]).is_file() for test in mutant.tests), str(mutant)
    assert [str(mutant) for mutant, count in Counter(every_mutant).items() if count > 1] == []


def test_there_are_hundreds_of_mutants_in_every_kind_of_place():
    counts = Counter(mutant.area for mutant in mutants())
    assert counts.keys() == set(AREAS) and counts.total() >= 240 and min(counts.values()) >= 20
