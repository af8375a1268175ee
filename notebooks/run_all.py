"""Run the notebooks without a browser, keep what they made, and write a page that links it all.

    python notebooks/run_all.py                                  # phantoms -> runs/demo/index.html
    python notebooks/run_all.py --params notebooks/params/oct.yaml  # real OCT scans -> runs/oct
    python notebooks/run_all.py --only 03 04 -p epochs 3         # two notebooks, one setting

papermill fills each notebook's `parameters` cell with the settings and executes it in notebooks/.
Notebooks about chest X-rays take theirs from NAME-chest.yaml beside NAME.yaml, and are left out
where there is none. On phantoms two notebooks run side by side, the longest first, each after those
whose runs it needs (`needs` and `seconds` in its metadata under `tlutils`). The run's folder then
holds each executed NN_*.ipynb, its page NN_*.html, and NN_*.log where the kernel wrote to stderr.
Whatever happens, index.html is written and says which notebook failed, at which cell.
Exit codes: 0 done, 1 a notebook failed, 2 wrong use, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from _thread import interrupt_main
from collections.abc import Iterator
from contextlib import suppress
from graphlib import TopologicalSorter
from multiprocessing.connection import Connection, wait
from pathlib import Path

import make_book
import papermill
import yaml
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

HERE = Path(__file__).resolve().parent
# For one cell: meant for a hung one, never for a long training.
PHANTOM_SECONDS, REAL_SECONDS = 900, 12 * 3600
USUAL_SECONDS = 60  # of a notebook whose metadata do not say how long it takes


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
        # a CycleError is a ValueError
        TopologicalSorter({path.name[:2]: about(path)["needs"] for path, _ in plan}).prepare()
    except (ValueError, OSError, yaml.YAMLError) as error:
        print(f"run_all: {error}", file=sys.stderr)
        return 2
    out = (args.notebooks / params["run"]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    drawn = make_book.on_phantoms(params)
    timeout = args.timeout or (PHANTOM_SECONDS if drawn else REAL_SECONDS)
    try:
        failed, code = run_all(plan, out, timeout, max(args.jobs or (2 if drawn else 1), 1)), 0
    except KeyboardInterrupt:
        failed, code = f"\nStopped. What was finished lies in {show(out)}.\n", 130
    index, failed = make_book.write(out, args.notebooks, failed)
    print(failed, end="", file=sys.stderr, flush=True)
    print(show(index))
    return code or (1 if failed else 0)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    add, demo = parser.add_argument, HERE / "params/demo.yaml"
    add("--params", type=Path, default=demo, help="a file like those in params/")
    add("--out", type=Path, help="the run's folder (default: `run` in the params file)")
    add("--only", nargs="+", default=[], metavar="NN", help="the notebooks of these numbers")
    add("-p", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="one setting")
    limit = f"for one cell (default: {PHANTOM_SECONDS} on phantoms, {REAL_SECONDS} otherwise)"
    add("--timeout", type=int, metavar="SECONDS", help=limit)
    many = "run N notebooks side by side (default: 2 on phantoms, 1 otherwise)"
    add("--jobs", type=int, metavar="N", help=many)
    folder = {"type": lambda path: Path(path).resolve(), "default": HERE}
    add("--notebooks", **folder, help="their folder")
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
    plan = [(notebook, of[about(notebook)["images"]]) for notebook in notebooks]
    left_out = [notebook.name for notebook, own in plan if own is None]
    if left_out:
        print(
            f"left out, as {args.params.name} is about other images: {', '.join(left_out)}",
            flush=True,
        )
    return [(notebook, own) for notebook, own in plan if own is not None]


def about(notebook: Path) -> dict:
    """What a notebook's metadata tell: `images`, `needs` (numbers of others) and `seconds`."""
    told = make_book.read(notebook).metadata.get("tlutils", {})
    return {"images": "oct", "needs": [], "seconds": USUAL_SECONDS} | told


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


