"""notebooks/make_book.py: what a reader of a run's folder finds, with eyes, ears, a phone or paper."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import make_book
import nbformat
import pytest
from browsers import chromium
from contrast import GRAPHICS, WORDS, contrast, css_colors
from nbformat import v4
from test_notebooks import NOTEBOOKS, each_notebook, series  # noqa: F401

PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
        "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
    )
).decode()
PICTURE = {"image/png": PNG}
SCREENS = {  # width and scheme
    "light": (1280, "light"),
    "dark": (1280, "dark"),
    "phone": (360, "light"),
}


def printed(text: str, **metadata) -> nbformat.NotebookNode:
    """A code cell that printed a text."""
    output = v4.new_output("stream", name="stdout", text=text)
    return v4.new_code_cell("print()", outputs=[output], metadata=metadata)


def drew(data: dict = PICTURE, **metadata) -> nbformat.NotebookNode:
    """A code cell that drew a picture."""
    return v4.new_code_cell(
        "draw()", outputs=[v4.new_output("display_data", data=data)], metadata=metadata
    )


def executed(out: Path, name: str, *cells, **settings) -> None:
    """An executed notebook of a title and the given cells, as run_all leaves it."""
    first = v4.new_markdown_cell(f"# The {name}\n\n| | |\n|---|---|\n| **Asks** | Why *{name}*? |")
    metadata = {"papermill": {"parameters": settings, "duration": 12.3}}
    nbformat.write(v4.new_notebook(cells=[first, *cells], metadata=metadata), out / f"{name}.ipynb")
    (out / f"{name}.html").touch()


def book(out: Path, sources: Path | None = None) -> dict[str, str]:
    """The pages that make_book writes into a folder, by name."""
    index, failed = make_book.write(out, sources or out)
    assert not failed and index == out / "index.html"
    return {path.stem: path.read_text(encoding="utf-8") for path in out.glob("*.html")}


def test_the_front_page_tells_what_each_page_asks_and_what_the_run_found(tmp_path):
    executed(tmp_path, "01_a", drew(), printed("Found 7\nof 9.\n", tags=["headline"]))
    executed(tmp_path, "02_b", printed("no headline"), data="mine", seed=3)
    front = book(tmp_path)["index"]
    for words in ("The 01_a", "Why 01_a?", "Found 7 of 9.", "12 s", "data mine", "seed 3"):
        assert words in front
    assert "no headline" not in front and 'href="02_b.html"' in front and "02_b.ipynb" in front


def test_the_front_page_says_in_words_what_0_means(tmp_path):
    executed(tmp_path, "01_a", epochs=0, limit=0, seed=0)
    executed(tmp_path, "02_b", epochs=3, limit=0, seed=0)
    front = book(tmp_path)["index"]
    assert "epochs as each page says and 3 · limit none · seed 0" in front


def test_the_hero_is_the_tagged_picture_and_otherwise_the_first(tmp_path):
    other = {"image/png": base64.b64encode(b"another").decode()}
    executed(tmp_path, "01_a", drew(alt="the first"))
    executed(tmp_path, "02_b", drew(), drew(other, tags=["hero"], alt="the hero"))
    front = book(tmp_path)["index"]
    assert 'alt="the hero"' in front and other["image/png"] in front and PNG not in front
    (tmp_path / "02_b.html").unlink()
    front = book(tmp_path)["index"]
    assert 'alt="the first"' in front and "stopped before its end" in front


def test_phantoms_random_weights_and_leaks_stand_in_words_above_a_page(tmp_path):
    executed(tmp_path, "01_a", printed("x LEAK: 3 of 9 test images share a patient with train\n"))
    executed(tmp_path, "02_b", data="phantom-oct", weights="random")
    executed(tmp_path, "03_c", data="kermany-oct", weights="imagenet")
    pages = book(tmp_path)
    found = {name: re.findall(r'role="note"><strong>(.*?)<', text) for name, text in pages.items()}
    both = ["Phantoms", "Random weights"]
    assert found == {"01_a": ["Leak"], "02_b": both, "03_c": [], "index": both}
    words = "A division shown on this page leaks: test images share a patient with train. "
    assert words in pages["01_a"] and words in pages["index"]
    assert pages["02_b"].index('role="note"') < pages["02_b"].index("<h1")


def test_every_picture_has_words_its_own_or_the_heading_above(tmp_path):
    head = v4.new_markdown_cell("## Who is *here*?\n\nText.\n\n```python\n# a comment\n```")
    executed(tmp_path, "01_a", drew(alt='A "chart".'), head, drew(), drew({"image/jpeg": "aa"}))
    page = book(tmp_path)["01_a"]
    assert re.findall(r"<img alt=(.*?) src", page) == [
        "'A \"chart\".'",
        "'Picture in the section \"Who is here?\"'",
        "'Picture in the section \"Who is here?\"'",
    ]


def test_a_broken_picture_costs_no_page(tmp_path):
    executed(tmp_path, "01_a", drew({"image/png": "not base64!"}), printed("told"))
    assert "told" in book(tmp_path)["01_a"]


def test_links_between_notebooks_and_terms_lead_to_pages_and_none_is_dead(tmp_path):
    words = (
        "[next](02_b.ipynb) [there](02_b.ipynb#The-02_b) [ECE](glossary.md#ECE) [no](09_x.ipynb)"
    )
    executed(tmp_path, "01_a", v4.new_markdown_cell(f"## One & two `x`\n\n{words}"))
    executed(tmp_path, "02_b")
    (tmp_path / "glossary.md").write_text("# Glossary\n\n## ECE\n\nAn error; see [2](02_b.ipynb).")
    pages = book(tmp_path)
    assert set(pages) == {"01_a", "02_b", "glossary", "index"}
    for page in pages.values():
        for to in map(html.unescape, re.findall(r'href="([^"]*)"', page)):
            file, _, anchor = to.partition("#")
            assert (tmp_path / file).exists(), to
            there = pages[file.removesuffix(".html")] if file.endswith(".html") else page
            assert not anchor or f'id="{unquote(anchor)}"' in html.unescape(there), to
    assert ">no<" not in pages["01_a"] and " no</p>" in pages["01_a"]


def test_a_picture_that_a_text_shows_comes_into_the_page_and_leaves_answers_folded(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(base64.b64decode(PNG))
    answer = "<details><summary>Answer</summary>\n\n```python\nx = 42\n```\n</details>"
    text = v4.new_markdown_cell(f"![A chart.](images/a.png)\n\n{answer}")
    executed(tmp_path, "01_a", text)
    page = book(tmp_path)["01_a"]
    assert f'<img alt="A chart." src="data:image/png;base64,{PNG}"' in page
    assert "42" in page[page.index("<details>") : page.index("</details>")]


def test_pages_lead_on_and_back_and_say_where_one_is(tmp_path):
    for name in ("01_a", "02_b", "03_c"):
        executed(tmp_path, name)
    (tmp_path / "02_b.html").unlink()  # as where it failed
    pages = book(tmp_path)
    assert re.findall(r'href="([^"]*)" rel="(\w+)"', pages["01_a"]) == [("03_c.html", "next")]
    assert re.findall(r'href="([^"]*)" rel="(\w+)"', pages["03_c"]) == [("01_a.html", "prev")]
    assert 'aria-current="page" href="03_c.html"' in pages["03_c"]
    assert all('class="skip" href="#text"' in page for page in pages.values())


def test_a_guess_and_the_settings_of_the_run_are_boxes_with_a_name(tmp_path):
    guess = v4.new_code_cell("guess = 0.8", metadata={"tags": ["guess"]})
    settings = v4.new_code_cell("seed = 1", metadata={"tags": ["injected-parameters"]})
    executed(tmp_path, "01_a", guess, settings)
    boxes = re.findall(r'class="label">(.*?)<', book(tmp_path)["01_a"])
    assert boxes == ["Your guess", "Settings of this run"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_colors_of_the_book_can_be_read_on_their_grounds(scheme):
    style = Path(make_book.__file__).parent / "book" / "style.css"
    colors = css_colors(style.read_text(encoding="utf-8"))[scheme]
    words = ("ink", "soft", "accent", "keyword", "string", "number", "comment")
    pairs = [(word, ground) for word in words for ground in ("paper", "tint")]
    found = {pair: contrast(*map(colors.get, pair)) for pair in [*pairs, ("note-ink", "note")]}
    assert min(found.values()) >= WORDS, found
    edges = [("frame", "paper"), ("note-edge", "paper"), ("note-edge", "note"), ("accent", "tint")]
    assert all(contrast(*map(colors.get, pair)) >= GRAPHICS for pair in edges)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as one:
        yield one


# For each text that is shown: its color, and the grounds behind it from the inside out.
TEXTS = """() => {
  const found = new Map();
  const all = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (all.nextNode()) {
    const at = all.currentNode.parentElement;
    if (!all.currentNode.textContent.trim() || !at.checkVisibility({opacityProperty: true})) continue;
    const grounds = [];
    for (let e = at; e; e = e.parentElement) grounds.push(getComputedStyle(e).backgroundColor);
    const key = getComputedStyle(at).color + "|" + grounds.find(g => g != "rgba(0, 0, 0, 0)");
    found.set(key, all.currentNode.textContent.trim().slice(0, 40));
  }
  return [...found];
}"""


def of_css(color: str) -> tuple:
    """A color as the browser tells it, for matplotlib."""
    red, green, blue, *alpha = map(float, re.findall(r"[\d.]+", color))
    return (red / 255, green / 255, blue / 255, *alpha)


@pytest.mark.browser
@pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks")
@pytest.mark.parametrize(
    "screen",
    [pytest.param(name, marks=pytest.mark.slow if name != "light" else ()) for name in SCREENS],
)
def test_the_book_of_the_series_is_whole_on_every_screen(series, browser, screen):  # noqa: F811
    out, (width, scheme) = series[1], SCREENS[screen]
    pages = sorted(out.glob("*.html"))
    assert len(pages) > len(NOTEBOOKS), series[0]["stderr"]
    kept = os.environ.get("TLUTILS_SCREENSHOTS")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab, asked = context.new_page(), []
    tab.on("request", lambda request: asked.append(request.url))
    for path in pages:
        tab.goto(path.as_uri())
        if kept:
            tab.screenshot(path=Path(kept) / f"book-{path.stem}-{screen}.png", full_page=True)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, path.name
        assert tab.locator("script, img:not([alt]), img[alt='']").count() == 0, path.name
        assert tab.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        low = {
            text: colors
            for colors, text in tab.evaluate(TEXTS)
            if contrast(*map(of_css, colors.split("|"))) < WORDS
        }
        assert not low, path.name
        if width > 1000:  # lines of 88 letters are seen whole
            line = "const m = document.createElement('canvas').getContext('2d'); "
            line += "const pre = document.querySelector('.input pre'); if (!pre) return 0; "
            line += "m.font = getComputedStyle(pre).font; return 88 * m.measureText('x').width"
            room = "(document.querySelector('.input pre') || document.body).clientWidth"
            assert tab.evaluate(f"(() => {{ {line} }})()") <= tab.evaluate(room), path.name
    assert all(url.startswith(("file:", "data:")) for url in asked)
    context.close()
