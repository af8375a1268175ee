"""Run the notebooks without a browser, keep what they made, and write a page that links it all.

    python notebooks/run_all.py                                  # phantoms -> runs/demo/index.html
    python notebooks/run_all.py --params notebooks/params/oct.yaml  # real OCT scans -> runs/oct
    python notebooks/run_all.py --only 03 04 -p epochs 3         # two notebooks, one setting

papermill fills each notebook's `parameters` cell with the settings and executes it in notebooks/.
Notebooks about chest X-rays take theirs from NAME-chest.yaml beside NAME.yaml, and are left out
where there is none; on phantoms they run beside those about eyes, as neither needs the other. The
run's folder then holds each executed NN_*.ipynb, its NN_*.html, and NN_*.log where the kernel wrote
to stderr. Whatever happens, index.html is written and says which notebook failed, at which cell.
Exit codes: 0 done, 1 a notebook failed, 2 wrong use, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import html
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from _thread import interrupt_main
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from urllib.parse import quote

import nbformat
import papermill
import yaml
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

HERE = Path(__file__).resolve().parent
PHANTOM_SECONDS, REAL_SECONDS = (
    900,
    12 * 3600,
)  # for one cell: meant for a hung one, never for a long training
INJECTED = {
    "injected-parameters",
    "papermill-error-cell-tag",
}  # cells of papermill, not of the source notebook
OFFLINE = """{% extends "lab/index.html.j2" %}{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}{% block html_head_js_mermaidjs %}{% endblock %}
{% block extra_css %}<style>main { max-width: 60rem; margin: 0 auto }</style>{% endblock %}"""
PAGE = """<!DOCTYPE html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>TITLE</title><style>
body { font: 1rem/1.6 system-ui, sans-serif; color: #222; max-width: 44rem; margin: 3rem auto;
       padding: 0 1rem }
