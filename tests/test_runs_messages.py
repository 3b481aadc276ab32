"""Messages reach the reader, and a reader who is gone cannot end a run."""

import io
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runs import messages
from runs.flags import Parser
from runs.messages import TimeLeft, Unbreakable, answering_input_errors, duration, log_file, say, start_logging
from runs.stopping import StopRequest

ROOT = Path(messages.__file__).parent.parent


@pytest.fixture(autouse=True)
def own_handlers():
    """The root logger is put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


class Broken(io.StringIO):
    """A stream whose reader is gone."""

    def write(self, *_):
        raise BrokenPipeError(32, "Broken pipe")

    flush = write


# ---- nobody reads -------------------------------------------------------------------------------------------------

WORK = """
import logging, os, sys, warnings
from runs.messages import log_file, progress, say, start_logging
start_logging(False)
log = logging.getLogger(__name__)
number = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
log.warning("a line")
for _ in progress(range(3), desc="bar"): pass
warnings.warn("a warning")
say("the table")
os.write(number, b"done")
"""


@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full", ">&-", ">/dev/full", "2>&1 | true", "<&- >&- 2>&-", ""])
def test_work_ends_well_whoever_reads_its_messages(streams, tmp_path):
    path = tmp_path / "result"
    command = f"set -o pipefail; {sys.executable} -c '{WORK}' {path} {streams}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, path.read_text()) == (0, "done"), done.stderr
    assert "Traceback" not in done.stderr
    if not streams:
        assert done.stdout == "the table\n"
        assert done.stderr.splitlines()[0] == "a line" and "a warning" in done.stderr


def test_a_letter_that_the_terminal_lacks_is_spelled_out(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Unbreakable(stream).write("‖v‖ = 1\n")
    stream.flush()
    assert stream.buffer.getvalue() == b"\\u2016v\\u2016 = 1\n"


def test_a_line_that_cannot_be_written_is_dropped(monkeypatch):
    start_logging(False)
    monkeypatch.setattr(sys, "stderr", Broken())
    monkeypatch.setattr(sys, "stdout", Broken())
    logging.getLogger().warning("lost")
    say("lost")
    monkeypatch.setattr(sys, "stdout", None)
    say("lost")


# ---- signals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_noted_though_nobody_reads_its_answer(number):
    code = (
        "import os, signal; from runs.stopping import StopRequest\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "with StopRequest() as stop:\n"
        f"    os.kill(os.getpid(), {int(number)}); print(stop.signal, flush=True)"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=writer, text=True)
    os.close(writer)
    assert (done.returncode, done.stdout) == (0, f"{int(number)}\n")


def test_a_run_under_nohup_goes_on_when_the_terminal_is_closed():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in StopRequest.SIGNALS]
    with StopRequest():
        assert [signal.getsignal(number) for number in StopRequest.SIGNALS] != before
    assert [signal.getsignal(number) for number in StopRequest.SIGNALS] == before


# ---- what is said -------------------------------------------------------------------------------------------------


def answer(error, verbose, capfd):
    start_logging(verbose)
    with pytest.raises(SystemExit) as exit, answering_input_errors(Parser("a script")):
        raise error
    assert exit.value.code == 2
    return capfd.readouterr().err


def test_wrong_input_is_one_line_and_its_traceback_is_shown_with_verbose(capfd):
    error = ValueError("--batch_size 7\nis odd")
    quiet, loud = answer(error, False, capfd), answer(error, True, capfd)
    assert quiet.count("\n") == 1 and quiet.endswith("error: --batch_size 7 is odd\n")
    assert "Traceback (most recent call last)" in loud and loud.endswith(quiet)


def test_an_error_without_words_is_named(capfd):
    assert answer(FileNotFoundError(), False, capfd).endswith("error: FileNotFoundError()\n")


def test_messages_of_libraries_are_shown_from_warnings_on(capfd):
    start_logging(True)
    for path in (str(ROOT / "tasks" / "base.py"), "/usr/lib/python3/library.py", str(ROOT / "site-packages" / "a.py")):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            record = logging.LogRecord("any", level, path, 1, f"{Path(path).name} {level}", None, None)
            logging.getLogger().handle(record)
    said = capfd.readouterr().err.split("\n")
    assert said == ["base.py 10", "base.py 20", "base.py 30", "library.py 30", "a.py 30", ""]


def test_the_log_file_gets_every_line_with_its_time_and_is_continued(tmp_path, capfd):
    start_logging(False)
    log, path = logging.getLogger("any"), tmp_path / "log.txt"
    for text in ("first", "second"):
        with log_file(path):
            log.warning(text)
        log.warning("to the terminal only")
    lines = path.read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["WARNING first", "WARNING second"]
    assert all(line[:2] == "20" and line[13] == ":" for line in lines)
    assert capfd.readouterr().err.count("\n") == 4


@pytest.mark.parametrize("path", ["/dev/full", "/nowhere/log.txt"])
def test_a_log_file_that_cannot_be_written_ends_nothing(path, capfd):
    start_logging(False)
    with log_file(Path(path)):
        logging.getLogger("any").warning("a line")
    assert capfd.readouterr().err == "a line\n"


def test_the_time_left_follows_the_pace_of_this_process():
    now = [100.0]
    left = TimeLeft(total=200, done=30, clock=lambda: now[0])
    assert str(left) == "15 %"
    now[0] += 30.0
    left.update(10)
    left.skip(10)  # ten pieces in 30 s: 150 more take 450 s
    assert str(left) == "25 %, 8 min left"
    left.update(150)
    assert str(left) == "100 %" == str(TimeLeft(total=0))


@pytest.mark.parametrize("terminal", [False, True])
def test_lines_of_progress_go_to_the_log_and_to_a_stream_that_is_no_terminal(terminal, tmp_path, monkeypatch, capfd):
    start_logging(False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with log_file(tmp_path / "log.txt"):
        TimeLeft(total=4, done=1).note("epoch 1 of 4: loss 2.5")
    assert (tmp_path / "log.txt").read_text().endswith("INFO epoch 1 of 4: loss 2.5 (25 %)\n")
    assert capfd.readouterr().err == ("" if terminal else "epoch 1 of 4: loss 2.5 (25 %)\n")


@pytest.mark.parametrize("seconds, text", [
    (0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5_940, "99 min"), (6_000, "1 h 40 min"), (7_500, "2 h 05 min"),
])  # fmt: skip
def test_durations_are_told_in_peoples_units(seconds, text):
    assert duration(seconds) == text
