"""HTML as strings that know they are HTML: whatever else is put into an element is escaped."""

from __future__ import annotations

from html import escape

VOID = {"meta", "link", "br"}


class Html(str):
    """Text that is HTML already."""


def tag(name: str, /, *children: str, **attributes: str | int | None) -> Html:
    """An element. A child that is not `Html`, and every attribute, is escaped; an attribute of None is left out.

    >>> tag("td", "<b>", class_="number", data_v=0.5)
    '<td class="number" data-v="0.5">&lt;b&gt;</td>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{joined(*children)}</{name}>")


def joined(*children: str, between: str = "") -> Html:
    return Html(between.join(child if isinstance(child, Html) else escape(child, quote=False) for child in children))


def slug(text: str) -> str:
    """For an identifier: letters, digits and dashes.

    >>> slug("sharpness_epoch2 <b>")
    'sharpness-epoch2-b'
    """
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in text).split()
    return "-".join(words).lower()
