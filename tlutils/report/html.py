"""Small builders of one HTML page: escaped text, tables, pictures inside it, no script, no network.

All is text until `tag` has made it `Html`, so what comes from a file can never become markup.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

_VOID = ("img", "meta", "line", "rect", "circle")
# The browser itself refuses scripts and anything from outside, should a page ever ask for them.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2430; --soft: #596473; --line: #dce1e7;
  --tint: #f4f6f8; --accent: #0173b2; --good: #0a6e45; --warning: #8a5700; --bad: #b3261e; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #13171c; --ink: #e4e8ec; --soft: #9ba6b2; --line: #2d353e; --tint: #1b2127;
    --accent: #5cb3ea; --good: #55c592; --warning: #e2ab4a; --bad: #ff8f85; }
  .chart img { filter: invert(.92) hue-rotate(180deg); } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1, h2, h3 { line-height: 1.2; text-wrap: balance; }
h1 { font-size: clamp(1.6rem, 4.5vw, 2.3rem); letter-spacing: -.015em; margin: .25rem 0 .5rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 .75rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p { max-width: 44rem; margin: .5rem 0; text-wrap: pretty; }
small, .soft, figcaption, nav { color: var(--soft); font-size: .875rem; }
pre { font: .85em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap: anywhere; background: var(--tint); padding: .85rem 1rem; border-radius: .4rem;
  white-space: pre-wrap; }
pre span { display: inline-block; max-width: 100%; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin: 1.5rem 0 0; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.verdict { border-left: .3rem solid var(--tone); padding: .1rem 0 .1rem 1rem; margin: 1.5rem 0 1rem;
  font-size: 1.15rem; }
.plain { --tone: var(--soft); } .good { --tone: var(--good); }
.warning { --tone: var(--warning); } .bad { --tone: var(--bad); }
.notes { display: flex; flex-wrap: wrap; gap: .5rem; list-style: none; padding: 0;
  margin: 0 0 .5rem; }
.notes li { border: 1px solid var(--tone); color: var(--tone); border-radius: 1rem;
  padding: .1rem .75rem; font-size: .875rem; }
.tiles { display: grid; gap: .75rem; margin: 1.25rem 0;
  grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.tiles div { background: var(--tint); border-radius: .5rem; padding: .8rem 1rem; }
.tiles b { display: block; font-size: 1.75rem; line-height: 1.25; }
.tiles b, td { font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .925rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .9rem .4rem 0;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 500; font-size: .85rem;
  border-bottom-color: var(--soft); }
tbody th { font-weight: 500; } td small { white-space: nowrap; }
.counts td, .counts thead th + th { text-align: right; }
.counts table { width: auto; } .counts td, .counts th { padding-right: 1.5rem; }
.facts th { width: 9rem; color: var(--soft); } .audit th { width: 17rem; }
.facts td { overflow-wrap: anywhere; }
.audit small { display: block; }
.audit td:nth-child(2), .audit td:nth-child(3) { width: 1%; white-space: nowrap; }
.mark { color: var(--tone); font-weight: 600; }
.span { display: block; width: 100%; max-width: 8rem; margin-top: .2rem; overflow: visible; }
.span line { stroke: var(--line); stroke-width: 2; } .span rect { fill: var(--accent);
  opacity: .75; }
.span circle { fill: var(--accent); }
figure { margin: 0; break-inside: avoid; min-width: 0; }
.charts { display: grid; gap: 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.chart img { display: block; width: 100%; height: auto; max-width: 34rem; }
.chart:only-child { grid-column: 1 / -1; } .chart:only-child img { max-width: none; }
.gallery { display: grid; gap: 1rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(40vw, 9rem), 1fr)); }
.gallery img, .missing { display: flex; width: 100%; aspect-ratio: 1; border-radius: .3rem; }
.gallery img { border: 1px solid var(--soft); } /* where white wedges reach the edge */
.missing { background: var(--tint); border: 1px dashed var(--soft); color: var(--soft);
  align-items: center;
  justify-content: center; font-size: .8rem; text-align: center; padding: .5rem; }
.gallery figcaption { color: var(--ink); margin-top: .4rem; line-height: 1.4; }
.gallery small { display: block; overflow-wrap: anywhere; font-size: .75rem; line-height: 1.35; }
.caveats { display: grid; gap: 1.1rem 2.5rem; padding: 0; margin: 1rem 0; list-style: none;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); } .caveats b {
  display: block; }
@media (max-width: 34rem) { main { padding: 1.5rem 1rem 3rem; } .facts th { width: 7rem; }
  .counts td, .counts th { padding-right: .6rem; font-size: .8rem; } .audit thead { display: none; }
  .audit tr { display: grid; grid-template-columns: 1fr auto auto;
  border-bottom: 1px solid var(--line); }
  .audit th, .audit td { width: auto !important; border: 0; }
  .audit td:last-child { grid-column: 1 / -1; padding-top: 0; }
  .audit td:empty { display: none; } h2 { margin-top: 2.25rem; }
  .tiles { grid-template-columns: 1fr 1fr; } }
@media print { @page { margin: 16mm; } body { font-size: 10.5pt; } main { max-width: none;
  padding: 0; }
  nav { display: none; }
  h2, h3 { break-after: avoid; } tr, li, .tiles div, pre { break-inside: avoid; }
  .scroll { overflow: visible; }
  .charts { grid-template-columns: 1fr 1fr; } .gallery { grid-template-columns: repeat(4, 1fr); }
  .tiles { grid-template-columns: repeat(4, 1fr); } * { print-color-adjust: exact; } }
"""


