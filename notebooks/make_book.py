"""Make a book of the notebooks that run_all.py executed: a page for each, a front page, a glossary.

    python notebooks/make_book.py runs/demo     # makes it again, and runs nothing

nbconvert renders everything with the templates in book/. A page is one file that holds its pictures
and needs no network and no script. What a notebook gives to the book: its first heading and the row
**Asks** of its first table; cells tagged `headline` (prints what the run found), `hero` (draws the
picture of the front page) and `guess`; and `alt` in the metadata of a cell that draws.
"""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
TITLE = "Transfer learning on medical images, step by step"
PHANTOMS = (
    "Phantoms",
    "The images of this run are drawn by a program: they show every step and prove nothing about "
    "patients. What is quoted from real images says so.",
)
RANDOM = (
    "Random weights",
    "This run loaded no weights learned on photographs: its scores say nothing about what those "
    "give.",
)
SETTINGS = ("data", "recipe", "weights", "size", "epochs", "limit", "seed")
ZERO = {"epochs": "as each page says", "limit": "none"}  # what 0 means there, said in words
INJECTED = {"injected-parameters", "papermill-error-cell-tag"}  # cells of papermill, not ours
LINK = re.compile(r"\[([^\]]*)\]\(([\w-]+)\.(?:ipynb|md)(#[^)]*)?\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(([\w./-]+\.png)\)")
HEADING = re.compile(r"^(#{1,4}) +(.+?) *$", re.MULTILINE)
LEAK = re.compile(r"LEAK: (?:[\d,]+ of [\d,]+ )?([^\n;)]+)")


@dataclass
class Page:
    """What the book says of one notebook."""

    file: str  # its page; there (`made`) where the notebook ran to its end
    title: str
    made: bool = True
    notebook: str = ""
    asks: str = ""
    headline: str = ""
    badges: list[tuple[str, str]] = field(default_factory=list)  # a name and what it means
    sections: list[tuple[str, str]] = field(default_factory=list)  # words and anchor
    settings: dict[str, object] = field(default_factory=dict)
    seconds: float | None = None
    stopped: int = 0  # the cell, from 1
    log: str = ""
    previous: Page | None = None
    next: Page | None = None


def write(out: Path, sources: Path = HERE, failed: str = "") -> tuple[Path, str]:
    """Write the pages of all notebooks executed into `out`, and index.html, which says what failed.

    `sources` holds glossary.md and the pictures that texts show. Returns index.html and what went
    wrong with pages, or "".
    """
    notebooks = {path.name: read(path) for path in sorted(out.glob("[0-9][0-9]_*.ipynb"))}
    pages = [describe(out / name, notebook) for name, notebook in notebooks.items()]
    if (sources / "glossary.md").exists():
        terms = nbformat.v4.new_markdown_cell((sources / "glossary.md").read_text(encoding="utf-8"))
        notebooks[""] = nbformat.v4.new_notebook(cells=[terms])
        pages.append(Page("glossary.html", "Glossary", asks="What does this term mean?"))
    made = [page for page in pages if page.made]
    for before, after in zip(made, made[1:]):
        before.next, after.previous = after, before
    book = {"title": TITLE, "run": out.name, "pages": pages, "settings": settings_of(pages)}
    book["hero"] = hero(made, notebooks)
    for page in made:
        try:
            notebook = for_the_book(notebooks[page.notebook], {page.file for page in made}, sources)
            render("index.html.j2", out / page.file, notebook, book, page)
        except Exception as error:  # or there would be no index
            what = f"{page.notebook} ran to its end, but no page could be made of it"
            failed += f"\n{what}: {type(error).__name__}: {error}\n"
    kinds = dict.fromkeys(badge for page in pages for badge in page.badges if badge[0] != "Leak")
    front, book["failed"] = Page("", TITLE, badges=list(kinds)), failed.strip()
    render("front.html.j2", out / "index.html", nbformat.v4.new_notebook(), book, front)
    return out / "index.html", failed


