"""Small files of many pixels."""

from __future__ import annotations

import struct
import zlib


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A PNG of one bit a pixel, all black; its packed pixels are left out unless given."""

    def chunk(name: bytes, content: bytes) -> bytes:
        whole = name + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = (
        chunk(b"IHDR", header),
        chunk(b"IDAT", pixels or zlib.compress(b"")),
        chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def whole_png(width: int, height: int) -> bytes:
    """The same with all its pixels."""
    return png(width, height, zlib.compress(bytes(height * (1 + -(-width // 8)))))
