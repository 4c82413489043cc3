"""Tones to colours of the theme in use, and titles into borders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.content import Content
from textual.widget import Widget

from peerinfer_tui.line import Line, Tone

_VARIABLES: dict[Tone, str] = {
    "good": "text-success",
    "warn": "text-warning",
    "bad": "text-error",
    "accent": "text-primary",
}


def painted(lines: Iterable[Line], theme: Mapping[str, str], *, wrap: bool = False) -> Text:
    """`lines` in the colours of `theme` (Textual's theme variables). Text is never read as markup."""
    text = Text(no_wrap=not wrap, overflow="fold" if wrap else "ellipsis", end="")
    for index, line in enumerate(lines):
        if index:
            text.append("\n")
        for words, tone in line:
            text.append(words, style=tone_style(tone, theme))
    return text


def segments(line: Line, theme: Mapping[str, str], base: Style) -> list[Segment]:
    """`line` for a widget that draws its own strips, on the background of `base`."""
    return [Segment(words, base + tone_style(tone, theme)) for words, tone in line]


def tone_style(tone: Tone, theme: Mapping[str, str]) -> Style:
    if tone in ("dim", "bold"):
        return _DIM if tone == "dim" else _BOLD
    variable = _VARIABLES.get(tone)
    return Style.parse(theme.get(variable, "") or "none") if variable else Style.null()


_DIM = Style(dim=True)
_BOLD = Style(bold=True)


def entitle(widget: Widget, title: str) -> None:
    """Sets the title in a widget's border, as it is written and only if it is another: Textual draws the widget anew."""
    content = Content(title)
    if widget.border_title != content.markup:
        widget.border_title = content
