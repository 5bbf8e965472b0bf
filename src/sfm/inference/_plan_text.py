"""Sizes and times for people."""

from __future__ import annotations


def as_bytes(n_bytes: float) -> str:
    """Return a size in the largest unit that leaves it above one."""
    for unit, size in [("GB", 1e9), ("MB", 1e6), ("KB", 1e3)]:
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}" if n_bytes < 1000 * size else f"{n_bytes / size:,.0f} {unit}"
    return f"{n_bytes:.0f} bytes"


def as_duration(seconds: float) -> str:
    """Return a time in its two largest units."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    for unit, size, smaller, part in [("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)]:
        if seconds >= size:
            rest = seconds % size // part
            return f"{seconds // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds} s"
