"""notebooks/run_all.py over small made-up notebooks: what a person sees when all goes well, and when it does not."""

from __future__ import annotations

import contextlib
import html
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import nbformat
import pytest
import run_all as run_all_py
from processes import warm

RUN_ALL = Path(__file__).parents[2] / "notebooks" / "run_all.py"
PICTURE = "import matplotlib.pyplot as plt\nplt.plot([0, 1]);"
REMOTE = re.compile(
    r"""(?:src|href)\s*=\s*["']?https?://|@import|url\(\s*["']?https?://""", re.IGNORECASE
)


def write_notebook(
    path: Path, *code: str, parameters: str = 'run = ""\ndata = ""\nlimit = 1'
) -> None:
    """A notebook of a title, a `parameters` cell and the given code cells (so the first of them is cell 3)."""
    v4 = nbformat.v4
    cells = [
        v4.new_markdown_cell(f"# The {path.stem}\n\nShows *one* thing & another."),
        v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *map(v4.new_code_cell, code),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(v4.new_notebook(cells=cells, metadata=kernel), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for notebooks beside a params file."""
    (tmp_path / "params.yaml").write_text(
        "data: phantom-oct\nrun: ../out\nlimit: 7\n", encoding="utf-8"
    )
    (tmp_path / "books").mkdir()
    return tmp_path / "books"


def command(folder: Path, *more: str) -> list[str]:
    """The command line that runs the notebooks of `folder`."""
    return [
        sys.executable,
        str(RUN_ALL),
        "--notebooks",
        str(folder),
        "--params",
        str(folder.parent / "params.yaml"),
        *more,
    ]


def run_all(folder: Path, *more: str) -> subprocess.CompletedProcess:
    """Run run_all to its end and take what it says, here and in children of `warm`, which spares 2 s of imports each."""
    line, out, err = command(folder, *more), io.StringIO(), io.StringIO()
    begun_warm = patch.object(run_all_py.multiprocessing, "get_context", return_value=warm)
    with begun_warm, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_all_py.main(line[2:])
    return subprocess.CompletedProcess(line, code, out.getvalue(), err.getvalue())


def outputs(path: Path) -> str:
    """All text that the code cells of an executed notebook printed."""
    cells = nbformat.read(path, as_version=4).cells
    return "".join(
        o.get("text", "") for cell in cells if cell.cell_type == "code" for o in cell.outputs
    )


def test_notebooks_run_in_order_with_the_settings_filled_in(folder):
    write_notebook(
        folder / "02_second.ipynb",
        "from pathlib import Path\nprint(Path(run, 'first').read_text(), limit)",
    )
    write_notebook(
        folder / "01_first.ipynb", "from pathlib import Path\nPath(run, 'first').write_text(data)"
    )
    done = run_all(folder, "--jobs", "-1")
    assert done.returncode == 0, done.stderr
    assert outputs(folder.parent / "out" / "02_second.ipynb") == "phantom-oct 7\n"
    assert [line.split()[0] for line in done.stdout.splitlines()[:4:2]] == ["01_first", "02_second"]


def test_a_setting_on_the_command_line_wins_and_keeps_its_type(folder):
    write_notebook(folder / "01_a.ipynb", "print(repr(limit), repr(run))")
    done = run_all(folder, "-p", "limit", "3", "--out", str(folder.parent / "other"))
    assert done.returncode == 0, done.stderr
    assert outputs(folder.parent / "other" / "01_a.ipynb") == "3 '../other'\n"


def test_the_kernel_is_this_python(folder):
    write_notebook(folder / "01_a.ipynb", "import sys\nprint(sys.prefix)")
    assert run_all(folder).returncode == 0
    assert (
        Path(outputs(folder.parent / "out" / "01_a.ipynb").strip()).resolve()
        == Path(sys.prefix).resolve()
    )


def test_the_index_lists_every_notebook_and_fetches_nothing(folder):
    write_notebook(folder / "01_a.ipynb", PICTURE)
    write_notebook(folder / "02_b.ipynb", "x = 1")
    done = run_all(folder)
    out = folder.parent / "out"
    assert Path(done.stdout.splitlines()[-1]).resolve() == (out / "index.html").resolve()
    index = index_of(folder)
    for expected in ("The 01_a", "The 02_b", "01_a.html", "02_b.ipynb", "Phantoms"):
        assert expected in index
    page = (out / "01_a.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    for text in (index, page):
        assert not REMOTE.search(text) and "<script" not in text and "cdnjs" not in text


def test_answers_stay_folded_in_the_page(folder):
    write_notebook(folder / "01_a.ipynb", "x = 1")
    notebook = nbformat.read(folder / "01_a.ipynb", as_version=4)
    folded = (
        "<details><summary>Answer</summary>\n\n```python\nanswer = 42\n```\n\nSo it is.\n</details>"
    )
    notebook.cells.append(nbformat.v4.new_markdown_cell(folded))
    nbformat.write(notebook, folder / "01_a.ipynb")
    assert run_all(folder).returncode == 0
    page = (folder.parent / "out" / "01_a.html").read_text(encoding="utf-8")
    inside = page[page.index("<details>") : page.index("</details>")]
    assert "42" in inside and "So it is." in inside


def test_one_notebook_alone_keeps_the_others_in_the_index(folder):
    write_notebook(folder / "01_a.ipynb", "x = 1")
    write_notebook(folder / "02_b.ipynb", "x = 1")
    assert run_all(folder).returncode == 0
    first = (folder.parent / "out" / "01_a.ipynb").stat().st_mtime_ns
    done = run_all(folder, "--only", "02")
    assert done.returncode == 0 and "01_a" not in done.stdout
    assert (folder.parent / "out" / "01_a.ipynb").stat().st_mtime_ns == first
    assert "01_a.html" in (folder.parent / "out" / "index.html").read_text(encoding="utf-8")


def test_a_failing_cell_is_named_and_what_ran_before_it_is_kept(folder):
    write_notebook(folder / "01_a.ipynb", "print('before')", "y = 0\n1 / y", "print('after')")
    write_notebook(folder / "02_b.ipynb", "x = 1")
    done = run_all(folder, "--jobs", "1")
    assert done.returncode == 1
    for expected in (
        "01_a.ipynb failed at cell 4",
        "    1 / y",
        "ZeroDivisionError: division by zero",
    ):
        assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert outputs(folder.parent / "out" / "01_a.ipynb").startswith("before")
    assert not (folder.parent / "out" / "02_b.ipynb").exists()
    assert "stopped before its end" in (folder.parent / "out" / "index.html").read_text(
        encoding="utf-8"
    )


def test_what_a_notebook_writes_to_stderr_is_kept_beside_it(folder):
    write_notebook(folder / "01_a.ipynb", "import sys\nprint('careful', file=sys.stderr)")
    write_notebook(folder / "02_silent.ipynb", "x = 1")
    assert run_all(folder).returncode == 0
    assert (folder.parent / "out" / "01_a.log").read_text(encoding="utf-8") == "careful\n"
    assert not (folder.parent / "out" / "02_silent.log").exists()


def test_a_killed_kernel_is_told_as_want_of_memory(folder):
    write_notebook(folder / "01_a.ipynb", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    done = run_all(folder)
    assert done.returncode == 1
    assert (
        "01_a.ipynb failed at cell 3" in done.stderr
        and "memory" in done.stderr
        and "limit" in done.stderr
    )


def test_a_crash_leaves_the_kernels_last_words(folder):
    write_notebook(
        folder / "01_a.ipynb",
        "import ctypes, os\nos.write(2, b'native words')\nctypes.string_at(0)",
    )
    done = run_all(folder)
    assert done.returncode == 1
    assert "crashed its kernel: Segmentation fault" in done.stderr and "01_a.log" in done.stderr
    assert "native words" in (folder.parent / "out" / "01_a.log").read_text(encoding="utf-8")


def test_a_cell_that_hangs_is_stopped(folder):
    write_notebook(folder / "01_a.ipynb", "import time\ntime.sleep(600)")
    done = run_all(folder, "--timeout", "2")
    assert done.returncode == 1
    assert "01_a.ipynb failed at cell 3" in done.stderr and "stopped after 2 s" in done.stderr


def test_a_setting_that_a_notebook_lacks_is_refused_before_anything_runs(folder):
    write_notebook(folder / "01_a.ipynb", "x = 1")
    write_notebook(folder / "02_b.ipynb", "x = 1", parameters='run = ""\ndata = ""')
    done = run_all(folder)
    assert done.returncode == 2
    assert "02_b.ipynb has no parameter limit" in done.stderr and "run, data" in done.stderr
    assert not (folder.parent / "out").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--only", "07"], "no notebook 07"),
        (["--params", "nowhere.yaml"], "nowhere.yaml"),
        (["-p", "limit", "[1, 2]"], "limit"),
        (["-p", "epoch", "1"], "no parameter epoch"),
        (["--only", "02", "03"], "cycle"),
    ],
)
def test_wrong_use_is_told_in_a_line(folder, more, words):
    for number, needed in (("01", []), ("02", ["03"]), ("03", ["02"])):
        write_notebook(folder / f"{number}_a.ipynb", "x = 1")
        tell(folder / f"{number}_a.ipynb", needs=needed)
    done = run_all(folder, *more)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


def index_of(folder: Path) -> str:
    """The page over all notebooks."""
    return (folder.parent / "out" / "index.html").read_text(encoding="utf-8")


def test_notebooks_that_were_killed_or_come_from_elsewhere_break_no_later_index(folder):
    write_notebook(folder / "04_d.ipynb", "x = 1")
    out = folder.parent / "out"
    out.mkdir()
    for name, papermill in (("01_a", {"duration": None}), ("02_b", None), ("03_c", {})):
        write_notebook(out / f"{name}.ipynb", "x = 1")
        notebook = nbformat.read(out / f"{name}.ipynb", as_version=4)
        notebook.metadata |= {} if papermill is None else {"papermill": papermill}
        notebook.cells[1].metadata["papermill"] = {
            "start_time": "2024-01-01T00:00:00",
            "duration": None,
        }
        nbformat.write(notebook, out / f"{name}.ipynb")
    (out / "03_c.ipynb").write_text((out / "03_c.ipynb").read_text()[:100])
    done = run_all(folder)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    index = index_of(folder)
    assert "The 01_a: stopped before its end, at cell 2" in index and "The 02_b: stopped" in index
    assert "03_c: stopped before its end" in index and "04_d.html" in index


def test_the_index_tells_what_failed_where_and_keeps_stderr(folder):
    write_notebook(
        folder / "01_a.ipynb", "import sys\nprint('<last words>', file=sys.stderr)", "1 / 0"
    )
    assert run_all(folder).returncode == 1
    index = index_of(folder)
    assert "The 01_a: stopped before its end, at cell 4" in index and 'href="01_a.log"' in index
    assert "01_a.ipynb failed at cell 4" in index and "ZeroDivisionError" in index


def test_a_kernel_that_never_answers_ends_with_an_index_too(folder, monkeypatch):
    """One that ends at its start; papermill waits a minute for one that hangs, and then fails the same way."""
    spec = folder.parent / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-c", "import sys; sys.exit('no kernel today')", "{connection_file}"]
    (spec / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(spec.parents[1]))
    write_notebook(folder / "01_a.ipynb", "x = 1")
    done = run_all(folder)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "01_a.ipynb failed before its first cell" in done.stderr and "01_a.log" in done.stderr
    assert "01_a.ipynb failed before its first cell" in index_of(folder)
    assert "no kernel today" in (folder.parent / "out" / "01_a.log").read_text(encoding="utf-8")


def test_a_notebook_of_which_no_page_can_be_made_is_told_and_listed(folder):
    write_notebook(
        folder / "01_a.ipynb", "from pathlib import Path\nPath(run, '01_a.html').mkdir()"
    )
    done = run_all(folder)
    assert (
        done.returncode == 1
        and "no page could be made" in done.stderr
        and "Traceback" not in done.stderr
    )
    assert "no page could be made" in index_of(folder)


def test_what_stands_in_settings_and_titles_stays_text_in_the_index(folder):
    write_notebook(
        folder / "01_a.ipynb", "x = 1", parameters="run = ''\ndata = ''\nlimit = 1\nweights = ''"
    )
    notebook = nbformat.read(folder / "01_a.ipynb", as_version=4)
    notebook.cells[0].source = "# <script>alert(1)</script>\n\nShows \"quotes\" & 'more'."
    nbformat.write(notebook, folder / "01_a.ipynb")
    evil = "<script>alert('x')</script>\"'&"
    settings = [word for key in ("data", "weights") for word in ("-p", key, json.dumps(evil))]
    assert run_all(folder, *settings).returncode == 0
    index = index_of(folder)
    assert "<script" not in index and html.unescape(index).count(evil) == 2


def hear_ctrl_c() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so do its children unless told otherwise."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
@pytest.mark.parametrize("beside", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_ctrl_c_ends_the_kernel_too_and_says_so(folder, beside):
    note = (
        "import os, time\nfrom pathlib import Path\nPath(run, 'pid').write_text(str(os.getpid()))\n"
        "time.sleep(600)"
    )
    write_notebook(folder / "01_a.ipynb", note)
    if beside:
        chests_beside(folder, "time = 1")
    process = subprocess.Popen(
        command(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    pid = folder.parent / "out" / "pid"
    wait_for(lambda: pid.exists() and pid.read_text())
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (
        process.returncode == 130
        and stderr.strip().startswith("Stopped.")
        and "Traceback" not in stderr
    )
    assert "The 01_a: stopped before its end, at cell 3" in index_of(
        folder
    ) and "Stopped." in index_of(folder)
    wait_for(lambda: not alive(int(pid.read_text())))


def test_where_a_person_watches_there_is_one_bar_and_otherwise_two_lines(folder):
    write_notebook(folder / "01_a.ipynb", "from tqdm import tqdm\nfor _ in tqdm(range(1000)): pass")
    done = run_all(folder)
    assert done.stderr == "" and len(done.stdout.splitlines()) == 3
    assert outputs(folder.parent / "out" / "01_a.ipynb") == ""
    shown = in_a_terminal(command(folder))
    assert "01_a: 100%" in shown and "01_a started" not in shown


def in_a_terminal(line: list[str]) -> str:
    """What a command shows in a terminal of 100 columns; it must succeed."""
    termios = pytest.importorskip("termios", reason="needs a POSIX terminal")
    here, there = os.openpty()
    termios.tcsetwinsize(there, (30, 100))
    process = subprocess.Popen(line, stdout=there, stderr=there, stdin=there)
    os.close(there)
    shown = b""
    while chunk := read_or_end(here):
        shown += chunk
    os.close(here)
    assert process.wait(timeout=60) == 0
    return shown.decode()


def read_or_end(terminal: int) -> bytes:
    """The next bytes from a terminal; none where its other side is closed, which Linux tells as an error."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


def wait_for(condition, seconds: float = 60) -> None:
    """Wait until `condition()` holds; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process of this number runs (a zombie does not)."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self").exists():
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
    return subprocess.run(["ps", "-p", str(pid)], capture_output=True).returncode == 0


def tell(path: Path, **told) -> None:
    """Write what run_all asks of a notebook's metadata."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["tlutils"] = told
    nbformat.write(notebook, path)


def about_chests(path: Path) -> None:
    """Mark a notebook as one about chest X-rays."""
    tell(path, images="chest")


def chests_beside(folder: Path, code: str) -> None:
    """A notebook 02_b about chests, with settings of its own."""
    write_notebook(folder / "02_b.ipynb", code)
    about_chests(folder / "02_b.ipynb")
    (folder.parent / "params-chest.yaml").write_text("data: phantom-chest\nrun: x\nlimit: 5\n")


def test_notebooks_about_chests_run_beside_the_others_on_phantoms_and_else_after_them(folder):
    meet = (
        "import time\nfrom pathlib import Path\nme, other = {}\nPath(run, me).touch()\n"
        "end = time.time() + {}\n"
        "while not Path(run, other).exists() and time.time() < end: time.sleep(0.1)\n"
        "print(Path(run, other).exists())"
    )
    write_notebook(folder / "01_a.ipynb", meet.format("'a', 'b'", 60))
    chests_beside(folder, meet.format("'b', 'a'", 60))
    assert run_all(folder).returncode == 0
    out = folder.parent / "out"
    assert [outputs(out / name) for name in ("01_a.ipynb", "02_b.ipynb")] == ["True\n"] * 2
    for name in ("a", "b"):
        (out / name).unlink()
    write_notebook(folder / "01_a.ipynb", meet.format("'a', 'b'", 2))
    assert run_all(folder, "--jobs", "1").returncode == 0
    assert [outputs(out / name) for name in ("01_a.ipynb", "02_b.ipynb")] == ["False\n", "True\n"]


def test_notebooks_side_by_side_share_the_cores(folder, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    asked = "import os\nprint(os.environ.get('OMP_NUM_THREADS'))"
    write_notebook(folder / "01_a.ipynb", asked)
    chests_beside(folder, asked)
    out, half = folder.parent / "out", max(1, os.cpu_count() // 2)
    for jobs, threads in (("1", None), ("2", half)):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        assert run_all(folder, "--jobs", jobs).returncode == 0
        told = [outputs(out / name) for name in ("01_a.ipynb", "02_b.ipynb")]
        assert told == [f"{threads}\n"] * 2


def test_after_a_failure_only_notebooks_about_other_images_begin(folder):
    write_notebook(folder / "01_a.ipynb", "1 / 0")
    write_notebook(folder / "03_c.ipynb", "print(3)")
    tell(folder / "03_c.ipynb", needs=["01"])
    chests_beside(folder, "print(2)")
    done = run_all(folder)
    assert done.returncode == 1 and "01_a.ipynb failed at cell 3" in done.stderr
    assert outputs(folder.parent / "out" / "02_b.ipynb") == "2\n"
    assert not (folder.parent / "out" / "03_c.ipynb").exists()


def test_a_killed_worker_is_told_and_the_other_goes_on(folder):
    write_notebook(folder / "01_a.ipynb", "print(1)")
    chests_beside(folder, "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)")
    done = run_all(folder)
    assert done.returncode == 1 and "that ran 02_b.ipynb was killed" in done.stderr
    assert "that ran 02_b.ipynb was killed" in index_of(folder)
    assert outputs(folder.parent / "out" / "01_a.ipynb") == "1\n"


def test_a_worker_killed_before_it_takes_its_notebook_is_told_too(folder):
    write_notebook(folder / "01_a.ipynb", "print(1)")
    for early in (False, True):  # with its notebook waiting in the pipe, or before it is sent
        worker = run_all_py.Worker()
        if not early:
            os.kill(worker.process.pid, signal.SIGSTOP)
            worker.pipe.send("waiting")
        worker.process.kill()
        worker.process.join()
        plan = [(folder / "01_a.ipynb", {})]
        if early:
            (said,) = run_all_py.share_out(plan, [worker], folder, 60)
            assert "that ran 01_a.ipynb was killed" in said
        else:
            assert worker.told() is None


def test_a_notebook_begins_after_those_it_needs_and_the_longest_first(folder, capfd):
    order = "from pathlib import Path\nprint(len(list(Path(run).glob('*.html'))))"
    for number in ("01", "02", "03", "04"):
        write_notebook(folder / f"{number}_x.ipynb", order)
    tell(folder / "01_x.ipynb", seconds=90)
    tell(folder / "02_x.ipynb", needs=["04"])
    assert run_all_py.main(command(folder)[2:]) == 0
    said = capfd.readouterr().out.splitlines()  # by the processes that ran them
    started = [line[:2] for line in said if line.endswith("started")]
    assert set(started[:2]) == {"04", "01"} and set(started[2:]) == {"02", "03"}
    assert said.index("02_x started") > min(i for i, s in enumerate(said) if "04_x done" in s)


def test_the_notebooks_of_the_series_need_only_what_there_is_and_never_each_other():
    told = {path.name[:2]: run_all_py.about(path) for path in RUN_ALL.parent.glob("0*.ipynb")}
    assert all(
        set(of["needs"]) < set(told) and number not in of["needs"] for number, of in told.items()
    )
    assert told["04"]["needs"] == told["05"]["needs"] == ["03"]


def test_notebooks_about_chests_take_their_own_settings(folder):
    write_notebook(folder / "01_a.ipynb", "print(data, limit)")
    write_notebook(folder / "02_b.ipynb", "print(data, limit)")
    about_chests(folder / "02_b.ipynb")
    (folder.parent / "params-chest.yaml").write_text(
        "data: phantom-chest\nrun: ../other\nlimit: 5\n", encoding="utf-8"
    )
    assert run_all(folder).returncode == 0
    assert outputs(folder.parent / "out" / "01_a.ipynb") == "phantom-oct 7\n"
    assert outputs(folder.parent / "out" / "02_b.ipynb") == "phantom-chest 5\n"
    assert run_all(folder, "-p", "limit", "3").returncode == 0
    assert outputs(folder.parent / "out" / "02_b.ipynb") == "phantom-chest 3\n"


def test_notebooks_about_other_images_are_left_out_with_a_word(folder):
    write_notebook(folder / "01_a.ipynb", "print(1)")
    write_notebook(folder / "02_b.ipynb", "print(2)")
    about_chests(folder / "02_b.ipynb")
    done = run_all(folder)
    assert done.returncode == 0 and "left out" in done.stdout and "02_b.ipynb" in done.stdout
    assert not (folder.parent / "out" / "02_b.ipynb").exists()
