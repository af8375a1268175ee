"""Small files of many pixels."""

from __future__ import annotations

import troubled_files


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG of one bit a pixel, whose pixels are left out unless given."""
    return troubled_files.png(width, height, 1, 0, rows)


def whole_png(width: int, height: int) -> bytes:
    """The same with all its pixels, black."""
    return png(width, height, bytes(height * (1 + -(-width // 8))))
