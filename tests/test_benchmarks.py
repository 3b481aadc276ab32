"""A benchmark that compares with other packages says which of them are missing."""

import pytest

from benchmarks._machine import require


def test_missing_packages_are_named_in_one_line_before_anything_is_measured(capsys):
    require({"torch": "torch"}, "benchmarks.some")
    with pytest.raises(SystemExit) as ended:
        require({"torch": "torch", "no_such_module": "no-such-package"}, "benchmarks.some")
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    assert "benchmarks.some" in said and said.rstrip().endswith("pip install --no-deps no-such-package")