def run_all(plan: list[tuple[Path, dict]], out: Path, timeout: int, jobs: int) -> str:
    """Run the notebooks, in order or `jobs` side by side; return what went wrong, or ""."""
    if jobs == 1 or len(plan) == 1:
        return next(filter(None, (run(*one, out, timeout) for one in plan)), "")
    jobs = min(jobs, len(plan))
    # Each its share of the cores: threads of two that have them all wait for one another, for most
    # of the time where images are small.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    workers = [Worker() for _ in range(jobs)]
    try:
        return "".join(share_out(longest_first(plan), workers, out, timeout))
    finally:
        for worker in workers:
            worker.end()


def longest_first(plan: list[tuple[Path, dict]]) -> list[tuple[Path, dict]]:
    """Order notebooks by the seconds that they and the slowest of those that wait for them take."""
    told = {notebook.name[:2]: about(notebook) for notebook, _ in plan}

    def seconds(number: str) -> float:
        after = [seconds(other) for other, of in told.items() if number in of["needs"]]
        return told[number]["seconds"] + max(after, default=0)

    return sorted(plan, key=lambda one: -seconds(one[0].name[:2]))


def share_out(
    plan: list[tuple[Path, dict]], workers: list[Worker], out: Path, timeout: int
) -> Iterator[str]:
    """Give each free worker the first notebook that need not wait, until all are done.

    Yields what went wrong. After a failure no other notebook about the same images begins.
    """
    waiting, idle, busy = list(plan), list(workers), {}
    while waiting or busy:
        unfinished = {notebook.name[:2] for notebook, _ in [*waiting, *busy.values()]}
        ready = [one for one in waiting if not unfinished & set(about(one[0])["needs"])]
        for one in ready[: len(idle)]:
            worker = idle.pop()
            with suppress(ConnectionError):  # killed while it waited: `told` will say so
                worker.pipe.send((*one, out, timeout, False))
            busy[worker.pipe] = one
            waiting.remove(one)
        if not busy:
            return
        for pipe in wait(list(busy)):
            notebook, _ = busy.pop(pipe)
            worker = next(worker for worker in workers if worker.pipe is pipe)
            told = worker.told()
            if told is None:
                yield f"\nThe process that ran {notebook.name} was killed; was the memory full?\n"
            else:
                idle.append(worker)
                yield told
            if told != "":
                kind = about(notebook)["images"]
                waiting = [one for one in waiting if about(one[0])["images"] != kind]


class Worker:
    """A process that runs notebooks, one after the other, and ends when this one does."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=work, args=(theirs,))
        self.process.start()
        theirs.close()  # so that the end of the process ends the pipe

    def told(self) -> str | None:
        """What went wrong with its notebook, or ""; None where the process was killed."""
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionError):  # the latter where it had not taken its notebook yet
            return None

    def end(self) -> None:
        """Let it end, by an interrupt where Ctrl-C has not reached it, as it does in a terminal."""
        self.pipe.close()
        self.process.join(timeout=5)
        if self.process.is_alive():
            os.kill(self.process.pid, signal.SIGINT)
        self.process.join()


def work(pipe: Connection) -> None:
    """Run what comes through the pipe until it is closed or Ctrl-C is pressed."""
    quiet_papermill()
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), interrupt_main()), daemon=True).start()
    with suppress(EOFError, KeyboardInterrupt, ConnectionError):
        while True:
            pipe.send(run(*pipe.recv()))


def run(notebook: Path, params: dict, out: Path, timeout: int, bar: bool = True) -> str:
    """Execute a notebook into `out`; return what went wrong, or ""."""
    target, start = out / notebook.name, time.perf_counter()
    page, log = target.with_suffix(".html"), target.with_suffix(".log")
    page.unlink(missing_ok=True)  # where it stands, its notebook ran to the end
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
    page.touch()  # make_book fills it
    seconds = time.perf_counter() - start
    print("" if watched else f"{notebook.stem} done in {seconds:.0f} s\n", end="", flush=True)
    return ""


def explain(error: Exception, target: Path, log: Path, timeout: int) -> str:
    """A paragraph for a person: which notebook, which cell, what happened, where to look."""
    number, source = make_book.last_started(make_book.read(target))
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


def show(path: Path) -> str:
    """A path as short as it can be said from here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def quiet_papermill() -> None:
    """What goes wrong is told once, by `explain`."""
    logging.getLogger("papermill").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    quiet_papermill()
    sys.exit(main())
