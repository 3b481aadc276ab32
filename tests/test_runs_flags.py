"""The types of the flags, and their answers: argparse's own errors never surface as a traceback."""

import argparse
import getpass
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from runs import flag_types
from runs.flag_types import (
    DTYPES,
    device,
    folder_name,
    name_or_path,
    number,
    one_of,
    positive_float,
    positive_int,
    seed_number,
)
from runs.flags import (
    Need,
    Parser,
    default_output,
    fill_in,
    needs_the_hub,
    refuse_without_effect,
    task_arguments,
)

ROOT = Path(flag_types.__file__).parent.parent


@pytest.mark.parametrize("kind, low, high, good, bad", [
    (int, 1, None, ["1", "1000000000", " 7 "], ["0", "1000000001", "1.0", "", "x", "inf", "1" + "0" * 5000]),
    (float, 0, 0.5, ["0", "0.5", "1e-3"], ["-0.1", "0.51", "nan", "inf", "-inf", "1e400", "0x1"]),
    (float, 1e-30, None, ["1e-30", "1e30", "7"], ["0", "1e-31", "1e31", "-1"]),
])  # fmt: skip
def test_a_number_lies_within_its_range_or_the_range_is_named(kind, low, high, good, bad):
    parse = number(kind, low, high)
    assert [parse(text) for text in good] == [kind(text) for text in good]
    assert all(type(parse(text)) is kind for text in good)
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=rf"^expected {kind.__name__} in \[.*, got '"):
            parse(text)


def test_a_number_past_every_range_is_shown_by_its_beginning():
    with pytest.raises(argparse.ArgumentTypeError) as answer:
        positive_int("1" * 400)
    assert str(answer.value) == f"expected int in [1, 1000000000], got '{'1' * 60}...'"


def test_the_least_and_the_largest_float_are_numbers_of_float32():
    low, high = positive_float("1e-30"), positive_float("1e30")
    assert torch.tensor(low).item() > 0 and torch.tensor(high).isfinite()


@pytest.mark.parametrize("kind", [name_or_path, folder_name, flag_types.nonempty])
@pytest.mark.parametrize("text", ["", "  "])
def test_an_unset_variable_of_the_shell_is_not_a_name(kind, text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a name, got nothing"):
        kind(text)


def test_home_folders_are_found_and_those_of_nobody_refused():
    home = str(Path("~").expanduser())
    assert folder_name("~/run") == f"{home}/run" and folder_name(f"~{getpass.getuser()}/run") == f"{home}/run"
    assert name_or_path("~/data.jsonl") == "~/data.jsonl", "as the user wrote it"
    for kind in (name_or_path, folder_name):
        with pytest.raises(
            argparse.ArgumentTypeError, match="'~nobody-of-that-name/x' names the home of no user of this machine"
        ):
            kind("~nobody-of-that-name/x")


def test_devices_are_those_that_can_compute():
    assert device("cpu") == torch.device("cpu")
    assert device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for text in ("meta", "hpu", "xla", "", "cuda:", "cuda:-1", "cuda:77", "cuda:" + "9" * 500, "CPU", "cpu:0:0"):
        with pytest.raises(argparse.ArgumentTypeError, match="cannot be used .*this machine has cpu"):
            device(text)


def test_a_name_close_to_a_known_one_is_answered_with_it():
    parse = one_of("color", ["red", "green"])
    assert parse("red") == "red"
    with pytest.raises(argparse.ArgumentTypeError, match="^unknown color 'gren'; did you mean 'green'. known: red, "):
        parse("gren")
    with pytest.raises(argparse.ArgumentTypeError, match="^unknown color 'x'; known: red, green$"):
        parse("x")


@pytest.mark.parametrize("words", [["--n=--"], ["--many", "1", "--", "2"], ["--"], ["--many", "--"]])
def test_two_dashes_are_no_value(words, capsys):
    parser = Parser("a script")
    parser.add_argument("--n", type=positive_int)
    parser.add_argument("--many", type=positive_int, nargs="+")
    with pytest.raises(SystemExit) as exit:
        parser.parse_args(words)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1 and "'--' is not a value" in error


def test_number_types_are_torchs():
    assert dict(DTYPES) == {"float32": torch.float32, "float64": torch.float64} and len(DTYPES) == 2
    assert "float16" not in DTYPES


def test_flags_messages_tables_and_folders_need_no_torch():
    code = (
        "import sys, runs.flag_types, runs.flags, runs.messages, runs.resuming, runs.lock, runs.stopping, runs.folder\n"
        "import runs.tables\n"
        "runs.flag_types.positive_int('3'); 'float32' in runs.flag_types.DTYPES\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_seed_is_what_every_generator_takes():
    assert [seed_number(text) for text in ("0", "2147483647")] == [0, 2**31 - 1]
    for text in ("-1", "2147483648"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"expected int in \[0, 2147483647\]"):
            seed_number(text)


# ---- from flags to a run ------------------------------------------------------------------------------------------


def test_a_flag_is_written_out_and_its_default_shown_unless_it_is_off(capsys):
    parser = Parser("a script")
    parser.add_argument("--many_words", type=int, default=7, help="so many")
    parser.add_argument("--switch", action="store_true", help="on")
    with pytest.raises(SystemExit) as exit:
        parser.parse_args(["--many", "3"])
    assert exit.value.code == 2 and "unrecognized arguments: --many 3" in capsys.readouterr().err
    text = parser.format_help()
    assert "so many (default: 7)" in text and "False" not in text


def test_what_the_task_is_asked_for_is_what_the_flags_say():
    asked = dict(dataset="d", model="m", dataset_size=3, hf_key="k", max_length=5, windows_per_file=0)
    assert (
        asked.items()
        <= task_arguments(
            argparse.Namespace(
                **asked, zipf=None, columns=None, config=None, split=None, eval_dataset=None, task="t", seed=4
            )
        ).items()
    )


def test_only_what_was_left_out_takes_the_tasks_default():
    @dataclass
    class Defaults:
        max_grad_norm: float = 1.0
        num_epochs: int = 20
        unknown: int = 3

    given = argparse.Namespace(max_grad_norm=0.0, num_epochs=None, device="a device")
    fill_in(given, Defaults())
    assert vars(given) == {"max_grad_norm": 0.0, "num_epochs": 20, "device": "a device"}


def test_a_token_is_for_what_may_come_from_the_hub():
    def wants(task, dataset=None, model=None):
        return needs_the_hub(argparse.Namespace(task=task, dataset=dataset, model=model))

    assert not wants("toy") and not wants(None) and not wants("glue/rte", "toy", "toy")
    assert wants("glue/rte") and wants("glue/rte", "toy") and wants("toy", "owner/data") and wants("toy", model="m")


def test_a_flag_that_cannot_act_is_refused_and_one_that_acts_is_not():
    needs = [Need("fast", "without --engine", lambda settings: settings.engine)]
    refuse_without_effect({"fast"}, argparse.Namespace(engine=True), needs)
    refuse_without_effect(set(), argparse.Namespace(engine=False), needs)
    with pytest.raises(ValueError, match="^--fast has no effect without --engine; leave it out$"):
        refuse_without_effect({"fast"}, argparse.Namespace(engine=False), needs)


def test_a_run_without_a_name_goes_into_one_folder_below_output():
    assert default_output("hessian", "glue/rte") == "output/hessian-glue-rte"
