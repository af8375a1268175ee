"""The page as a person uses it, in a browser: drop, look, drop again, with keys alone, on a phone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from bombs import png, whole_png
from browsers import chromium
from contrast import GRAPHICS, WORDS, contrast, css_colors
from small_runs import first

import tlutils.serve
from tlutils.report.html import _CSS

STYLE = (Path(tlutils.serve.__file__).parent / "static" / "style.css").read_text()
DROP = """async (files) => {
  const data = new DataTransfer();
  for (const [name, content] of files)
    data.items.add(new File([Uint8Array.from(atob(content), c => c.charCodeAt(0))], name));
  for (const kind of ["dragover", "drop"])
    document.querySelector("#drop").dispatchEvent(
      new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


def test_the_page_has_the_colors_of_the_report_and_its_own_pairs_can_be_told_apart():
    assert css_colors(STYLE) == css_colors(_CSS)
    for colors in css_colors(STYLE).values():
        for front in ("ink", "soft", "accent"):  # a bar's frame, a bar, the mark across it
            assert contrast(colors[front], colors["tint"]) >= GRAPHICS
        assert contrast(colors["bad"], colors["tint"]) >= WORDS
        assert contrast(colors["warning"], colors["paper"]) >= WORDS


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as one:
        yield one


@pytest.fixture
def page(browser, served, request, tmp_path) -> Iterator:
    """The page, which must ask nobody else and say nothing on the console; a picture is kept."""
    look = getattr(request, "param", {})
    shown = browser.new_page(viewport={"width": 1200, "height": 900}, **look)
    asked, said = [], []
    shown.on("request", lambda request: asked.append(request.url))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("console", lambda message: said.append(message.text))
    shown.goto(served[0])
    shown.locator("#limits li").first.wait_for(timeout=300_000)
    yield shown
    kept = Path(os.environ.get("TLUTILS_SCREENSHOTS") or tmp_path)
    shown.screenshot(path=kept / f"serve-{request.node.name}.png", full_page=True)
    shown.close()
    own = ("data:", served[0])
    assert not [url for url in asked if not url.startswith(own)]
    # A browser reports a refused file (422) by itself.
    assert not [words for words in said if "422" not in words]


def drop(page, **files: bytes) -> None:
    import base64

    named = [[name.replace("_", "."), base64.b64encode(of).decode()] for name, of in files.items()]
    page.evaluate(DROP, named)


def shows(page, words: str) -> None:
    """Wait until the line that is read aloud has some words."""
    from playwright.sync_api import expect

    expect(page.get_by_role("status")).to_contain_text(words, timeout=300_000)


@pytest.fixture
def scans(tiny_folder) -> dict[str, bytes]:
    return {
        f"{name}_jpeg": first(tiny_folder, f"test/{name}").read_bytes()
        for name in ("CNV", "DME", "NORMAL")
    }


@pytest.mark.browser
def test_an_image_that_is_dropped_is_answered_and_the_next_one_replaces_it(page, scans):
    drop(page, CNV_jpeg=scans["CNV_jpeg"])
    shows(page, "CNV.jpeg: ")
    assert page.locator("#bars li").count() == 4 and page.locator("#nearest img").count() == 5
    assert page.evaluate("[...document.images].every(one => !one.src || one.naturalWidth > 0)")
    box = page.locator("#scan").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(64 / 48, rel=0.02)
    page.get_by_label("Show what counted").uncheck()
    assert page.locator("#map").is_hidden() and page.locator("#picture").is_visible()
    drop(page, NORMAL_jpeg=scans["NORMAL_jpeg"])
    shows(page, "NORMAL.jpeg: ")
    assert page.locator("#name").inner_text() == "NORMAL.jpeg"
    assert page.locator("#bars li").count() == 4 and page.locator("#map").is_hidden()


@pytest.mark.browser
def test_while_an_image_is_looked_at_the_page_says_so_and_the_answer_before_it_fades(page, scans):
    def looks() -> tuple[str, bool]:
        opacity = page.evaluate("getComputedStyle(document.querySelector('#status')).opacity")
        return opacity, page.locator("#result.old").count() == 1

    drop(page, CNV_jpeg=scans["CNV_jpeg"])
    shows(page, "CNV.jpeg: ")
    assert looks() == ("0", False)
    held: list = []
    page.route("**/answer", lambda route: held.append(route))
    with page.expect_request("**/answer"):
        drop(page, DME_jpeg=scans["DME_jpeg"])
    shows(page, "Looking at DME.jpeg")
    assert looks() == ("1", True)
    held[0].continue_()
    shows(page, "DME.jpeg: ")
    assert looks() == ("0", False)


@pytest.mark.browser
def test_several_are_answered_one_after_the_other_and_can_be_looked_at_again(page, scans):
    drop(page, **scans, notes_txt=b"some words")
    shows(page, "4 images done, 1 of them not answered")
    assert page.locator("#queue button").all_inner_texts()[3].endswith("not answered")
    page.get_by_role("button", name="DME.jpeg").click()
    shows(page, "DME.jpeg: ")
    assert page.locator("#name").inner_text() == "DME.jpeg"
    drop(page, **{"CNV_jpeg": scans["CNV_jpeg"]})
    shows(page, "CNV.jpeg: ")
    assert page.locator("#queue").is_hidden()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("data", "why"),
    [(b"some words", "this is no image"), (png(50_000, 50_000), "too many pixels")],
    ids=["text", "bomb"],
)
def test_what_is_no_image_is_told_in_a_sentence_and_the_next_one_is_answered(
    data, why, page, scans
):
    drop(page, CNV_jpeg=scans["CNV_jpeg"])
    shows(page, "probability")
    drop(page, odd_png=data)
    shows(page, why)
    assert page.locator("#found").is_hidden()  # of the image before
    assert why in page.locator("#problem").inner_text()
    drop(page, CNV_jpeg=scans["CNV_jpeg"])
    shows(page, "probability")
    assert page.locator("#found").is_visible() and page.locator("#problem").is_hidden()


@pytest.mark.browser
def test_an_image_unlike_all_others_is_said_to_be_aloud_and_in_the_strip(page, scans):
    drop(page, blank_png=whole_png(64, 48))
    shows(page, "unlike the training images")
    assert "may mean nothing" in page.locator("#unlike").inner_text()
    drop(page, CNV_jpeg=scans["CNV_jpeg"], blank_png=whole_png(64, 48))
    shows(page, "2 images done")
    answer = page.locator("#answer").inner_text()
    names = page.locator("#queue button small").all_inner_texts()
    assert names[1].startswith("unlike, ") and "unlike" not in names[0] and answer in names[0]


@pytest.mark.browser
def test_it_works_with_keys_alone(page, tiny_folder):
    page.on("filechooser", lambda chooser: None)  # now, as the browser takes a moment to tell
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    assert page.evaluate("getComputedStyle(drop).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([first(tiny_folder, "test/CNV"), first(tiny_folder, "test/DME")])
    shows(page, "2 images done")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    shows(page, "CNV")
    assert page.evaluate("document.activeElement.dataset.at") == "0"
    for _ in range(2):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "overlay"
    page.keyboard.press("Space")
    assert page.locator("#map").is_hidden()


@pytest.mark.browser
@pytest.mark.parametrize(
    "page",
    [{"color_scheme": "light"}, {"color_scheme": "dark"}],
    indirect=True,
    ids=["light", "dark"],
)
@pytest.mark.parametrize(
    "width",
    [320, pytest.param(390, marks=pytest.mark.slow), pytest.param(1200, marks=pytest.mark.slow)],
)
def test_it_fits_every_width(page, width, scans):
    page.set_viewport_size({"width": width, "height": 800})
    long = "a-name-without-any-place-to-break-it-" * 4 + "png"
    drop(page, **scans, **{f"{long}": scans["CNV_jpeg"]})
    shows(page, "4 images done")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
