"""JupyterLab as a person uses it: open each notebook in a browser, restart and run all, look, press Stop, go on."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import papermill
import pytest
from browsers import chromium
from test_notebooks import FEW, NOTEBOOKS, TINY, series  # noqa: F401 - a fixture

TOKEN = "a-token-for-this-test"
CALM = [
    "--disable-background-networking",
    "--disable-quic",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
TRAINING = """
from pathlib import Path
from tlutils.models import checkpoints
from tlutils.runs import recipes
from tlutils.runs.train import train
begun = Path("run/last.pt").exists()
epochs = len(checkpoints.read("run/last.pt")["history"]) + 2 if begun else 100_000  # the second time, two more
recipe = recipes.get("oct-vgg16").changed({{"backbone": "resnet18", "size": 32, "batch_size": 8, "views": 1,
                                           "patience": 0, "epochs": epochs}})
train(recipe, "{data}", "run", weights="random")
print("this run has ended")
"""

# Every code cell has a number, or one has failed.
# JupyterLab at times loses what it sends to a kernel that restarts: cells wait, the kernel does nothing.
ENDED_OR_LOST = """() => {
  const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")];
  if (document.body.innerText.includes("Traceback (most recent call last)")
      || prompts.every(prompt => /\\[\\d+\\]/.test(prompt.textContent))) return "ended";
  const status = document.querySelector(".jp-Notebook-ExecutionIndicator").dataset.status;
  window.idleSince = status === "busy" ? null : window.idleSince ?? Date.now();
  return window.idleSince && Date.now() - window.idleSince > 12_000 ? "lost" : false;
}"""

pytestmark = [pytest.mark.browser, pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks")]


@pytest.fixture(scope="module")
def folder(
    series: tuple[dict, Path],  # noqa: F811
    drawn_folder: Path,
    tiny_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """All notebooks, made small, of somebody who comes back: the trainings of the series are there already.

    The first says at its end which Python runs it. And one that trains until stopped.
    """
    folder = tmp_path_factory.mktemp("lab") / "notebooks"
    folder.mkdir()
    settings = {**TINY, "data_folder": str(drawn_folder), "run": str(series[1])}
    quiet = {"prepare_only": True, "progress_bar": False}
    for path in NOTEBOOKS:
        few = FEW.get(path.stem, {})
        papermill.execute_notebook(path, folder / path.name, settings | few, **quiet)
    v4, first = nbformat.v4, folder / NOTEBOOKS[0].name
    content = nbformat.read(first, as_version=4)
    content.cells.append(v4.new_code_cell("import sys\nprint('this kernel is', sys.prefix)"))
    nbformat.write(content, first)
    content.cells = [v4.new_code_cell(TRAINING.format(data=tiny_folder))]
    nbformat.write(content, folder / "training.ipynb")
    return folder


@pytest.fixture(scope="module")
def lab(folder: Path) -> Iterator[str]:
    """The address of a JupyterLab that runs on this machine only, with settings of its own."""
    port, home = free_port(), folder.parent
    kinds = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    env = os.environ | {name: str(home / folder) for name, folder in kinds.items()}
    env.pop("MPLBACKEND")  # set for the tests; it would keep pictures out of the notebook
    draw_all_cells(home / "settings")
    line = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={folder}",
        f"--IdentityProvider.token={TOKEN}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    with (home / "lab.log").open("w") as log:
        server = subprocess.Popen(line, env=env, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for_answer(f"{address}/api/status", server, home / "lab.log")
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def draw_all_cells(settings: Path) -> None:
    """Have JupyterLab draw every cell, also those that are scrolled out of sight, so that a test can see them."""
    folder = settings / "@jupyterlab" / "notebook-extension"
    folder.mkdir(parents=True)
    (folder / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": "none"}))


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_answer(url: str, server: subprocess.Popen, log: Path, seconds: float = 90) -> None:
    """Wait until the server answers; fail with its log where it does not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}?token={TOKEN}", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


def press(page, button: Callable[[], None], sign) -> None:
    """Press a button until its sign is there: JupyterLab may not be ready to hear it, nor Python to be interrupted."""
    from playwright.sync_api import TimeoutError as NothingHappened

    for _ in range(6):
        button()
        try:
            sign.first.wait_for(timeout=20_000)
            return
        except NothingHappened:
            page.keyboard.press("Escape")
    pytest.fail("nothing happened though the button was pressed six times")


