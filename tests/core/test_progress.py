"""Bars where a person watches, silence elsewhere."""

import io
import time

import pytest

from tlutils.core import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_where_nobody_watches_nothing_is_drawn(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert not progress.watched()
    with progress.bar(what="reading", total=3) as shown:
        shown.update(3)
        assert shown.disable
    assert capsys.readouterr().out == ""


def test_on_a_terminal_a_bar_is_drawn_with_its_name_and_end(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    assert progress.watched()
    for _ in progress.bar(range(3), what="reading", unit="image"):
        time.sleep(0.2)
    assert "reading" in screen.getvalue() and "/3" in screen.getvalue()


def test_what_is_done_at_once_draws_no_bar(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    assert list(progress.bar(range(3), what="reading")) == [0, 1, 2]
    assert screen.getvalue().strip() == ""


@pytest.mark.parametrize("show", [True, False])
def test_what_is_asked_for_wins(monkeypatch, show):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr("sys.stderr", io.StringIO() if show else Terminal())
    with progress.bar(what="reading", total=2, show=show) as shown:
        assert shown.disable is not show