h1 { font-weight: 600; margin-bottom: 0 } p { margin: .2rem 0 }
a { color: #0b5cad; text-decoration: none }
section { border-top: 1px solid #ddd; padding: .9rem 0 } .small { color: #666; font-size: .85rem }
pre { white-space: pre-wrap }
.note { background: #fff6e0; border-left: 4px solid #e0a100; padding: .6rem 1rem; margin: 1rem 0 }
</style><h1>TITLE</h1>
"""
PHANTOMS = (
    "The images are phantoms, drawn by a program: "
    "they show every step and prove nothing about patients."
)
RANDOM = (
    "The network starts from random weights, not from pretrained ones: "
    "its scores say nothing about transfer."
)


class QuietKernel(AsyncKernelManager):
    """A kernel that draws no progress bars; what libraries and a crash print goes to `native`."""

    native = None
    # Captured, last words would be lost; at ERROR a slow kernel tells the interrupt that ends it.
    arguments = ["--IPKernelApp.capture_fd_output=False", "--log-level=CRITICAL"]

    async def start_kernel(self, **options) -> None:
        env = {
            "TQDM_DISABLE": "1",
            "PYTHONFAULTHANDLER": "1",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        }  # pictures also where a shell sets Agg
        await super().start_kernel(
            env=os.environ | env, stdout=self.native, stderr=self.native, **options
        )


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen notebooks, write the index in any case, return the exit code."""
    args = parse(arguments)
    try:
        params = read_params(args, args.params)
        plan = pair(choose(args.notebooks, args.only), args, params)
        check_names(plan)
    except (ValueError, OSError, yaml.YAMLError) as error:
        print(f"run_all: {error}", file=sys.stderr)
        return 2
    out = (args.notebooks / params["run"]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    timeout = args.timeout or (PHANTOM_SECONDS if on_phantoms(params) else REAL_SECONDS)
    try:
        failed = run_series(plan, out, timeout, args.jobs or (2 if on_phantoms(params) else 1))
        code = 1 if failed else 0
    except KeyboardInterrupt:
        failed, code = f"\nStopped. What was finished lies in {show(out)}.\n", 130
    print(failed, end="", file=sys.stderr, flush=True)
    print(show(write_index(out, params, failed)))
    return code


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--params",
        type=Path,
        default=HERE / "params/demo.yaml",
        help="a file like those in params/",
    )
    parser.add_argument(
        "--out", type=Path, help="the run's folder (default: `run` in the params file)"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NN", help="the notebooks of these numbers"
    )
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="one setting"
    )
    parser.add_argument(
        "--timeout",
        type=int,
        metavar="SECONDS",
        help=f"for one cell (default: {PHANTOM_SECONDS} on phantoms, {REAL_SECONDS} otherwise)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="run so many series (eyes, chests) side by side (default: 2 on phantoms, 1 otherwise)",
    )
    parser.add_argument(
        "--notebooks", type=lambda folder: Path(folder).resolve(), default=HERE, help="their folder"
    )
    return parser.parse_args(arguments)


def read_params(args: argparse.Namespace, file: Path) -> dict:
    """The settings of a params file and the command line; ValueError unless flat and plain."""
    params = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(params, dict):
        raise ValueError(
            f"{file} must hold lines of `key: value`, as notebooks/params/demo.yaml does."
        )
    params |= {key: yaml.safe_load(value) for key, value in args.p}
    if args.out:
        params["run"] = Path(os.path.relpath(args.out, args.notebooks)).as_posix()
    odd = [key for key, value in params.items() if not isinstance(value, (str, int, float))]
    if odd or "run" not in params:
        raise ValueError(
            f"{file} needs a plain text or number for: {', '.join(odd) or 'run, or pass --out'}."
        )
    return params


def choose(folder: Path, only: list[str]) -> list[Path]:
    """The NN_*.ipynb of a folder in order, or those numbered; ValueError where one is not there."""
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    absent = sorted(set(only) - {path.name[:2] for path in found})
    if absent or not found:
        raise ValueError(
            f"no notebook {', '.join(absent) or 'NN_*.ipynb'} in {show(folder)}, which holds "
            f"{', '.join(path.name for path in found) or 'none'}."
        )
    return [path for path in found if not only or path.name[:2] in only]


def pair(notebooks: list[Path], args: argparse.Namespace, params: dict) -> list[tuple[Path, dict]]:
    """Each notebook with its settings; those about other images are left out, with a word."""
    sibling = args.params.with_name(f"{args.params.stem}-chest{args.params.suffix}")
    of = {
        "oct": params,
        "chest": read_params(args, sibling) | {"run": params["run"]} if sibling.is_file() else None,
    }
    if "chest" in args.params.stem:
        of = {"oct": None, "chest": params}
    plan = [(notebook, of[images_of(notebook)]) for notebook in notebooks]
    left_out = [notebook.name for notebook, own in plan if own is None]
    if left_out:
        print(
            f"left out, as {args.params.name} is about other images: {', '.join(left_out)}",
            flush=True,
        )
    return [(notebook, own) for notebook, own in plan if own is not None]


def images_of(notebook: Path) -> str:
    """What a notebook is about, "oct" or "chest", as its metadata say."""
    return nbformat.read(notebook, as_version=4).metadata.get("tlutils", {}).get("images", "oct")


def check_names(plan: list[tuple[Path, dict]]) -> None:
    """ValueError where a notebook lacks a setting: papermill would warn, and change nothing."""
    for notebook, params in plan:
        known = papermill.inspect_notebook(notebook)
        absent = sorted(set(params) - set(known))
        if absent:
            raise ValueError(
                f"{notebook.name} has no parameter {', '.join(absent)}; its cell tagged "
                f"`parameters` has {', '.join(known) or 'none'}. Nothing was run."
            )


def run_series(plan: list[tuple[Path, dict]], out: Path, timeout: int, jobs: int) -> str:
    """Run the notebooks in order; with `jobs` over 1, those about chests beside those about eyes.

    Such a series ends with the first of its notebooks that fails. Returns what went wrong, or "".
    """
    series: dict[str, list] = {}
    for notebook, params in plan:
        series.setdefault(images_of(notebook) if jobs > 1 else "all", []).append((notebook, params))
    if len(series) == 1:
        return run_in_order(plan, out, timeout)
    spawn = multiprocessing.get_context("spawn")
    # All have all cores, so that numbers do not depend on who runs beside; none waits by spinning.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    told = [spawn.SimpleQueue() for _ in series]
    workers = [
        spawn.Process(target=run_beside, args=(part, out, timeout, failure))
        for part, failure in zip(series.values(), told, strict=True)
    ]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        stop(workers)
        raise
    killed = "\nThe process that ran notebooks about {} was killed; was the memory full?\n"
    return "".join(
        killed.format(kind) if failure.empty() else failure.get()
        for kind, failure in zip(series, told, strict=True)
    )


def run_in_order(plan: list[tuple[Path, dict]], out: Path, timeout: int, bar: bool = True) -> str:
    """Run notebooks one after the other until one fails; return what went wrong, or ""."""
    return next(filter(None, (run(*one, out, timeout, bar) for one in plan)), "")


def run_beside(plan: list, out: Path, timeout: int, failure: SimpleQueue) -> None:
    """Run notebooks in a process of their own, which ends when the one that started it does."""
    quiet_papermill()
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), interrupt_main()), daemon=True).start()
    try:
        failure.put(run_in_order(plan, out, timeout, bar=False))
    except KeyboardInterrupt:
        failure.put("")


