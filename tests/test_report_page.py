"""The page as a file: complete, well-formed, harmless, the same for the same tables; and what report.py answers."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import report
from figures.comparing import script_of_all
from reporting import writing
from reporting.writing import draw_all, write_comparison, write_report
from runs.files import CannotWrite
from runs.folder import create_run_folder
from runs.tables import read_table
from tests.helpers.report_folders import convergence, hessian, hostile, landscape, seeds, write_csv
from tests.helpers.run_folders import TWELVE, believable_landscape, write_run

ROOT = Path(report.__file__).parent
OPEN = {"meta", "link", "br", "wbr", "img"}  # elements that have no end


class Tree(HTMLParser):
    """Reads a page strictly: every element is closed, in order."""

    def __init__(self, text):
        super().__init__()
        self.path, self.ids, self.tags, self.texts, self.cells = [], [], [], {}, []
        self.feed(text)
        self.close()
        assert self.path == [], f"never closed: {self.path}"

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        self.ids += [found["id"]] if "id" in found else []
        if tag not in OPEN:
            self.path.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.path = self.path[:-1] if tag not in OPEN else self.path

    def handle_endtag(self, tag):
        assert self.path.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.path:
            self.texts.setdefault(self.path[-1], []).append(data)

    def of(self, tag, **attributes):
        return [found for name, found in self.tags if name == tag and attributes.items() <= found.items()]

    def text(self, tag):
        return "".join(self.texts.get(tag, []))


TRAINING = [dict(epoch=1, iteration=1 + i, loss=5.0 - i) for i in range(4)]
SHORT = ("sgd", "adam", "training")


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes most of the time of a page; a test that is not about figures goes without."""
    monkeypatch.setattr(writing, "figures_of", lambda run, prefix="": [])
    monkeypatch.setattr(writing, "overlays_of", lambda runs: script_of_all(runs) and [])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run folder as a run leaves it: figures and page written at once."""
    folder = landscape(tmp_path_factory.mktemp("page") / "run", SHORT)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"finished": "2026-01-01T00:00:00+00:00"}))
    assert draw_all(folder)[-1] == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(finished):
    return (finished / "report.html").read_text()


MAKERS = {"landscape": landscape, "seeds": seeds, "convergence": convergence, "hessian": hessian, "hostile": hostile}


def assert_sound(path):
    """Every element is closed, every identifier is there once, and every link leads to one or to a file."""
    tree = Tree(path.read_text())
    assert len(tree.ids) == len(set(tree.ids)) > 5
    for found in tree.of("a"):
        inside = found["href"].startswith("#")
        assert found["href"][1:] in tree.ids if inside else (path.parent / found["href"]).exists(), found["href"]


def test_the_page_of_a_run_is_well_formed_and_every_link_leads_somewhere(finished):
    assert_sound(finished / "report.html")


@pytest.mark.parametrize("kind", MAKERS)
def test_whatever_the_tables_hold_the_page_is_well_formed(tmp_path, kind, no_figures):
    assert_sound(write_report(MAKERS[kind](tmp_path / "run")))


def test_several_runs_share_no_identifier_and_link_to_their_own_folders(tmp_path):
    runs = [write_run(tmp_path / "runs" / name, ["sgd"], training=TRAINING) for name in ("one", "other")]
    (tmp_path / "pages").mkdir()
    page = write_comparison(runs, tmp_path / "pages" / "p.html")
    assert_sound(page)
    links = {found["href"] for found in Tree(page.read_text()).of("a")}
    assert {"../runs/one/training.csv", "../runs/other/training.csv", "#run1", "#run2"} <= links


def hashed(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_policy_allows_this_script_and_style_and_nothing_from_the_network(page):
    tree = Tree(page)
    (policy,) = [found["content"] for found in tree.of("meta") if found.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": hashed(tree.text("style")),
        "script-src": hashed(tree.text("script")),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not any(name == "style" or name.startswith("on") for _, found in tree.tags for name in found)
    assert not re.search(r"https?://", page)


def test_what_stands_in_labels_and_settings_is_text_and_never_markup(tmp_path, no_figures):
    text = write_report(hostile(tmp_path / "run")).read_text()
    tree = Tree(text)
    assert len(tree.of("script")) == 1 and tree.of("img") == [] and tree.of("b") == []
    assert text.count("<script") == 1 and "&lt;script&gt;alert" in text
    assert 'The step of “<script>alert("1")</script>” is' in tree.text("span")


def test_without_its_script_the_page_has_every_row_figure_and_value(finished, page):
    text = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    tree = Tree(text)
    cells = {found.get("data-v") for found in tree.of("td")} | {data.strip() for data in tree.texts["td"]}
    for row in read_table(finished / "sharpness.csv"):
        assert {repr(value) for value in row.values() if isinstance(value, float)} <= cells
    stems = {path.stem for path in (finished / "figures").glob("*.png")}
    assert len(tree.of("svg")) == len(tree.of("figcaption")) == len(stems) >= 6
    assert all(f"figures/{stem}.pdf" in text for stem in stems)
    assert "adam\\nepoch 3\\ndirectional sharpness / |that of sgd| 0.245" in [
        title.replace("\n", "\\n") for title in tree.texts["title"]
    ]


def test_every_figure_has_an_alternative_text_with_its_values_and_every_table_a_caption(page):
    tree = Tree(page)
    for found in tree.of("svg"):
        assert found["role"] == "img" and len(re.findall(r"\d", found["aria-label"])) > 4
    assert len(tree.of("caption")) == len(tree.of("table")) >= 6
    assert all(found["scope"] in ("col", "row") for found in tree.of("th"))


def test_headings_go_down_one_level_at_a_time(page):
    levels = [int(tag[1]) for tag, _ in Tree(page).tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))


# ---- the same bytes ----------------------------------------------------------------------------------------------


def test_the_same_tables_give_the_same_bytes_in_another_process_without_torch(finished, tmp_path):
    copy = Path(shutil.copytree(finished, tmp_path / "elsewhere"))
    (copy / "report.html").unlink()
    code = "import sys; sys.modules['torch'] = None; import report; sys.exit(report.main(sys.argv[1:]))"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, copy], cwd=ROOT, env=environment, check=True, capture_output=True)
    assert (copy / "report.html").read_bytes() == (finished / "report.html").read_bytes()


def test_a_run_that_has_not_come_to_its_end_says_so(finished, tmp_path, no_figures):
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    assert "has not finished" not in write_report(copy).read_text()
    config = json.loads((copy / "config.json").read_text())
    del config["finished"]
    (copy / "config.json").write_text(json.dumps(config))
    assert "has not finished" in write_report(copy).read_text()


def test_tables_without_numbers_still_have_a_page(tmp_path):
    write_run(tmp_path / "run", ["sgd"])
    text = write_report(tmp_path / "run").read_text()
    assert "The tables have no numbers yet." in text and Tree(text).of("svg") == []


def test_tables_of_before_a_column_existed_have_a_page_that_says_what_it_lacks(tmp_path, no_figures):
    folder = hessian(tmp_path / "run")
    rows = [
        {k: v for k, v in row.items() if k != "gini_gradient_rms"} for row in read_table(folder / "heterogeneity.csv")
    ]
    write_csv(folder, "heterogeneity", rows)
    text = write_report(folder).read_text()
    assert "The claims cannot be checked: this run/heterogeneity.csv has no column" in text


def test_secrets_stay_hidden_even_if_an_older_config_has_them(finished, tmp_path, no_figures):
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    config = json.loads((copy / "config.json").read_text())
    config["settings"]["hf_key"] = "hf_sesame"
    config["command"] = "python run_landscape.py --hf_key hf_sesame --seed 3"
    (copy / "config.json").write_text(json.dumps(config))
    text = write_report(copy).read_text()
    assert "hf_sesame" not in text and "--hf_key &#x27;***&#x27; --seed 3" in text.replace("'", "&#x27;")


def test_overwrite_removes_the_page_of_the_run_before(finished, tmp_path):
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    create_run_folder(copy, overwrite=True)
    assert list(copy.iterdir()) == []


@pytest.mark.slow
def test_the_papers_protocol_fits_in_three_megabytes(tmp_path):
    folder = believable_landscape(tmp_path / "run", epochs=(1, 5, 10), rows=12)
    assert len(read_table(folder / "ratios.csv")) == 3 * len(TWELVE)
    size = write_report(folder).stat().st_size
    assert 0.5e6 < size < 3e6, size


# ---- the command -------------------------------------------------------------------------------------------------


def test_the_command_writes_one_page_into_the_run_and_several_into_a_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(writing, "figures_of", lambda run, prefix="": [])
    one, other = convergence(tmp_path / "one", labels=("sgd", "adam")), landscape(tmp_path / "other", ("sgd", "adam"))
    assert report.main([str(one)]) == 0
    assert capsys.readouterr().out == f"{one}/report.html\n"
    assert report.main([str(one), str(other), "--output", str(tmp_path / "both.html")]) == 0
    assert_sound(tmp_path / "both.html")
    text = (tmp_path / "both.html").read_text()
    assert "2 runs side by side" in text and 'id="run2-answer"' in text and "Speed and sharpness" in text


def test_runs_that_have_no_common_axis_stand_side_by_side_and_the_page_says_why(tmp_path, no_figures):
    text = write_comparison([hessian(tmp_path / "a"), landscape(tmp_path / "b")], tmp_path / "p.html").read_text()
    assert "No common figure: these runs cannot be compared" in text and 'id="run2-tables"' in text


def test_runs_of_one_script_have_a_table_with_a_column_per_run(tmp_path, no_figures):
    one = landscape(tmp_path / "one")
    other = landscape(tmp_path / "other", changes={"adam": ((1.0, 1.2), 0.62, -0.7, 0.001)})
    text = write_comparison([one, other], tmp_path / "p.html").read_text()
    row = re.search(
        r'<tr><th data-v="[^"]*" scope="row">adam</th>.*?</tr>|<tr><th scope="row">adam</th>.*?</tr>', text
    )[0]
    assert re.findall(r'data-v="([^"]+)"', row) == ["0.245", "0.1225"] or re.findall(r">([\d.]+)</td>", row) == [
        "0.245",
        "0.1225",
    ]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["{run}/nothing"], "is not a run folder: it has no config.json"),
        (["{run}", "{run}/../run"], "is given twice"),
        (["{run}", "--output", "{run}/notes.html"], "was not written by report.py, so it is left alone"),
        (["{run}", "--latex", "--output", "{run}/notes.html"], "was not written by report.py, so it is left alone"),
        (["{run}", "--output", "{run}"], "is a folder; --output names the file to write"),
        (["{run}", "--output", "{run}/no/p.html"], "there is no folder"),
        (["{run}", "--latex", "--markdown"], "not allowed with argument"),
    ],
)
def test_what_cannot_be_done_is_answered_in_one_line(tmp_path, capsys, flags, message, no_figures):
    run = convergence(tmp_path / "run", seeds=(0,))
    (run / "notes.html").write_text("<p>my own notes")
    before = sorted(run.iterdir())
    with pytest.raises(SystemExit) as ended:
        report.main([flag.format(run=run) for flag in flags])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and message in said and said.count("\n") == 1
    assert sorted(run.iterdir()) == before and (run / "notes.html").read_text() == "<p>my own notes"


def test_a_page_of_ours_is_written_again_and_a_foreign_one_in_the_run_is_not(tmp_path, no_figures):
    run = convergence(tmp_path / "run", seeds=(0,))
    write_report(run), write_report(run)
    (run / "report.html").write_text("<p>my own notes")
    with pytest.raises(ValueError, match="left alone"):
        write_report(run)


def test_a_disk_that_refuses_the_page_is_one_line_and_the_figures_stay(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", ["sgd"], training=TRAINING)
    (run / "report.html").mkdir()
    with pytest.raises(CannotWrite, match="cannot write .*report.html"):
        draw_all(run)
    assert list((run / "figures").glob("*.png"))


# ---- LaTeX and Markdown ------------------------------------------------------------------------------------------


def test_latex_and_markdown_have_the_tables_of_the_page(tmp_path, capsys):
    run = landscape(tmp_path / "run", ("sgd", "sgd, coordinate_clip=0.1", "adam", "adafactor", "training"))
    report.main([str(run), "--markdown"])
    markdown = capsys.readouterr().out
    assert "**Directional sharpness by epoch, relative to sgd.** Means over" in markdown
    assert "| algorithm | epoch 1 | epoch 3 |\n| --- | ---: | ---: |\n| sgd | 1 | 1 |" in markdown
    assert "| sgd, coordinate\\_clip=0.1 | 0.9988 | 0.9988 |" in markdown
    report.main([str(run), "--latex", "--output", str(tmp_path / "tables.tex")])
    latex = (tmp_path / "tables.tex").read_text()
    assert r"\begin{tabular}{lrr}" in latex and r"sgd, coordinate\_clip=0.1 & 0.9988 & 0.9988 \\" in latex
    assert r"adafactor & $2.263 \cdot 10^{-5}$ & $2.263 \cdot 10^{-5}$ \\" in latex
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 2


def test_markup_in_a_label_is_text_in_latex_and_markdown(tmp_path, capsys):
    run = hostile(tmp_path / "run")
    report.main([str(run), "--latex"])
    assert r"\textless{}script\textgreater{}alert(" in capsys.readouterr().out
    report.main([str(run), "--markdown"])
    assert "\\<script>alert" in capsys.readouterr().out
