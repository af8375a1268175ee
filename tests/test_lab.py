"""JupyterLab as a person uses it: open a notebook in a browser, press Run All, see a picture."""

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
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill
import pytest
from conftest import browser_path
from test_notebooks import NOTEBOOKS, TINY

TOKEN = "a-token-for-this-test"
CALM = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-quic", "--no-first-run",
        "--disable-component-update", "--disable-sync"]

pytestmark = [pytest.mark.browser, pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks")]


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """The first notebook with small settings and, as its last cell, one that says which Python runs it."""
    path = tmp_path / "notebooks" / NOTEBOOKS[0].name
    path.parent.mkdir()
    papermill.execute_notebook(NOTEBOOKS[0], path, TINY, prepare_only=True, progress_bar=False)
    content = nbformat.read(path, as_version=4)
    content.cells.append(nbformat.v4.new_code_cell("import sys\nprint('this kernel is', sys.prefix)"))
    nbformat.write(content, path)
    return path


@pytest.fixture
def lab(tmp_path: Path, notebook: Path) -> Iterator[str]:
    """The address of a JupyterLab that runs on this machine only, with settings of its own."""
    port = free_port()
    kinds = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
             "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython"}
    env = os.environ | {name: str(tmp_path / folder) for name, folder in kinds.items()}
    env.pop("MPLBACKEND")  # set for the tests; it would keep pictures out of the notebook
    draw_all_cells(tmp_path / "settings")
    line = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={notebook.parent}",
            f"--IdentityProvider.token={TOKEN}", "--LabApp.news_url=None",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(line, env=env, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for_answer(f"{address}/api/status", server, tmp_path / "lab.log")
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


def run_all_cells(page) -> None:
    """Press Run All, again where JupyterLab was not ready to hear it: a cell that runs or ran has a sign in its prompt."""
    from playwright.sync_api import TimeoutError as NothingHappened

    for attempt in range(6):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        try:
            page.locator(".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]")).first.wait_for(timeout=20_000)
            return
        except NothingHappened:
            page.keyboard.press("Escape")
    pytest.fail("JupyterLab ran no cell though Run All was pressed six times")


def test_the_first_notebook_runs_in_jupyterlab_and_shows_a_picture(lab, notebook, tmp_path):
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=CALM)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{lab}/lab/tree/{notebook.name}?token={TOKEN}")
        expect(page.locator(".jp-CodeCell").first).to_be_visible(timeout=90_000)
        expect(page.locator(".jp-Notebook-ExecutionIndicator")).to_have_attribute("data-status", "idle", timeout=90_000)
        run_all_cells(page)
        outputs = page.locator(".jp-OutputArea-output")
        try:
            expect(outputs.filter(has_text="this kernel is")).to_contain_text(sys.prefix, timeout=300_000)
            page.locator(".jp-OutputArea-output img").first.scroll_into_view_if_needed()
        finally:
            page.screenshot(path=tmp_path / "lab.png")
        assert page.locator(".jp-OutputArea-output img").count() > 0
        assert page.locator(".jp-OutputArea-output table").count() > 0
        assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
        browser.close()
