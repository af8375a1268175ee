"""Progress bars where a person watches, nothing where nobody does.

A bar in a log file is a thousand lines of noise, and a notebook widget is lost when the notebook
becomes HTML; so bars are plain text, shown in a terminal and in a live notebook only.
TQDM_DISABLE=1 switches them all off.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from tqdm import tqdm


def watched() -> bool:
    """Whether a person is likely to look: a terminal or a live notebook, without TQDM_DISABLE.

    Returns
    -------
    bool
    """
    if os.environ.get("TQDM_DISABLE", "0").lower() not in ("", "0", "false"):
        return False
    return _in_notebook() or sys.stderr.isatty()


def _in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    return "ipykernel" in sys.modules and hasattr(sys.stdout, "topic")


def bar(
    iterable: Iterable | None = None,
    what: str = "",
    total: int | None = None,
    unit: str = "image",
    show: bool | None = None,
    **options,
) -> tqdm:
    """Make a tqdm bar; in a notebook it is written to stdout, as stderr is red there.

    Parameters
    ----------
    iterable : iterable or None, what to go through; None for a bar moved by its `update`.
    what : str, the words before the bar.
    total : int or None, how many there will be; None takes the length of `iterable`.
    unit : str, what is counted.
    show : bool or None, whether to show it; None lets `watched` decide.
    **options : more for tqdm.

    Returns
    -------
    tqdm
    """
    return tqdm(
        iterable,
        desc=what,
        total=total,
        unit=f" {unit}",
        disable=not (watched() if show is None else show),
        leave=False,
        mininterval=0.2,
        delay=0.3,  # what is done by then needs none, and JupyterLab would keep its "0%"
        file=sys.stdout if _in_notebook() else sys.stderr,
        dynamic_ncols=not _in_notebook(),
        **options,
    )