def stop(workers: list[SpawnProcess]) -> None:
    """Interrupt the processes that Ctrl-C has not reached, as it does those of a terminal."""
    for worker in workers:
        worker.join(timeout=5)
        if worker.is_alive():
            os.kill(worker.pid, signal.SIGINT)
    for worker in workers:
        worker.join()


def run(notebook: Path, params: dict, out: Path, timeout: int, bar: bool = True) -> str:
    """Execute a notebook into `out`, export it as HTML; return what went wrong, or ""."""
    target, log, start = out / notebook.name, out / f"{notebook.stem}.log", time.perf_counter()
    target.with_suffix(".html").unlink(
        missing_ok=True
    )  # where it stands, its notebook ran to the end
    watched = bar and sys.stderr.isatty()
    print("" if watched else f"{notebook.stem} started\n", end="", flush=True)
    with log.open("w", encoding="utf-8") as QuietKernel.native:
        try:
            papermill.execute_notebook(
                notebook,
                target,
                params,
                kernel_name="python3",
                cwd=notebook.parent,
                execution_timeout=timeout,
                kernel_manager_class=QuietKernel,
                extra_arguments=QuietKernel.arguments,
                stderr_file=QuietKernel.native,
                progress_bar={"desc": notebook.stem} if watched else False,
            )
        except Exception as error:  # also what nobody thought of, or there would be no index
            return explain(error, target, log, timeout)
    if not log.stat().st_size:
        log.unlink()
    try:
        page, _ = HTMLExporter(raw_template=OFFLINE).from_filename(str(target))
        target.with_suffix(".html").write_text(page, encoding="utf-8")
    except Exception as error:
        return (
            f"\n{target.name} ran to its end, but no page could be made of it: "
            f"{type(error).__name__}: {error}\n"
            f"The notebook is {show(target)}.\n"
        )
    print(
        "" if watched else f"{notebook.stem} done in {time.perf_counter() - start:.0f} s\n",
        end="",
        flush=True,
    )
    return ""


def explain(error: Exception, target: Path, log: Path, timeout: int) -> str:
    """A paragraph for a person: which notebook, which cell, what happened, where to look."""
    number, source = last_started(target)
    if isinstance(error, PapermillExecutionError):
        what = f"raised {error.ename}: {error.evalue}"
    elif isinstance(error, CellTimeoutError):
        what = (
            f"was stopped after {timeout} s, the limit for one cell; --timeout SECONDS changes it"
        )
    elif not isinstance(error, DeadKernelError):
        what = f"was stopped by {type(error).__name__}: {error}"
    elif crash := re.search(
        "Fatal Python error: (.*)", log.read_text(encoding="utf-8", errors="replace")
    ):
        what = f"crashed its kernel: {crash[1]}"
    else:
        what = (
            "killed its kernel. Most often the machine had no memory left: close other programs, "
            "or try fewer or smaller images, as in -p limit 200 or -p size 64"
        )
    begins = "".join(f"    {line}\n" for line in source.strip().splitlines()[:4])
    stderr = f" The kernel's stderr is {show(log)}." if log.stat().st_size else ""
    where = (
        f"at cell {number}, which begins\n\n{begins}\nand"
        if number
        else "before its first cell: it"
    )
    return (
        f"\n{target.name} failed {where} {what}.\n"
        f"The notebook up to there is {show(target)}.{stderr}\n"
    )


