"""Writing pages: at the end of a run, and again from the tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from figures import drawing
from figures.comparing import named_runs
from figures.run_tables import RunTables, read_run
from reporting.answers import side_by_side, views
from reporting.drawn import Drawn, drawn, figures_of, in_page_order, overlays_of
from reporting.page import GENERATOR, RunOnPage, page_of_run, page_of_runs
from reporting.tables import latex, markdown
from runs.config import is_finished, read_config
from runs.files import write_whole
from runs.folder import REPORT_FILE


def draw_all(folder: str | Path) -> list[Path]:
    """What a run does at its end: every figure, and `report.html`; the paths of what was written.

    Both come from the tables alone. The same tables give the same bytes. Raises ValueError, in one line, if a table
    does not fit or a file cannot be written.
    """
    figures: list[Drawn] = []
    paths = drawing.draw_all(folder, lambda stem, figure: figures.append(drawn(stem, figure)))
    run = read_run(folder)
    return [*paths, _write_page(run, in_page_order(figures), True, run.folder / REPORT_FILE)]


def write_report(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write the page of a run again, by default into its folder; its path. Raises: ValueError, in one line."""
    run = read_run(folder)
    path = Path(output or run.folder / REPORT_FILE)
    refuse_foreign(path)
    return _write_page(run, figures_of(run), is_finished(folder), path)


def _write_page(run: RunTables, figures: Sequence[Drawn], complete: bool, path: Path) -> Path:
    one = RunOnPage(run.folder.name, run, read_config(run.folder), figures, complete, _way(path, run.folder))
    return write_whole(path, page_of_run(one))


def write_comparison(folders: Sequence[str | Path], output: str | Path) -> Path:
    """Write one page of several runs; its path. Raises: ValueError, in one line."""
    output = Path(output)
    refuse_foreign(output)
    runs = _named(folders)
    try:
        overlays, refusal = overlays_of(runs), ""
    except ValueError as error:  # runs of two tasks have tables to show, but no common axis
        overlays, refusal = [], str(error)
    pages = []
    for i, (name, run) in enumerate(runs.items(), start=1):
        config, way = read_config(run.folder), _way(output, run.folder)
        pages.append(RunOnPage(name, run, config, figures_of(run, f"run{i}-"), "finished" in config, way))
    return write_whole(output, page_of_runs(pages, overlays, refusal))


def _named(folders: Sequence[str | Path]) -> dict[str, RunTables]:
    places = [Path(folder).resolve() for folder in folders]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise ValueError(f"{folders[i]} is given twice")
    return named_runs([read_run(folder) for folder in folders], None)


def _way(page: Path, folder: Path) -> str:
    """From the page to the folder, for links: nothing where the page lies in it, else with a slash at the end."""
    way = Path(os.path.relpath(folder.resolve(), page.parent.resolve())).as_posix()
    return "" if way == "." else f"{way}/"


# ---- tables as text ------------------------------------------------------------------------------------------

TEXTS = {"latex": (latex, f"% {GENERATOR}\n"), "markdown": (markdown, f"<!-- {GENERATOR} -->\n")}


def tables_as_text(folders: Sequence[str | Path], kind: str) -> str:
    """Every table of the page of these runs, as "latex" or "markdown". Raises: ValueError, in one line."""
    written, first = TEXTS[kind]
    runs = _named(folders)
    tables = list(side_by_side(runs)) if len(runs) > 1 else []
    for name, run in runs.items():
        prefix = f"{name}: " if len(runs) > 1 else ""
        tables += [replace(view, title=prefix + view.title) for view in views(run)]
    if not tables:
        raise ValueError(f"{', '.join(map(str, folders))}: the tables have no numbers yet")
    return first + "\n" + "\n".join(map(written, tables))


def write_text(path: str | Path, text: str) -> Path:
    """Write it unless somebody else's file is there; its path. Raises: ValueError, in one line."""
    refuse_foreign(Path(path))
    return write_whole(path, text)


def refuse_foreign(path: Path) -> None:
    """Raises: ValueError, in one line, if the file is none that report.py wrote, or has no folder to be in."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; --output names the file to write")
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {path.parent}")
    try:
        with path.open("rb") as file:
            ours = GENERATOR.encode() in file.read(2000)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    if not ours:
        raise ValueError(f"{path} was not written by report.py, so it is left alone; choose another --output")