class Html(str):
    """Markup, which is not escaped again."""


def text(*children: object) -> Html:
    """Put children one after the other.

    Parameters
    ----------
    *children : Html stays, lists are opened, None is left out, all else is escaped

    Returns
    -------
    Html
    """
    parts: list[str] = []
    for child in children:
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, Iterable) and not isinstance(child, str):
            parts.append(text(*child))
        elif child is not None:
            parts.append(escape(str(child)))
    return Html("".join(parts))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Make an element.

    Parameters
    ----------
    name : str, of the element
    *children : object, see `text`
    **attributes : `class_` becomes class, `aria_label` aria-label; those that are None are left out

    Returns
    -------
    Html

    Examples
    --------
    >>> tag("p", "a < b & ", tag("b", "c"), class_="soft")
    '<p class="soft">a &lt; b &amp; <b>c</b></p>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{given}/>")
    return Html(f"<{name}{given}>{text(*children)}</{name}>")


def number(value: object) -> Html:
    """Write a number for a reader.

    Parameters
    ----------
    value : float or dict, {"value", "low", "high"} with an interval, or None, which is "undefined"

    Returns
    -------
    Html

    Examples
    --------
    >>> number({"value": 0.9, "low": 0.85, "high": 0.94})
    '0.900 <small>0.850–0.940</small>'
    """
    if isinstance(value, Mapping):
        low, high = value.get("low"), value.get("high")
        ends = None if low is None else [" ", tag("small", f"{low:.3f}–{high:.3f}")]
        return text(number(value["value"]), ends)
    if value is None:
        return tag("span", "undefined", class_="soft")
    return text(f"{value:.3f}" if isinstance(value, (float, np.floating)) else f"{value:,}")


def interval(value: Mapping) -> Html | None:
    """Draw a dot and its interval on a line from 0 to 1.

    Parameters
    ----------
    value : dict of value, low and high

    Returns
    -------
    Html or None; None where it is undefined
    """
    if value.get("value") is None or value.get("low") is None:
        return None
    at, low, high = (100 * value[name] for name in ("value", "low", "high"))
    width = f"{max(high - low, 0.5):.1f}"
    drawn = (
        tag("line", x1=0, x2=100, y1=4, y2=4),
        tag("rect", x=f"{low:.1f}", y=1, width=width, height=6, rx=1),
        tag("circle", cx=f"{at:.1f}", cy=4, r=2.6),
    )
    return tag("svg", drawn, class_="span", viewBox="0 0 100 8", aria_hidden="true")


def table(
    rows: Iterable[Sequence[object]], head: Sequence[object] = (), caption: str = "", kind: str = ""
) -> Html:
    """Make a table.

    Parameters
    ----------
    rows : iterable, cells; the first of a row names it
    head : list of object, names of the columns
    caption : str, a line above
    kind : "facts", "counts" or "audit", for its look

    Returns
    -------
    Html

    Examples
    --------
    >>> table([("images", 3)]).partition("<tbody>")[2].partition("</tbody>")[0]
    '<tr><th scope="row">images</th><td>3</td></tr>'
    """
    body = [
        tag("tr", tag("th", first, scope="row"), [tag("td", cell) for cell in rest])
        for first, *rest in rows
    ]
    top = tag("thead", tag("tr", [tag("th", name, scope="col") for name in head])) if head else None
    whole = tag("table", top, tag("tbody", body))
    above = tag("p", caption, class_="soft") if caption else None
    return text(above, tag("div", whole, class_=f"scroll {kind}".strip(), tabindex=0))


def chart(draw: Callable[[], object], words: str) -> list[Html]:
    """Draw with matplotlib into the page, and close all that was opened for it.

    Parameters
    ----------
    draw : Callable, gives Axes, of one figure or of several
    words : str, what they show, for those who do not see it

    Returns
    -------
    list of Html, a drawing for each figure
    """
    before = set(plt.get_fignums())
    try:
        figures = dict.fromkeys(ax.figure for ax in np.ravel(np.asarray(draw(), dtype=object)))
        shown = []
        for figure in figures:
            file = io.BytesIO()
            with plt.rc_context({"svg.hashsalt": "page"}):  # else no two pages of a run are alike
                figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
            image = tag("img", src=_inside(file, "svg+xml"), alt=words)
            shown.append(tag("figure", image, class_="chart"))
        return shown
    finally:
        for opened in set(plt.get_fignums()) - before:
            plt.close(opened)


def picture(pixels: np.ndarray, words: str) -> Html:
    """Put an image into the page, without loss.

    Parameters
    ----------
    pixels : uint8 (H, W) or (H, W, 3)
    words : str, what it shows, for those who do not see it

    Returns
    -------
    Html
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    return tag("img", src=_inside(file, "png"), alt=words)


def _inside(file: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def document(title: str, *body: object) -> str:
    """Make the whole page.

    Parameters
    ----------
    title : str, of the browser's window
    *body : object, see `text`

    Returns
    -------
    str
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("title", title),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("style", Html(_CSS)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', tag('main', *body)), lang='en')}\n"
