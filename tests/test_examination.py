"""The fast route on many architectures and operations: right, or refused and measured by double backward."""

from collections.abc import Iterable

import pytest

from tests.examination.architectures import ARCHITECTURES, examine_architecture
from tests.examination.operations import examine_operation, samples
from tests.examination.verdicts import Verdict, summary


def assert_right_or_fallback(verdicts: Iterable[Verdict], least_right: float) -> None:
    verdicts = list(verdicts)
    text = summary(verdicts)
    print(text)
    assert not [v for v in verdicts if v.kind in ("wrong", "crash")], text
    assert sum(v.kind == "right" for v in verdicts) >= least_right * len(verdicts), text


@pytest.mark.slow
def test_every_architecture_is_right_or_measured_by_double_backward():
    assert len(ARCHITECTURES) >= 150
    assert_right_or_fallback((examine_architecture(name) for name in ARCHITECTURES), least_right=0.75)


@pytest.mark.slow
def test_every_operation_is_right_or_measured_by_double_backward():
    verdicts = [verdict for case in samples() if (verdict := examine_operation(*case))]
    assert len({v.name.split(" #")[0] for v in verdicts}) >= 450
    assert_right_or_fallback(verdicts, least_right=0.9)


@pytest.mark.parametrize("name", ["gpt2", "segformer", "mamba", "levit", "switch_transformers"])
def test_a_few_architectures_are_examined_each_time(name):
    assert examine_architecture(name).kind == ("fallback" if name == "switch_transformers" else "right")