def render(template: str, to: Path, notebook: NotebookNode, book: dict, page: Page) -> None:
    """Write one file of the book by a template of book/."""
    exporter = HTMLExporter(
        template_name="book",
        template_file=template,
        extra_template_basedirs=[str(HERE)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    exporter.register_filter("png_width", png_width)
    text, _ = exporter.from_notebook_node(notebook, {"book": book, "page": page})
    to.write_text(text, encoding="utf-8")


def describe(path: Path, notebook: NotebookNode) -> Page:
    """What the book says of an executed notebook; one that failed or was killed is listed too."""
    words = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = headings(words)
    asks = re.search(r"\*\*Asks\*\* *\| *(.+?) *\|", words)
    papermill = notebook.metadata.get("papermill") or {}  # null where run_all itself was killed
    settings = papermill.get("parameters") or {}
    page, log = path.with_suffix(".html"), path.with_suffix(".log")
    seconds = papermill.get("duration")
    return Page(
        file=page.name,
        title=next((text for level, text in found if level == "#"), path.stem),
        made=page.exists(),
        notebook=path.name,
        asks=plain(asks[1]) if asks else "",
        headline=" ".join("".join(texts(tagged(notebook, "headline"))).split()),
        badges=badges(settings, "\n".join(texts(notebook.cells))),
        sections=[(text, text.replace(" ", "-")) for level, text in found if level == "##"],
        settings={key: settings[key] for key in SETTINGS if key in settings},
        seconds=seconds if isinstance(seconds, (int, float)) else None,
        stopped=last_started(notebook)[0],
        log=log.name if log.exists() else "",
    )


def badges(settings: dict, printed: str) -> list[tuple[str, str]]:
    """What must be said above every result of a page, each with a name."""
    found = [PHANTOMS] * on_phantoms(settings) + [RANDOM] * (settings.get("weights") == "random")
    leaks = LEAK.findall(printed)  # without their counts, which the page lets its reader guess
    where = "Each result says on which division it was measured."
    return found + [
        ("Leak", f"A division shown on this page leaks: {leak}. {where}") for leak in leaks[:1]
    ]


def on_phantoms(settings: dict) -> bool:
    """Whether the images are drawn, not real."""
    return str(settings.get("data", "")).startswith("phantom")


def settings_of(pages: list[Page]) -> dict[str, list[str]]:
    """The settings of all pages, each with its values, as those about eyes and chests differ."""
    found: dict[str, dict[str, None]] = {}
    for key, value in (item for page in pages for item in page.settings.items()):
        said = ZERO.get(key, "0") if str(value) == "0" else str(value)
        found.setdefault(key, {})[said] = None
    return {key: list(values) for key, values in found.items()}


def hero(pages: list[Page], notebooks: dict[str, NotebookNode]) -> dict | None:
    """The front page's picture: that of the cell tagged `hero`, else the first there is."""
    cells = [(page, cell) for page in pages for cell in notebooks[page.notebook].cells]
    cells.sort(key=lambda one: "hero" not in one[1].metadata.get("tags", []))
    for page, cell in cells:
        for png in pictures(cell):
            return {"page": page, "png": png, "alt": cell.metadata.get("alt", page.title)}
    return None


def for_the_book(notebook: NotebookNode, files: set[str], sources: Path) -> NotebookNode:
    """Turn links between notebooks into links between pages, and give each picture an alt text.

    A link to what has no page becomes plain words. A picture without `alt` takes the heading above.
    Pictures that a text shows come into the page.
    """

    def link(found: re.Match) -> str:
        words, to, anchor = found[1], f"{found[2]}.html", found[3] or ""
        return f"[{words}]({to}{anchor})" if to in files else words

    def embed(found: re.Match) -> str:
        png = base64.b64encode((sources / found[2]).read_bytes()).decode()
        return f"![{found[1]}](data:image/png;base64,{png})"

    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = IMAGE.sub(embed, LINK.sub(link, cell.source))
            heading = [heading, *(text for _, text in headings(cell.source))][-1]
        elif not cell.metadata.get("alt"):
            cell.metadata["alt"] = f'Picture in the section "{heading}"'
    return notebook


def tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    """The cells with a tag."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def texts(cells: list[NotebookNode]) -> Iterator[str]:
    """What code cells printed to stdout."""
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        if output.get("name") == "stdout":
            yield output.text


def pictures(cell: NotebookNode) -> list[str]:
    """The pictures that a cell drew, PNG in base64."""
    found = [output.get("data", {}).get("image/png") for output in cell.get("outputs", [])]
    return [png for png in found if png]


def png_width(png: str) -> int:
    """How many pixels wide a picture is, PNG in base64: bytes 16 to 19 say so; 0 if it is none."""
    try:
        return int.from_bytes(base64.b64decode(png[:32])[16:20], "big")
    except ValueError:  # one broken picture is to cost no page
        return 0


def headings(markdown: str) -> list[tuple[str, str]]:
    """Marks and plain words of the headings, comments of code left out."""
    outside = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    return [(level, plain(text)) for level, text in HEADING.findall(outside)]


def plain(markdown: str) -> str:
    """Words without marks and links."""
    return re.sub(r"\]\([^)]*\)|[*`\[]", "", markdown)


def last_started(notebook: NotebookNode) -> tuple[int, str]:
    """Number, from 1 in the source notebook, and text of the last cell that papermill began.

    0 and "" where it began none.
    """
    own = [cell for cell in notebook.cells if not INJECTED & set(cell.metadata.get("tags", []))]
    started = [
        i for i, cell in enumerate(own) if (cell.metadata.get("papermill") or {}).get("start_time")
    ]
    return (started[-1] + 1, own[started[-1]].source) if started else (0, "")


def read(path: Path) -> NotebookNode:
    """A notebook; an empty one where there is none or half of one, as after a kill."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError):
        return nbformat.v4.new_notebook()


if __name__ == "__main__":
    index, failed = write(Path(sys.argv[1]).resolve())
    print(failed, end="", file=sys.stderr)
    print(index)
