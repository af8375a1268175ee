"""The browser that tests drive."""

from __future__ import annotations

import shutil

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def browser_path() -> str | None:
    """The Chromium on this machine, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)
