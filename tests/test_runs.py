"""The run folder: nothing half-written, nothing foreign removed, every number read back as it was."""

import errno
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from curvature.memory import is_out_of_memory
from runs import files
from runs import folder as folders
from runs.config import (
    described,
    git_state,
    mark_finished,
    read_config,
    record_resumption,
    without_secrets,
    write_config,
)
from runs.files import write_whole
from runs.folder import create_run_folder, leftovers
from runs.tables import Table, format_table, read_table


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- writing whole -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["é\n", "é\n".encode(), lambda file: file.write("é\n".encode())])
def test_write_whole_takes_text_bytes_or_a_writing_function(tmp_path, content):
    assert write_whole(tmp_path / "a.txt", content).read_bytes() == b"\xc3\xa9\n"
    assert names_in(tmp_path) == ["a.txt"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    def crash(file):
        file.write(b"half")
        raise RuntimeError("crashed in the middle")

    write_whole(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError, match="in the middle"):
        write_whole(tmp_path / "a.txt", crash)
    assert (tmp_path / "a.txt").read_text() == "old" and names_in(tmp_path) == ["a.txt"]


def test_a_full_disk_is_told_in_one_line_and_the_old_file_stays(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_whole(tmp_path / "a.txt", "old")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ValueError, match=r"^cannot write .*a\.txt: No space left on device$"):
        write_whole(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old" and names_in(tmp_path) == ["a.txt"]


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot write .*no.where.a\.txt: No such file or directory"):
        write_whole(tmp_path / "no" / "where" / "a.txt", "new")
    write_whole(tmp_path / "file", "in the way")
    with pytest.raises(ValueError, match=r"cannot write .*file.a\.txt: (File exists|Not a directory)"):
        write_whole(tmp_path / "file" / "a.txt", "new")


def test_a_refusal_that_a_library_hides_behind_its_own_error_is_told_all_the_same(tmp_path, monkeypatch):
    """torch.save answers a full disk with a RuntimeError about its archive."""

    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __getattr__(self, name):
            return lambda *_: None

    def save(file):
        try:
            file.write(b"x")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0") from None

    def save_in_silence(file):
        with suppress(OSError):
            file.write(b"x")

    write_whole(tmp_path / "a.txt", "old")
    monkeypatch.setattr(files, "_Writer", lambda file, writer=files._Writer: writer(Full()))
    for content in (save, save_in_silence):
        with pytest.raises(files.CannotWrite, match=r"^cannot write .*a\.txt: No space left on device$"):
            write_whole(tmp_path / "a.txt", content)
    assert (tmp_path / "a.txt").read_text() == "old" and names_in(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_planted_temporary_file_does_not_lead_the_writing_elsewhere(kind, tmp_path):
    (tmp_path / "precious").write_text("years of work")
    temporary = tmp_path / "run" / f".a.txt.{os.getpid()}.tmp"
    temporary.parent.mkdir()
    if kind == "link":
        temporary.symlink_to(tmp_path / "precious")
    else:
        os.link(tmp_path / "precious", temporary)
    write_whole(tmp_path / "run" / "a.txt", "new")
    assert (tmp_path / "precious").read_text() == "years of work"
    assert (tmp_path / "run" / "a.txt").read_text() == "new" and names_in(tmp_path / "run") == ["a.txt"]


@pytest.mark.parametrize("error, known", [
    (MemoryError(), True), (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), True),
    (RuntimeError("CUDA out of memory"), True), (RuntimeError("shapes differ"), False), (ValueError("memory"), False),
])  # fmt: skip
def test_memory_that_cannot_be_had_is_known_by_any_of_its_errors(error, known):
    assert is_out_of_memory(error) == known


# ---- the folder --------------------------------------------------------------------------------------------


def test_a_new_run_folder_is_made_with_its_parents_and_an_empty_one_is_accepted(tmp_path):
    folder = create_run_folder(tmp_path / "output" / "toy")
    assert folder.is_dir() and create_run_folder(folder) == folder


def test_a_filled_folder_is_refused_with_the_two_ways_out(tmp_path):
    write_config(create_run_folder(tmp_path / "run"), {}, [])
    with pytest.raises(ValueError, match="not empty; .*--overwrite.*--output_dir") as refusal:
        create_run_folder(tmp_path / "run")
    assert "\n" not in str(refusal.value)


OURS = ["scan.csv", "log.txt", "report.html", "figures/a.png", "checkpoints/checkpoint-00000001.pt",
        "points/point-00000001.pt", "tensorboard/events.out.tfevents.1.vm.2.0",
        "model/config.json", ".scan.csv.17.tmp", "figures/.a.png.17.tmp", "model/.model.tmp/weights"]  # fmt: skip
THEIRS = ["my.csv", "notes.txt", "notes/.mine.tmp", ".my.csv.17.tmp", "figures/talk.odp", "checkpoints/readme.txt",
          "points/.mine.tmp", "tensorboard/mine", "notes/.scan.csv.17.tmp"]  # fmt: skip


def fill(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_overwrite_removes_what_a_run_wrote_and_keeps_the_rest(tmp_path):
    folder = create_run_folder(tmp_path / "run")
    write_config(folder, {}, [])
    fill(folder, [*OURS, *THEIRS])
    create_run_folder(folder, overwrite=True)
    assert files_in(folder) == sorted(THEIRS)


def test_overwrite_leaves_no_empty_folders(tmp_path):
    folder = create_run_folder(tmp_path / "run")
    write_config(folder, {}, [])
    fill(folder, OURS)
    create_run_folder(folder, overwrite=True)
    assert names_in(folder) == []


def test_only_unfinished_files_of_a_run_are_leftovers(tmp_path):
    fill(tmp_path, [*OURS, *THEIRS])
    paths = sorted(str(path.relative_to(tmp_path)) for path in leftovers(tmp_path))
    assert paths == [".scan.csv.17.tmp", "figures/.a.png.17.tmp", "model/.model.tmp"]


def test_every_table_that_a_script_writes_is_known_to_be_ours():
    """From the source: `Table(folder / "name.csv", ...)`, and the names of the landscape's tables."""
    root = Path(folders.__file__).parent.parent
    sources = [*root.glob("*.py"), *root.glob("landscape/*.py"), *root.glob("convergence/*.py"),
               *root.glob("hessian/*.py")]  # fmt: skip
    written = {name for path in sources for name in re.findall(r'Table\([^)]*"([a-z_]+\.csv)"', path.read_text())}
    columns = re.search(r"^COLUMNS = \{\n(.*?)^\}", (root / "landscape" / "tables.py").read_text(), re.M | re.S)[1]
    written |= {f"{name}.csv" for name in re.findall(r'^    "(\w+)":', columns, re.M)}
    assert len(written) >= 11 and written <= set(folders.TABLES), written - set(folders.TABLES)


@pytest.mark.parametrize("name", ["checkpoints", "points", "model"])
def test_a_link_to_an_empty_folder_on_a_larger_disk_is_welcome_in_a_new_run(name, tmp_path):
    fill(tmp_path, ["run/x", "scratch/x"])
    for path in (tmp_path / "run" / "x", tmp_path / "scratch" / "x"):
        path.unlink()
    (tmp_path / "run" / name).symlink_to(tmp_path / "scratch")
    assert create_run_folder(tmp_path / "run").is_dir()
    fill(tmp_path, ["scratch/checkpoint-00000001.json"])
    with pytest.raises(ValueError, match="is not empty"):
        create_run_folder(tmp_path / "run")


@pytest.mark.parametrize("config", [None, "{", "[]", '{"settings": {}}'])
def test_overwrite_never_touches_a_folder_that_no_run_wrote(tmp_path, config):
    write_whole(tmp_path / "thesis.csv", "years of work")
    if config is not None:
        write_whole(tmp_path / "config.json", config)
    before = names_in(tmp_path)
    with pytest.raises(ValueError, match="is not a run folder .*--output_dir"):
        create_run_folder(tmp_path, overwrite=True)
    assert names_in(tmp_path) == before


def test_overwrite_unlinks_a_linked_model_or_folder_and_leaves_its_target(tmp_path):
    folder = create_run_folder(tmp_path / "run")
    write_config(folder, {}, [])
    write_whole(tmp_path / "precious" / "weights", "x")
    (folder / "model").symlink_to(tmp_path / "precious")
    write_whole(tmp_path / "scratch" / "point-00000001.pt", "x")
    (folder / "points").symlink_to(tmp_path / "scratch")
    create_run_folder(folder, overwrite=True)
    assert names_in(folder) == [] and names_in(tmp_path / "precious") == ["weights"]
    assert names_in(tmp_path / "scratch") == ["point-00000001.pt"]


def test_a_file_in_the_way_is_named(tmp_path):
    write_whole(tmp_path / "run", "a file")
    with pytest.raises(ValueError, match="run is a file; .*--output_dir"):
        create_run_folder(tmp_path / "run", overwrite=True)
    with pytest.raises(ValueError, match="cannot create output folder .*Not a directory.*--output_dir"):
        create_run_folder(tmp_path / "run" / "below")


def test_a_folder_without_write_permission_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(folders.os, "access", lambda path, mode: not mode & os.W_OK)  # chmod does not stop root
    with pytest.raises(ValueError, match="no permission to write into .*--output_dir"):
        create_run_folder(tmp_path / "run")


# ---- tables ------------------------------------------------------------------------------------------------


def test_numbers_read_back_exactly_as_they_were(tmp_path):
    values = [0.1 + 0.2, 1e-300, -5e22, 1.0, 7, -3, 2**70]
    table = Table(tmp_path / "t.csv", ["value"])
    for value in values:
        table.append(value=value)
    back = [row["value"] for row in read_table(table.save())]
    assert back == values and [type(value) for value in back] == [type(value) for value in values]


def test_floats_are_stored_with_the_shortest_digits_and_labels_with_commas_survive(tmp_path):
    table = Table(tmp_path / "t.csv", ["algorithm", "ratio"])
    table.append({"algorithm": "sgd, coordinate_clip=0.1"}, ratio=0.1)
    assert table.save().read_text() == 'algorithm,ratio\n"sgd, coordinate_clip=0.1",0.1\n'
    assert read_table(table.path) == [{"algorithm": "sgd, coordinate_clip=0.1", "ratio": 0.1}]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_a_finite_number_is_an_empty_cell(tmp_path, value):
    table = Table(tmp_path / "t.csv", ["epoch", "slope"])
    table.append(epoch=1, slope=value)
    assert table.save().read_text() == "epoch,slope\n1,\n"
    assert read_table(table.path) == [{"epoch": 1, "slope": None}]


def test_numpy_numbers_are_stored_as_plain_ones(tmp_path):
    numpy = pytest.importorskip("numpy")
    table = Table(tmp_path / "t.csv", ["a", "b"])
    table.append(a=numpy.float64(0.5), b=numpy.int64(3))
    assert table.save().read_text() == "a,b\n0.5,3\n"


@pytest.mark.parametrize(
    "row, message",
    [
        ({"epoch": 1, "los": 2.0}, "t.csv has no column 'los'; it has epoch, loss"),
        ({"epoch": 1}, "a row of t.csv lacks its column 'loss'"),
        ({"epoch": 1, "loss": [2.0]}, r"column 'loss' of t.csv takes a number or a text, got \[2.0\]"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_by_column(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        Table(tmp_path / "t.csv", ["epoch", "loss"]).append(row)


def test_a_table_without_rows_still_has_its_header(tmp_path):
    assert read_table(Table(tmp_path / "t.csv", ["epoch"]).save()) == []


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "cannot read table .*t.csv: No such file"),
        ("", "t.csv is empty"),
        ("a,b\n1,2\n3\n", "t.csv, line 3: expected 2 cells, got 1"),
    ],
)
def test_a_bad_table_is_answered_in_one_line(tmp_path, text, message):
    if text is not None:
        write_whole(tmp_path / "t.csv", text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "t.csv")


def test_the_terminal_table_is_aligned_and_marks_empty_cells():
    rows = [
        {"algorithm": "sgd", "epoch 2": 1.0, "epoch 5": None},
        {"algorithm": "adam", "epoch 2": 0.0123456, "epoch 5": 2},
    ]
    assert format_table(rows, ["algorithm", "epoch 2", "epoch 5"]).splitlines() == [
        "algorithm  epoch 2  epoch 5",
        "---------  -------  -------",
        "sgd              1        -",
        "adam       0.01235        2",
    ]


# ---- configuration -----------------------------------------------------------------------------------------


def test_the_configuration_tells_how_to_repeat_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run_landscape.py", "--output_dir", "my run", "--seed", "3"])
    row = SimpleNamespace(name="sgd", step_size=0.5, groups=(), options={"coordinate_clip": 0.1, "betas": (0.9, 0.99)})
    other = SimpleNamespace(name="adam", step_size=None, groups=(), options={})
    rows = described({"sgd, coordinate_clip=0.1": row, "adam": other})
    settings = {"seed": 3, "test_seed": 4, "output_dir": tmp_path, "lr": float("inf")}
    write_config(tmp_path, settings, rows, {"a": "ff"}, {"threads": 2}, ["a note"])
    config = read_config(tmp_path)
    assert config["command"] == "python run_landscape.py --output_dir 'my run' --seed 3"
    assert config["seed"] == 3 and config["notes"] == ["a note"]
    assert config["settings"] == settings | {"output_dir": str(tmp_path), "lr": "inf"}
    assert config["algorithms"] == [
        {
            "label": "sgd, coordinate_clip=0.1",
            "name": "sgd",
            "step_size": 0.5,
            "options": {"coordinate_clip": 0.1, "betas": [0.9, 0.99]},
        },
        {"label": "adam", "name": "adam", "step_size": None, "options": {}},
    ]
    assert config["data"] == {"a": "ff"} and config["machine"] == {"threads": 2}
    assert config["versions"]["python"] == platform.python_version()
    assert config["versions"]["torch"] == importlib.metadata.version("torch")
    assert set(config["versions"]) == {"python", "torch", "transformers", "datasets", "numpy"}
    assert config["started"].endswith("+00:00") and set(config["git"]) == {"commit", "dirty"}


@pytest.mark.parametrize("flags", [
    ["--hf_key=hf_secret"], ["--hf_key", "hf_secret"], ["--hf_key", "hf_first", "--hf_key=hf_secret"],
    ["--hf_key=hf_first", "--hf_key", "hf_secret"],
])  # fmt: skip
def test_a_hub_key_never_reaches_the_disk(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run_landscape.py", *flags, "--seed", "3"])
    path = write_config(tmp_path, {"hf_key": "hf_secret"}, [])
    assert "hf_" not in path.read_text().replace("hf_key", "")
    assert read_config(tmp_path)["settings"]["hf_key"] == "(given)"
    assert read_config(tmp_path)["command"].endswith("--seed 3")


@pytest.mark.parametrize("key", ["e", "it's", "two words", "", "run_landscape.py", "--seed", "a=b"])
def test_a_key_of_any_form_is_hidden_and_hides_nothing_else(key):
    for words in (["--hf_key", key], [f"--hf_key={key}"]):
        shown = without_secrets(["run_landscape.py", "--seed", "3", *words, "--task", "toy"])
        assert shown[:3] == ["run_landscape.py", "--seed", "3"] and shown[-2:] == ["--task", "toy"]
        assert shown[3:-2] in (["--hf_key", "***"], ["--hf_key=***"])


def test_a_resumed_run_keeps_how_it_began_and_lists_each_continuation(tmp_path, monkeypatch):
    rows = [{"label": name, "name": name, "options": {}} for name in ("sgd", "adam")]
    monkeypatch.setattr(sys, "argv", ["run_landscape.py", "--first"])
    write_config(tmp_path, {"seed": 1}, rows)
    began = read_config(tmp_path)
    for count, changes in enumerate([["one"], ["two", "three"]], start=1):
        monkeypatch.setattr(sys, "argv", ["run_landscape.py", "--again", str(count)])
        record_resumption(tmp_path, {"seed": 2}, rows[count - 1 :], {"a": "ff"}, changes, {"threads": count})
    now = read_config(tmp_path)
    assert [now[key] for key in ("command", "started", "git")] == [began[key] for key in ("command", "started", "git")]
    assert now["settings"] == {"seed": 2} and now["machine"] == {"threads": 2} and now["data"] == {"a": "ff"}
    assert [each["command"] for each in now["resumed"]] == [f"python run_landscape.py --again {n}" for n in (1, 2)]
    assert [each["changes"] for each in now["resumed"]] == [["one"], ["two", "three"]]
    assert [row["label"] for row in now["algorithms"]] == ["adam"]
    assert [row["label"] for row in now["gone"]] == ["sgd"]
    mark_finished(tmp_path)
    assert read_config(tmp_path)["finished"].endswith("+00:00") and read_config(tmp_path)["resumed"] == now["resumed"]


GOOD = {"settings": {}, "algorithms": [], "versions": {}, "command": "", "started": ""}


@pytest.mark.parametrize("change, answer", [
    ({"data": []}, "its 'data' is"),
    ({"machine": 3}, "its 'machine' is 3"),
    ({"resumed": {}}, "its 'resumed' is"),
    ({"gone": [3]}, "one of its 'gone' is 3"),
    ({"finished": True}, "its 'finished' is True"),
    ({"algorithms": [{"label": ["sgd"], "name": "sgd", "options": {}}]}, "one of its 'algorithms' is"),
    ({"algorithms": [{"label": "sgd", "name": "sgd", "options": []}]}, "one of its 'algorithms' is"),
    ({"algorithms": [{"label": "sgd", "name": "sgd", "options": {}}] * 2}, "two of its 'algorithms' have one label"),
    ({"command": None}, "its 'command' is None"),
])  # fmt: skip
def test_a_configuration_of_another_form_is_refused_by_its_key(change, answer, tmp_path):
    write_whole(tmp_path / "config.json", json.dumps(GOOD))
    assert read_config(tmp_path) == GOOD
    write_whole(tmp_path / "config.json", json.dumps(GOOD | change))
    with pytest.raises(ValueError, match=f"config.json was not written by a run: {answer}"):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' + "9" * 5_000 + "}", "\x00", "é".encode("latin-1")])
def test_a_configuration_that_no_parser_reads_is_answered_in_one_line(text, tmp_path):
    write_whole(tmp_path / "config.json", text)
    with pytest.raises(ValueError, match="^cannot read .*config.json"):
        read_config(tmp_path)


def test_the_commit_and_uncommitted_changes_are_recorded_and_absent_outside_a_checkout(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    assert git_state(tmp_path) == {"commit": None, "dirty": None}
    git("init")
    write_whole(tmp_path / "a.py", "1")
    git("add", "a.py")
    git("commit", "-m", "first")
    clean = git_state(tmp_path)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    write_whole(tmp_path / "a.py", "2")
    assert git_state(tmp_path) == {"commit": clean["commit"], "dirty": True}
    (tmp_path / "unpacked").mkdir()
    assert git_state(tmp_path / "unpacked") == {"commit": None, "dirty": None}


def test_an_unknown_run_folder_is_answered_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="is not a run folder: it has no config.json"):
        read_config(tmp_path)
