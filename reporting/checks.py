"""How the claims of the papers fare in these runs, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import claims
from reporting.markup import Html, joined, tag
from reporting.numbers import count, said
from runs.config import read_config

TITLE = "Claims of the papers"
SHOWN = 12  # exceptions by name; the others are counted


def checks_of(folders: Mapping[str, Path], heading: str) -> Iterator[Html]:
    """Every claim that the tables speak to, then the others in one list.

    Args:
        folders: name on the page -> run folder. A name of "" is left out: the page is of one run.
        heading: "h3", of each claim.
    """
    names = {str(folder): name for name, folder in folders.items()}
    try:
        checks = claims.check(list(folders.values()))
    except ValueError as error:  # tables of an earlier version may lack a column; the rest of the page needs it not
        yield tag("p", f"The claims cannot be checked: {_renamed(str(error), names)}.", class_="warn")
        return
    measured = [check for check in checks if check.measured]
    where = "; ".join(_measured_on(folder, name) for folder, name in names.items())
    yield tag("p", f"Measured on {where}. The papers used models and data of their own.", class_="note")
    for check in measured:
        yield _measured(check, names, heading)
    others = [check for check in checks if not check.measured]
    if others:
        yield tag(heading, "Not measured here")
        notes = [tag("span", _sentence(check.note), class_="note") for check in others]
        yield tag("ul", *(tag("li", check.claim, " ", note) for check, note in zip(others, notes, strict=True)))


def _measured_on(folder: str, name: str) -> str:
    settings = read_config(folder)["settings"]
    described = ", ".join(f"{key} {settings[key]}" for key in ("task", "dataset", "model") if settings.get(key))
    return f"{name}: {described}" if name else described


def _measured(check: claims.Check, names: Mapping[str, str], heading: str) -> Html:
    word, look = ("Holds", "yes") if check.always_holds else ("Does not hold everywhere:", "no")
    text = f" {'in ' if check.always_holds else ''}{check.holds} of {check.of} comparisons{_interval(check)}."
    paper = f" In the paper: {check.paper}." if check.paper else ""
    source = tag("span", f" ({check.source})", class_="from")
    parts = [tag(heading, check.claim), tag("p", tag("strong", word, class_=look), text, paper, source)]
    if check.effect is not None:
        within = check.effect.interval
        seeds = f" ({said(within[0])} to {said(within[1])}, 95 % over the seeds)" if within else ""
        parts.append(tag("p", f"Size: {check.effect.what} is {said(check.effect.value)}{seeds}.", class_="note"))
    if check.note:
        parts.append(tag("p", _sentence(_renamed(check.note, names)), class_="note"))
    if check.exceptions:
        parts.append(_exceptions(check.exceptions, names))
    return joined(*parts)


def _interval(check: claims.Check) -> str:
    if check.interval is None:
        return ""
    low, high = (f"{100 * share:.0f}" for share in check.interval)
    return f" (95 % interval over {count(len(check.seeds), 'seed')}: {low} to {high} % of them)"


def _sentence(note: str) -> str:
    return note[:1].upper() + note[1:] + ("" if note.endswith(".") else ".")


def _exceptions(exceptions: Sequence[str], names: Mapping[str, str]) -> Html:
    shown = [tag("li", _renamed(text, names)) for text in exceptions[:SHOWN]]
    if len(exceptions) > SHOWN:
        shown.append(tag("li", f"and {len(exceptions) - SHOWN} more"))
    return tag("details", tag("summary", count(len(exceptions), "exception").capitalize()), tag("ul", *shown), open="")


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """A page says of its runs what they are called on it, wherever they lie."""
    for folder, name in sorted(names.items(), key=lambda item: -len(item[0])):
        text = text.replace(f"{folder}, ", f"{name}, " if name else "").replace(folder, name or "this run")
    return text