def last_started(target: Path) -> tuple[int, str]:
    """Number, from 1 in the source notebook, and text of the last cell that papermill began.

    0 and "" where it began none.
    """
    own = [cell for cell in read(target).cells if not INJECTED & set(cell.metadata.get("tags", []))]
    started = [
        i for i, cell in enumerate(own) if (cell.metadata.get("papermill") or {}).get("start_time")
    ]
    return (started[-1] + 1, own[started[-1]].source) if started else (0, "")


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook; an empty one where there is none or half of one, as after a kill."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError):
        return nbformat.v4.new_notebook()


def write_index(out: Path, params: dict, failed: str = "") -> Path:
    """Write index.html over all notebooks executed into `out`, and what failed; return its path."""
    settings = " &middot; ".join(
        html.escape(f"{key} {params[key]}")
        for key in ("data", "recipe", "weights")
        if key in params
    )
    notes = [PHANTOMS] * on_phantoms(params) + [RANDOM] * (params.get("weights") == "random")
    parts = [
        PAGE.replace("TITLE", html.escape(f"Run {out.name}")),
        f"<p class='small'>{settings}</p>\n",
    ]
    parts += [f"<p class='note'>{note}</p>\n" for note in notes]
    parts += [f"<pre class='note'>{html.escape(failed.strip())}</pre>\n"] if failed else []
    parts += [section(path) for path in sorted(out.glob("[0-9][0-9]_*.ipynb"))]
    (out / "index.html").write_text("".join(parts), encoding="utf-8")
    return out / "index.html"


def section(path: Path) -> str:
    """The index's entry for one executed notebook: its title, first sentence, seconds, and links.

    One that failed or was killed is listed too, with the cell where it stopped and its stderr.
    """
    notebook = read(path)
    lines = [
        line
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
    ]
    title = next((line[2:] for line in lines if line.startswith("# ")), path.stem)
    about = next(
        (re.sub(r"[*_`[]|\]\([^)]*\)", "", line) for line in lines if re.match(r"[\w*_\[]", line)),
        "",
    )
    page, log, cell = path.with_suffix(".html"), path.with_suffix(".log"), last_started(path)[0]
    title, about = html.escape(title), html.escape(about)
    head = (
        f"<a href='{quote(page.name)}'>{title}</a>"
        if page.exists()
        else f"{title}: stopped before its end"
    )
    head += f", at cell {cell}" if cell and not page.exists() else ""
    seconds = (notebook.metadata.get("papermill") or {}).get(
        "duration"
    )  # null where run_all itself was killed
    links = [f"{seconds:.0f} s"] if isinstance(seconds, (int, float)) else []
    links += [f"<a href='{quote(path.name)}'>notebook</a>"]
    links += [f"<a href='{quote(log.name)}'>stderr</a>"] * log.exists()
    small = f"<p class='small'>{' &middot; '.join(links)}</p>"
    return f"<section><p>{head}</p><p>{about}</p>{small}</section>\n"


def on_phantoms(params: dict) -> bool:
    """Whether the images are drawn, not real."""
    return str(params.get("data", "")).startswith("phantom")


def show(path: Path) -> str:
    """A path as short as it can be said from here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def quiet_papermill() -> None:
    """What goes wrong is told once, by `explain`."""
    logging.getLogger("papermill").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    quiet_papermill()
    sys.exit(main())