def run_all_cells(page, sign: str = "") -> None:
    """Press Run All until an output has a sign, or, without one, a prompt shows that its cell runs or ran."""

    def button() -> None:
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    begun = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]"))
    press(page, button, page.locator(".jp-OutputArea-output", has_text=sign) if sign else begun)


def restart_and_run_all_cells(page) -> None:
    """Choose it in the menu, as whoever wants to be sure does, and confirm; return when all cells have run."""

    def button() -> None:
        page.get_by_role("menuitem", name="Kernel", exact=True).click()
        page.get_by_role("menuitem", name=re.compile("^Restart Kernel and Run All Cells")).click()
        page.locator(".jp-Dialog .jp-mod-accept").click()

    for _ in range(3):
        page.evaluate("window.idleSince = null")
        press(page, button, page.locator(".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]")))
        if page.wait_for_function(ENDED_OR_LOST, timeout=900_000).json_value() == "ended":
            return
    pytest.fail("the kernel was asked three times and did nothing")


def stop(page) -> None:
    """Press the toolbar's stop button; the cell that ran ends with an error."""
    press(
        page,
        page.locator("[data-command='notebook:interrupt-kernel']").first.click,
        page.locator(".jp-OutputArea-output", has_text="KeyboardInterrupt"),
    )


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium(*CALM) as one:
        yield one


@pytest.fixture
def opened(browser, lab: str, request: pytest.FixtureRequest) -> Iterator:
    """The page of the notebook that the test names, its kernel ready; a picture of all of it is kept where one asks."""
    from playwright.sync_api import expect

    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(f"{lab}/lab/tree/{request.param}?token={TOKEN}&reset")
    expect(page.locator(".jp-CodeCell").first).to_be_visible(timeout=90_000)
    expect(page.locator(".jp-Notebook-ExecutionIndicator")).to_have_attribute(
        "data-status", "idle", timeout=90_000
    )
    yield page
    if kept := os.environ.get("TLUTILS_SCREENSHOTS"):
        notebook = page.locator(".jp-WindowedPanel-outer").first
        tall = notebook.evaluate("panel => panel.scrollHeight")
        page.set_viewport_size({"width": 1400, "height": min(tall + 150, 15_000)})
        page.wait_for_timeout(500)  # until it is laid out anew
        notebook.evaluate("panel => panel.scrollTo(0, 0)")
        page.screenshot(path=Path(kept) / f"lab-{Path(request.param).stem}.png")
    page.close()
    end_kernels(lab)


def end_kernels(lab: str) -> None:
    """End all kernels of JupyterLab, as each keeps about half a GB."""

    def ask(path: str, method: str = "GET") -> bytes:
        head = {"Authorization": f"token {TOKEN}"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{lab}/api/{path}", headers=head, method=method), timeout=60
        ) as answer:
            return answer.read()

    for session in json.loads(ask("sessions")):
        ask(f"sessions/{session['id']}", "DELETE")


def shows(page, text: str) -> None:
    """Wait until an output of the notebook holds a text."""
    from playwright.sync_api import expect

    expect(page.locator(".jp-OutputArea-output").filter(has_text=text).first).to_be_visible(
        timeout=120_000
    )


@pytest.mark.parametrize(
    "opened",
    [
        pytest.param(path.name, marks=[pytest.mark.slow] if number else [])
        for number, path in enumerate(NOTEBOOKS)
    ],
    indirect=True,
)
def test_a_notebook_runs_in_jupyterlab_from_its_first_cell_to_its_last(opened, request):
    restart_and_run_all_cells(opened)
    outputs = opened.locator(".jp-OutputArea-output")
    failed = outputs.filter(has_text="Traceback (most recent call last)")
    assert failed.count() == 0, failed.first.inner_text()[-1000:]
    assert outputs.locator("img").count() > 0
    if NOTEBOOKS[0].name in request.node.name:
        shows(opened, f"this kernel is {Path(sys.prefix).resolve()}")
        assert outputs.locator("table").count() > 0


@pytest.mark.slow
@pytest.mark.parametrize("opened", ["training.ipynb"], indirect=True)
def test_the_stop_button_ends_a_training_that_says_how_to_go_on_and_then_does(opened):
    run_all_cells(opened, "epoch  2")
    stop(opened)
    shows(opened, "the same call goes on after epoch")
    run_all_cells(opened, "going on after epoch")
    shows(opened, "this run has ended")
