"""Tones to colours of the theme in use."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text

from peerinfer_tui.view import Line, Tone

_VARIABLES: dict[Tone, str] = {"good": "success", "warn": "warning", "bad": "error", "accent": "accent"}


def painted(line: Line, theme: Mapping[str, str], *, right: bool = False) -> Text:
    """`line` in the colours of `theme` (Textual's theme variables). Text is never read as markup."""
    text = Text(justify="right" if right else "left", no_wrap=True, overflow="ellipsis", end="")
    for words, tone in line:
        variable = _VARIABLES.get(tone)
        text.append(words, style="dim" if tone == "dim" else theme.get(variable, "") if variable else "")
    return text
