"""The table of objectives in docs/objectives.md: what each needs, which kernels it is made of, and how long it is.

Lines are those of code, without docstrings, comments and blanks. Run: python -m benchmarks.catalogue
"""

import ast
import inspect
import re
import statistics
from pathlib import Path

from pipeline import plugin

PAGE = Path("docs/objectives.md")
BEGIN, END = "<!-- made by benchmarks/catalogue.py -->", "<!-- end -->"


def code_lines(source: str) -> int:
    """Lines that hold code."""
    tree = ast.parse(source)
    documented = [node for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]
    said = {line for node in documented if isinstance(node.value.value, str) for line in range(node.lineno, (node.end_lineno or 0) + 1)}
    lines = source.splitlines()
    return sum(bool(text.strip()) and not text.strip().startswith("#") and at not in said for at, text in enumerate(lines, start=1))


def row(kind: str) -> tuple[int, str]:
    """The length of an objective, and its line of the table."""
    module = plugin.load("objectives", kind)
    source = inspect.getsource(module)
    kernels = sorted(set(re.findall(r"\b_[a-z]+\.([a-z][a-z0-9_]*)\(", source)) - BOOKKEEPING)
    others = sorted(set(re.findall(r"\b([a-z][a-z_]*)\.(?:loss|Config)\(", source)))
    title = (module.__doc__ or "").split(":")[0].split(". ")[0].strip()
    made = ", ".join([*kernels, *(f"`{name}`" for name in others)]) or "-"
    length = code_lines(source)
    return length, f"| `{kind}` | {title} | {module.UNIT} | {', '.join(sorted(module.NEEDS)) or '-'} | {made} | {length} |"


BOOKKEEPING = {"log_ratios", "extra_log_ratios", "of_pairs", "weighted", "pair_terms", "labels", "totals"}
"""What nearly all of them use."""


def table() -> str:
    made = [row(kind) for kind in plugin.names("objectives")]
    head = "| objective | | unit | needs | made of | lines |\n|---|---|---|---|---|---|\n"
    lengths = [length for length, _ in made]
    median = f"\n\n{len(made)} objectives; median {statistics.median(lengths):g} lines of code, longest {max(lengths)}."
    return head + "\n".join(line for _, line in made) + median


def page(text: str) -> str:
    """The page with its table brought up to date."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
