"""The page of one run, or of several: one file that needs nothing from elsewhere.

It is complete without its script, which only sorts tables and shows values under the pointer. Its policy allows this
script and this style sheet, by their hashes, and nothing from the network.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from figures.comparing import script_of
from figures.run_tables import RunTables
from reporting import answers, checks, run_facts
from reporting.contents import Sentence, View
from reporting.drawn import Drawn
from reporting.markup import Html, joined, slug, tag
from reporting.svg import color_rules, colors_in
from reporting.tables import html_table, whole_tables

GENERATOR = "report.py of sharpness-of-optimizers"  # tells a page of ours from somebody else's file
HERE = Path(__file__).parent
FACTS = ("task", "dataset", "model", "train_optimizer", "num_epochs", "batch_size", "seeds", "device", "dtype")
NARROW = 560  # px: a figure that a phone can show without scrolling far


@dataclass(frozen=True)
class RunOnPage:
    """One run, read and drawn."""

    name: str  # among several
    run: RunTables
    config: Mapping[str, Any]
    figures: Sequence[Drawn]
    complete: bool  # whether the run came to its end
    path: str = ""  # from the page to its folder, with a slash at the end

    def link(self, file: str, *inside: str) -> Html:
        return tag("a", *(inside or (file,)), href=quote(self.path + file))


# ---- the whole -----------------------------------------------------------------------------------------------


def page_of_run(one: RunOnPage) -> str:
    sections = list(run_sections(one, "", level=2))
    title = one.run.title
    return _page(title, [tag("h1", title), _facts(one), _contents(sections), *(html for _, _, html in sections)])


def page_of_runs(runs: Sequence[RunOnPage], overlays: Sequence[Drawn], refusal: str = "") -> str:
    """Several runs: what they have in common first, then each by itself. `refusal`: why they have no common figure."""
    title = f"{len(runs)} runs side by side"
    body = [tag("h1", title)]
    sections = [("compared", "Side by side", _compared(runs, overlays, refusal))]
    checked = checks.checks_of({one.name: one.run.folder for one in runs}, "h3")
    sections.append(("checks", checks.TITLE, tag("section", tag("h2", checks.TITLE), *checked, id="checks")))
    for i, one in enumerate(runs, start=1):
        parts = [html for _, _, html in run_sections(one, f"run{i}-", level=3)]
        html = tag("section", tag("h2", one.name), _facts(one), *parts, id=f"run{i}")
        sections.append((f"run{i}", one.name, html))
    return _page(title, [*body, _contents(sections), *(html for _, _, html in sections)])


def _page(title: str, body: Sequence[Html]) -> str:
    script, main = (HERE / "page.js").read_text(encoding="utf-8"), joined(*body)
    colors = colors_in(main)
    style = (HERE / "page.css").read_text(encoding="utf-8")
    style += f":root{{{color_rules(colors, dark=False)}}}\n"
    style += f"@media screen and (prefers-color-scheme:dark){{:root{{{color_rules(colors, dark=True)}}}}}\n"
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
    head = joined(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy + "base-uri 'none'; form-action 'none'"),
        tag("meta", name="generator", content=GENERATOR),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Html(style)),
        between="\n",
    )
    skip = tag("a", "To the answer", class_="skip", href="#main")
    content = joined(skip, "\n", tag("main", main, id="main"), "\n", tag("script", Html(script)))
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{content}\n</body>\n</html>\n'


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _contents(sections: Sequence[tuple[str, str, Html]]) -> Html:
    items = [tag("li", tag("a", title, href=f"#{name}")) for name, title, _ in sections]
    return tag("nav", tag("ul", *items), aria_label="Contents")


# ---- one run -------------------------------------------------------------------------------------------------


def run_sections(one: RunOnPage, prefix: str, level: int) -> Iterator[tuple[str, str, Html]]:
    """(identifier, title, element) of every part. `level`: of their headings."""
    checked = list(checks.checks_of({"": one.run.folder}, f"h{level + 1}")) if level == 2 else []
    for name, title, parts in (
        ("answer", "Answer", list(_answer(one))),
        ("checks", checks.TITLE, checked),  # of several runs, they stand above
        ("tables", "Tables", list(_tables(one, f"h{level + 1}", prefix))),
        ("figures", "Figures", [_figure(one, figure, f"h{level + 1}") for figure in one.figures]),
        ("settings", "Settings", list(_settings(one, f"h{level + 1}"))),
        ("origin", "Command and versions", list(_origin(one))),
        ("files", "Files", [_files(one)]),
    ):
        if parts:
            yield prefix + name, title, tag("section", tag(f"h{level}", title), *parts, id=prefix + name)


def _facts(one: RunOnPage) -> Html:
    settings = run_facts.settings_of(one.config)
    values = {"script": script_name(one.run)}
    values |= {"seed": settings["seed"]} if settings.get("seed") and not one.config["settings"].get("seeds") else {}
    values |= {name: settings[name] for name in FACTS if settings.get(name, run_facts.UNSET) != run_facts.UNSET}
    items = [tag("div", tag("dt", name.replace("_", " ")), tag("dd", value)) for name, value in values.items()]
    facts = tag("dl", *items, class_="facts")
    if one.complete:
        return facts
    return joined(
        facts, tag("p", "This run has not finished: the page shows what it has measured so far.", class_="warn")
    )


def script_name(run: RunTables) -> str:
    try:
        return script_of(run)
    except ValueError:  # it has no table yet
        return "unknown"


def _answer(one: RunOnPage) -> Iterator[Html]:
    sentences = answers.answer(one.run)
    if not sentences:
        yield tag("p", "The tables have no numbers yet.", class_="warn")
    of_run = [_item(sentence, _sources(one, sentence)) for sentence in sentences if not sentence.of_row]
    if of_run:
        yield tag("ul", *of_run, class_="lead")
    of_rows = [sentence for sentence in sentences if sentence.of_row]
    if of_rows:
        yield tag("p", "Algorithm by algorithm ", _sources(one, of_rows[0]), ":")
        yield tag("ul", *map(_item, of_rows), class_="rows")
    if notes := one.config.get("notes"):
        yield tag("p", "Notes of the run: " + " ".join(map(str, notes)), class_="note")


def _item(sentence: Sentence, after: str = "") -> Html:
    return tag("li", tag("span", sentence.text, class_="said"), " " * bool(after), after)


def _sources(one: RunOnPage, sentence: Sentence) -> Html:
    links = joined(*(one.link(name) for name in sentence.sources), between=", ")
    return tag("span", "(", links, ")", class_="from")


def _tables(one: RunOnPage, heading: str, prefix: str) -> Iterator[Html]:
    for view in answers.views(one.run):
        yield _view(one, view, heading, prefix)
    small_tables = list(whole_tables(one.run.folder))
    if small_tables:
        yield tag(heading, "Whole files")
        yield tag("p", "Small files as they are; the larger ones are linked below.", class_="note")
    for name, columns, rows in small_tables:
        title = tag("summary", name, f", {len(rows):,} rows")
        yield tag("details", title, html_table(columns, rows, name))


def _view(one: RunOnPage, view: View, heading: str, prefix: str) -> Html:
    source = tag("span", "From ", one.link(view.source), ".", class_="from")
    table = html_table(view.columns, view.rows, view.title, joined(view.note, " ", source))
    return tag("div", tag(heading, view.title), table, id=f"{prefix}{view.name}")


def _figure(one: RunOnPage, drawn: Drawn, heading: str) -> Html:
    files = [f"figures/{drawn.stem}.{kind}" for kind in ("png", "pdf")]
    links = [one.link(file, file[-3:].upper()) for file in files if (one.run.folder / file).exists()]
    return _shown(drawn, heading, tag("span", "(", joined(*links, between=", "), ")", class_="from") if links else "")


def _shown(drawn: Drawn, heading: str, after: str = "") -> Html:
    """A figure, in a box that scrolls by itself where the screen is narrow."""
    width = int(drawn.svg.partition(' width="')[2].partition('"')[0])
    svg = Html(drawn.svg.replace("<svg ", '<svg class="narrow" ', 1) if width < NARROW else drawn.svg)
    box = tag("div", svg, class_="scroll", tabindex="0", role="region", aria_label=f"Figure: {drawn.title}")
    return joined(tag(heading, drawn.title), tag("figure", box, tag("figcaption", drawn.caption, " ", after)))


def _settings(one: RunOnPage, heading: str) -> Iterator[Html]:
    settings = run_facts.settings_of(one.config)
    unset = [name for name, value in settings.items() if value == run_facts.UNSET]
    rows = [{"setting": name, "value": value} for name, value in settings.items() if name not in unset]
    yield html_table(["setting", "value"], rows, "Settings", kind="settings")
    if unset:
        yield tag("p", f"Not set: {', '.join(unset)}.", class_="note")
    rows = run_facts.rows_of(one.config)
    if rows:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        yield tag(heading, "Algorithms")
        yield html_table(columns, rows, "Algorithms", "The rows of the list.", kind="settings")


def _origin(one: RunOnPage) -> Iterator[Html]:
    yield tag("pre", tag("code", run_facts.command_of(one.config)))
    rows = [{"what": name, "value": value} for name, value in run_facts.origin_of(one.config).items()]
    yield html_table(["what", "value"], rows, "Versions", kind="settings")


def _files(one: RunOnPage) -> Html:
    items = [tag("li", one.link(name), f": {what}") for name, what in run_facts.files_of(one.run.folder)]
    return tag("ul", *items)


# ---- several runs --------------------------------------------------------------------------------------------


def _compared(runs: Sequence[RunOnPage], overlays: Sequence[Drawn], refusal: str) -> Html:
    parts: list[Html] = []
    for view in answers.side_by_side({one.name: one.run for one in runs}):
        table = html_table(view.columns, view.rows, view.title, view.note)
        parts.append(tag("div", tag("h3", view.title), table, id=slug(f"all {view.name}")))
    parts += [_shown(drawn, "h3") for drawn in overlays]
    if refusal:
        parts.append(tag("p", f"No common figure: {refusal}.", class_="note"))
    return tag("section", tag("h2", "Side by side"), *parts, id="compared")
