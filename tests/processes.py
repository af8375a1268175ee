"""Python in processes of their own, for what one process cannot show: signals, locks, imports, several at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import tlutils

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


@contextmanager
def holding(lock: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds this lock file; it is killed at the end."""
    with start("-c", _HOLD, lock) as job:
        try:
            assert job.stdout.readline() == "held\n", job.stderr.read()
            yield job
        finally:
            job.kill()
