"""Lines of the table that all benchmarks of speed share: ours, the peer's, and what the machine could do."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One comparison, in one run on one core; rates, so that more is better."""

    what: str
    unit: str
    peer_name: str
    ours: float
    peer: float
    limit: float | None = None
    """The most that this machine can do, measured in the same run, in the unit of `ours`."""


def write_rows(rows: list[Row], path: str | Path | None) -> None:
    """Write rows as JSON, if there is a path."""
    if path is not None:
        Path(path).write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def read_rows(path: str | Path) -> list[Row]:
    """Read what :func:`write_rows` wrote."""
    return [Row(**fields) for fields in json.loads(Path(path).read_text())]


def markdown(rows: list[Row]) -> str:
    """Return the table."""
    lines = [
        "| what | unit | sfm | peer | | ratio | limit | share of limit |",
        "|---|---|---:|---:|---|---:|---:|---:|",
    ]
    for row in rows:
        limit, share = ("", "") if row.limit is None else (_short(row.limit), f"{row.ours / row.limit:.0%}")
        cells = (row.what, row.unit, _short(row.ours), _short(row.peer), row.peer_name, f"{row.ours / row.peer:.1f}")
        lines.append("| " + " | ".join((*cells, limit, share)) + " |")
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
