"""Python in processes of their own, for what one process cannot show: signals, locks, imports, several at a time."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import tlutils

# Starting Python with torch takes seconds. On Linux children of `warm` begin with all of it imported.
warm = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
warm.set_forkserver_preload(
    ["torch.distributed.fsdp", "torchvision", "tlutils.runs.train", "papermill", "pytest"]
)
LIBRARY = Path(tlutils.__file__).resolve().parents[1]
_HOLD = """
import sys, time
from tlutils.core import files
with files.locked(sys.argv[1], "it"):
    print("held", flush=True)
    time.sleep(600)
"""


def _how(words: tuple, env: Mapping[str, str], how: dict) -> tuple[list[str], dict]:
    """The line to start, and how: with the modules that are found here, whatever the folder is."""
    path = os.pathsep.join(map(str, [LIBRARY, *filter(None, sys.path)]))
    return [sys.executable, *map(str, words)], {
        "env": {**os.environ, "PYTHONPATH": path, **env},
        "text": True,
        **how,
    }


def python(
    *words: object, check: bool = True, env: Mapping[str, str] = {}, timeout: float = 300, **how
) -> subprocess.CompletedProcess:
    """Run Python with these words to its end; `env` adds to the environment, `how` goes to `subprocess.run`.

    Unless `check` is False, an exit code other than 0 fails the test with what was said.
    """
    line, how = _how(words, env, how)
    done = subprocess.run(line, capture_output=True, timeout=timeout, **how)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def start(*words: object, env: Mapping[str, str] = {}, **how) -> subprocess.Popen:
    """Begin Python with these words; its output and errors can be read while it works."""
    line, how = _how(words, env, {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how})
    return subprocess.Popen(line, **how)


def torchrun(*words: object, processes: int = 2, restarts: int = 0) -> list[object]:
    """The words after `python` that start so many processes of a script, or of `-m` and a module, together."""
    job = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    return [*job, "--max-restarts", restarts, *words]


def together(
    *words: object, check: bool = True, timeout: float = 300
) -> subprocess.CompletedProcess:
    """Run two processes of a script, or of `-m` and a module, to their ends: as torchrun, but begun in no time.

    Nobody ends one when the other fails. Unless `check` is False, a failure fails the test with what was said.
    """
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    everywhere = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # as torchrun, this process holds the store
    }
    line = list(map(str, words))
    with tempfile.TemporaryDirectory() as said:
        both = [
            warm.Process(
                target=_become,
                args=(line, {**os.environ, **everywhere, "RANK": n, "LOCAL_RANK": n}, said),
            )
            for n in ("0", "1")
        ]
        end = time.monotonic() + timeout
        for process in both:
            process.start()
        for process in both:
            process.join(max(0, end - time.monotonic()))
        late = [process.kill() for process in both if process.is_alive()]
        out, err = ((Path(said) / name).read_text() for name in ("stdout", "stderr"))
    assert not late, f"{len(late)} of two processes did not end in {timeout} s: {err[-3000:]}"
    code = next((process.exitcode for process in both if process.exitcode), 0)
    assert not check or code == 0, err[-3000:]
    return subprocess.CompletedProcess(line, code, out, err)


def _become(line: list[str], env: Mapping[str, str], said: str) -> None:
    """In a process of `warm`: do what `python` with these words does, and say it in files of this folder."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(said) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.update(env)
    module, *sys.argv[1:] = line[line[0] == "-m" :]
    run = runpy.run_module if line[0] == "-m" else runpy.run_path
    sys.argv[0] = module
    run(module, run_name="__main__", **({"alter_sys": True} if line[0] == "-m" else {}))


@contextmanager
def holding(lock: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds this lock file; it is killed at the end."""
    with start("-c", _HOLD, lock) as job:
        try:
            assert job.stdout.readline() == "held\n", job.stderr.read()
            yield job
        finally:
            job.kill()
