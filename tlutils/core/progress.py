"""Progress bars where a person watches, nothing where nobody does.

A bar in a log file is a thousand lines of noise, and a notebook widget is lost when the notebook becomes HTML;
so bars are plain text, shown in a terminal and in a live notebook only. TQDM_DISABLE=1 switches them all off.
"""

from __future__ import annotations

import os
import sys

from tqdm import tqdm


def watched() -> bool:
    """Whether a person is likely to look: a terminal or a live notebook, and TQDM_DISABLE is not set."""
    if os.environ.get("TQDM_DISABLE", "0").lower() not in ("", "0", "false"):
        return False
    return in_notebook() or sys.stderr.isatty()


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    return "ipykernel" in sys.modules and hasattr(sys.stdout, "topic")


def bar(
    iterable=None,
    what: str = "",
    total: int | None = None,
    unit: str = "image",
    show: bool | None = None,
    **options,
) -> tqdm:
    """A tqdm bar; `show` None lets `watched` decide. In a notebook it is written to stdout, as stderr is red."""
    show = watched() if show is None else show
    return tqdm(
        iterable,
        desc=what,
        total=total,
        unit=f" {unit}",
        disable=not show,
        leave=False,
        mininterval=0.2,
        file=sys.stdout if in_notebook() else sys.stderr,
        dynamic_ncols=not in_notebook(),
        **options,
    )
