"""Where output goes, and how single values are written: consoles, safe text, numbers, durations, JSON.

Whatever a model wrote is printed through `safe`: its control characters are shown, never obeyed, and rich
never reads it as markup. Tables have no vertical lines, so that they can be copied and grepped.
"""

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

STATES = {
    "done": "green",
    "dropped": "dim green",
    "missing": "dim",
    "begun": "cyan",
    "running": "bold cyan",
    "stale": "yellow",
    "corrupt": "bold red",
}
"""Colours of the states; the words alone say everything."""
GAP = 2
"""Spaces between the columns of a table."""
BROKEN_PIPE = 141
"""Exit code when the reader of our output went away, as a shell would report it."""


class Screen(Console):
    """A console whose reader may go away without noise."""

    def on_broken_pipe(self) -> NoReturn:
        hush()
        raise SystemExit(BROKEN_PIPE)


def hush() -> None:
    """Let nothing complain that the reader of stdout has gone, the interpreter's last flush included."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def screen(*, stderr: bool = False) -> Screen:
    """A console on stdout or stderr: as wide as the terminal, or 120 columns where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    wide = None if stream.isatty() or "COLUMNS" in os.environ else 120
    return Screen(stderr=stderr, highlight=False, emoji=False, markup=False, width=wide)


def show(part: RenderableType) -> None:
    """Print to stdout; without the blanks that pad lines, where no terminal needs them."""
    out = screen()
    if out.is_terminal:
        out.print(part)
        return
    with out.capture() as captured:
        out.print(part)
    _write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def report(data: Any, as_json: bool, page: Callable[[], RenderableType]) -> None:
    """Print a report, for a program or for a person."""
    if as_json:
        emit(data)
    else:
        show(page())


def emit(data: Any) -> None:
    """Print plain data to stdout as JSON, and nothing else."""
    _write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        hush()
        raise SystemExit(BROKEN_PIPE) from None


def safe(value: Any, *, newlines: bool = True) -> str:
    """Text with every control and direction character written out, such as `\\x1b`; newlines and tabs stay if wanted."""
    return "".join(_visible(character, newlines) for character in str(value))


def _visible(character: str, newlines: bool) -> str:
    if character == "\n":
        return "\n" if newlines else "\\n"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and character not in ("\u200c", "\u200d"):
        return character.encode("unicode_escape").decode()
    return character


def shorten(value: Any, width: int) -> str:
    """One line of at most `width` characters."""
    text = safe(value, newlines=False)
    return text if len(text) <= width else f"{text[: max(width - 3, 1)]}..."


def number(value: Any, digits: int = 4) -> str:
    """A number to so many significant digits, counts with thousands separators, anything else as it stands."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return shorten(value, 60)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"


def seconds(value: Any) -> str:
    """A duration for people: `3.2 s`, `4 min 07 s`, `2 h 05 min`."""
    if not isinstance(value, int | float):
        return ""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: int) -> str:
    """Bytes for people, in powers of 1,024."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def state(text: str) -> Text:
    """A state in its colour."""
    return Text(text, style=STATES.get(text.split(" ")[0], ""))


def table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[RenderableType]], *, title: str | None = None) -> Table:
    """A table; a column is its heading and how it behaves: `left`, `right`, or `wrap` (it takes what width is left)."""
    made = Table(
        box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, title_style="bold", show_edge=False, padding=(0, GAP - 1, 0, 0)
    )
    for heading, how in columns:
        made.add_column(Text(heading), justify="right" if how == "right" else "left", no_wrap=how != "wrap", overflow="fold")
    for row in rows:
        made.add_row(*(cell if not isinstance(cell, str) else Text(cell) for cell in row))
    return made


def heading(text: str, aside: str = "") -> Text:
    """A line that opens a part of a report."""
    return Text.assemble((text, "bold"), (f"  {aside}" if aside else "", "dim"))


def indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2), expand=False)


def by_round(addresses: list[str]) -> list[RenderableType]:
    """Addresses, a line for each round."""
    lines: dict[str, list[str]] = {}
    for address in addresses:
        folder, _, node = address.partition("/")
        lines.setdefault(folder, []).append(node)
    return [indented(Text(f"{folder}: {', '.join(nodes)}")) for folder, nodes in lines.items()]


def command(text: str) -> Text:
    """A command line that can be copied whole, whether or not the environment of `rematch` is active."""
    if text.startswith("rematch ") and shutil.which("rematch") is None and Path(sys.argv[0]).name == "rematch":
        text = f"{sys.argv[0]} {text.removeprefix('rematch ')}"
    return Text(f"  {text}", style="cyan", no_wrap=True, overflow="ignore")
