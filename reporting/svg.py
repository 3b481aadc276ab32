"""A figure as SVG that stands inside a page: no style attributes, which the page's policy forbids; identifiers of its
own; colors that follow the page's theme."""

from __future__ import annotations

import colorsys
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from xml.etree import ElementTree

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from reporting.hover import Mark

UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # what XML has no way to write
NUMBER = re.compile(r"-?\d+\.\d{3,}")  # more digits than a screen can show
HEX = re.compile(r"#[0-9a-f]{6}")
LINK = re.compile(r"url\(#([^)]+)\)")
KEPT_STYLES = {"fill", "stroke", "opacity", "fill-opacity", "stroke-opacity", "fill-rule", "clip-path"}
KEPT_STYLES |= {"stroke-width", "stroke-dasharray", "stroke-dashoffset", "stroke-linecap", "stroke-linejoin"}
KEPT_STYLES |= {"stroke-miterlimit", "font-size", "font-style", "font-weight", "text-anchor"}
# What every element of matplotlib's SVG has unless it says otherwise; inherited from the root.
ROOT = 'stroke-linejoin="round" stroke-linecap="butt" font-weight="normal"'
DARK_PAPER = "#16181d"
FAINT = 0.7  # a grey that is lighter than this is a grid or a remark, and stays faint
CONTRAST = 4.5  # of a line's color to the dark paper: WCAG's number for text


def inline_svg(figure: Figure, prefix: str, alternative: str, marks: Sequence[Mark]) -> str:
    """The figure as an <svg> element; its colors are variables, which `color_rules` defines.

    Args:
        figure: laid out already, in the look (`figures.style.RC`) that is in force.
        prefix: of every identifier, and of what matplotlib derives them from: of this figure alone.
        alternative: what a reader who does not see it should know.
        marks: values to show where the pointer is.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})  # `savefig` draws everything twice
    root = ElementTree.fromstring(UNWRITABLE.sub("", file.getvalue()))
    names = {name: f"{prefix}-{i}" for i, name in enumerate(sorted(_linked(root)))}
    body = "".join(text for child in root for text in _written(child, names))
    box = _rounded(root.get("viewBox", ""))
    width, height = (float(number) for number in box.split()[2:])
    hover = "".join(_spot(mark, height) for mark in marks)
    return (
        f'<svg viewBox="{box}" width="{width * 4 / 3:.0f}" height="{height * 4 / 3:.0f}" role="img" '
        f'aria-label="{escape(alternative)}" {ROOT}>{body}<g class="spots">{hover}</g></svg>'
    )


def _spot(mark: Mark, height: float) -> str:
    """An invisible place that shows a value; points from the lower left corner become points from the upper one."""
    title = f"<title>{escape(mark.text)}</title>"
    if mark.width is None:
        return f'<circle cx="{mark.x:.1f}" cy="{height - mark.y:.1f}" r="4">{title}</circle>'
    top = height - mark.y - mark.height
    place = f'x="{mark.x:.1f}" y="{top:.1f}" width="{mark.width:.1f}" height="{mark.height:.1f}"'
    return f"<rect {place}>{title}</rect>"


# ---- elements ------------------------------------------------------------------------------------------------


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _linked(root: ElementTree.Element) -> Iterator[str]:
    """The identifiers that something refers to; all others are dropped."""
    for element in root.iter():
        for name, value in element.attrib.items():
            if name.endswith("href"):
                yield value.removeprefix("#")
            yield from LINK.findall(value)


def _written(element: ElementTree.Element, names: dict[str, str]) -> Iterator[str]:
    tag = _tag(element)
    if tag in ("metadata", "style"):
        return
    attributes = "".join(f' {name}="{escape(value)}"' for name, value in _attributes(element, names))
    inside = "".join(text for child in element for text in _written(child, names))
    text = escape(element.text or "", quote=False) if tag in ("text", "tspan") else ""
    if tag in ("g", "defs") and not inside:
        return
    if tag == "g" and not attributes:
        yield inside
    elif inside or text:
        yield f"<{tag}{attributes}>{text}{inside}</{tag}>"
    else:
        yield f"<{tag}{attributes}/>"


def _attributes(element: ElementTree.Element, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in element.attrib.items():
        name = name.rpartition("}")[2]
        if name == "style":
            for style, setting in _styles(value):
                yield style, _named(setting, names)
        elif name == "href":
            yield name, "#" + names[value.removeprefix("#")]
        elif name == "id":
            if value in names:
                yield name, names[value]
        elif not (name == "transform" and value.startswith("rotate(-0 ")):
            yield name, _named(_rounded(value), names)


def _styles(style: str) -> Iterator[tuple[str, str]]:
    for part in style.split(";"):
        name, _, value = (text.strip() for text in part.partition(":"))
        if name in KEPT_STYLES and (name, value) not in (("stroke-dashoffset", "0"), ("font-weight", "normal")):
            yield name, HEX.sub(lambda color: f"var(--{color[0][1:]})", _rounded(value))


def _named(value: str, names: dict[str, str]) -> str:
    return LINK.sub(lambda link: f"url(#{names[link[1]]})", value)


def _rounded(value: str) -> str:
    value = NUMBER.sub(lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), value)
    return " ".join(value.split())


# ---- colors --------------------------------------------------------------------------------------------------


def colors_in(svg: str) -> set[str]:
    """The colors that an `inline_svg` refers to, as six hexadecimal digits."""
    return set(re.findall(r"var\(--([0-9a-f]{6})\)", svg))


def color_rules(colors: Iterable[str], dark: bool) -> str:
    """The variables that give each color its value on white or on dark paper."""
    return "".join(f"--{name}:{on_dark('#' + name) if dark else '#' + name};" for name in sorted(colors))


def on_dark(color: str) -> str:
    """The color to use on dark paper: greys change places with each other, and hues are made light enough to read."""
    if color == "#ffffff":
        return DARK_PAPER
    red, green, blue = _channels(color)
    if max(red, green, blue) - min(red, green, blue) < 0.02:
        low, high = _channels(DARK_PAPER)[1], 0.93
        color = _hex(*[low + (high - low) * (1 - red)] * 3)
        if red > FAINT:
            return color
        red, green, blue = _channels(color)
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    while _contrast(_hex(*colorsys.hls_to_rgb(hue, lightness, saturation)), DARK_PAPER) < CONTRAST:
        lightness += 0.01
    return _hex(*colorsys.hls_to_rgb(hue, lightness, saturation))


def _contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio, from 1 to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(color))
    return sum(weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _channels(color: str) -> tuple[float, ...]:
    return tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _hex(*channels: float) -> str:
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)
