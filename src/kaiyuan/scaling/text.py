"""Tables of plain text, with emphasis on a terminal."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

Row = Sequence[str]


@dataclass(frozen=True)
class Section:
    """A titled table, without head if ``head`` is empty, and remarks under it."""

    title: str
    rows: Sequence[Row]
    head: Row = ()
    notes: Sequence[str] = ()


def render(sections: Sequence[Section]) -> str:
    """All sections, one under the other, in ASCII; bold and dim marks only if standard output is a terminal.

    Elsewhere lines are as long as they need to be, so that nothing is cut or wrapped in a file.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    width = max(60, shutil.get_terminal_size().columns) if terminal else 200
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=width, highlight=False, legacy_windows=False)
    for number, section in enumerate(sections):
        console.print(Text(("\n" if number else "") + section.title, style="bold"))
        table = Table(
            box=None, show_header=bool(section.head), pad_edge=False, padding=(0, 3, 0, 0), header_style="dim"
        )
        columns = max(map(len, [section.head, *section.rows]), default=0)
        for index in range(columns):
            name = section.head[index] if index < len(section.head) else ""
            table.add_column(Text(name), justify="left" if index == 0 or not section.head else "right")
        for row in section.rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
        for note in section.notes:
            console.print(Text(note, style="dim"))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def scientific(value: float) -> str:
    """``3.49e24``: FLOPs."""
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def binary(size: float) -> str:
    """``12.3 GiB``, in the unit that suits."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size >= 1024**power:
            return _digits(size / 1024**power) + f" {unit}"
    return f"{size:.0f} B"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
