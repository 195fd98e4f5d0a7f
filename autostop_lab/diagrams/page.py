"""Pictures and words as HTML that stays what it is: saved, sanitized, and shown without any network."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence

from autostop_lab.diagrams.styles import DARK, LIGHT, Style, Theme
from autostop_lab.diagrams.text import escape

#: How front ends mark a dark page: Jupyter, VS Code, Colab.
_DARK_PAGES = ('[data-jp-theme-light="false"]', ".vscode-dark", 'html[theme="dark"]')
# A front end that takes style sheets out shows the light picture, and the dark one with no width.
_SHEET = (
    ",".join(f"{page} .autostop-light" for page in _DARK_PAGES)
    + "{display:none}"
    + ",".join(f"{page} .autostop-dark" for page in _DARK_PAGES)
    + "{width:auto;height:auto}"
)


def image_html(draw: Callable[[Theme], str], alt: str) -> str:
    """Return a picture as an image for light pages and one for dark pages, of which a page shows one.

    Images, because front ends take SVG elements out of the HTML of a notebook that they do not trust.

    Parameters
    ----------
    draw : callable
        Draws it in a theme.
    alt : str
        What it says in words; not yet escaped.
    """
    return (
        f"<style>{_SHEET}</style>"
        f'<img class="autostop-light" style="max-width:100%" alt="{escape(alt)}" src="{_data(draw(LIGHT))}">'
        f'<img class="autostop-dark" style="max-width:100%" alt="" width="0" height="0" src="{_data(draw(DARK))}">'
    )


def _data(picture: str) -> str:
    return f"data:image/svg+xml;base64,{b64encode(picture.encode()).decode()}"


def chip_html(word: str, style: Style) -> str:
    """Return a state or an outcome as a lozenge with its sign and word."""
    return (
        f'<span style="background:{style.colour};color:#ffffff;border-radius:9px;padding:1px 8px;'
        f'font-weight:bold;white-space:nowrap">{style.sign} {escape(word)}</span>'
    )


def table_html(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table; its cells are HTML already."""
    style = 'style="text-align:left;padding:2px 10px"'
    heads = "".join(f'<th scope="col" {style}>{escape(cell)}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td {style}>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
