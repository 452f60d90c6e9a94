"""Put the import graph of the package into docs/architecture.md.

``python scripts/architecture.py`` writes the page, ``--check`` only fails if it is not what the
code says. A folder's line is the first sentence of its docstring, so that it is said in one place.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "complexnn"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- made by scripts/architecture.py -->", "<!-- end of it -->"
# Bottom to top: a folder imports only from those before it.
STOREYS = (
    "config_idle", "config", "config_attack", "config_io", "metrics", "rotation", "runs", "data",
    "privacy", "networks", "training", "attacks", "measurements", "report", "speed", "commands",
)  # fmt: skip

FILES = {
    ".".join(("complexnn", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# Files that do nothing but start a command: ``python -m complexnn.NAME``.
DOORS = [
    name
    for name in FILES
    if name.endswith("__main__") or (name.count(".") == 1 and name.split(".")[1] not in STOREYS)
    if name != "complexnn.__init__"
]
CODE = [name for name in FILES if name not in DOORS and name != "complexnn.__init__"]


@cache
def tree(name: str) -> ast.Module:
    """The parsed code of a module."""
    return ast.parse(FILES[name].read_text())


def storey(name: str) -> str:
    """The folder, or the file beside the folders, of a module."""
    return name.split(".")[1]


def imported(name: str) -> Iterator[str]:
    """The modules of the package that a module imports, wherever in it."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("complexnn"):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [m if {m, f"{m}.__init__"} & FILES.keys() else node.module for m in modules]
        else:
            continue
        for module in modules:
            if module.startswith("complexnn"):
                yield module if module in FILES else f"{module}.__init__"


def graph() -> dict[str, set[str]]:
    """For each storey, bottom to top, the others that it imports."""
    edges: dict[str, set[str]] = {name: set() for name in STOREYS}
    for name in CODE:
        edges[storey(name)] |= {storey(other) for other in imported(name)}
    return {name: others - {name} for name, others in edges.items()}


def direct(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The graph without the edges that follow from others."""
    below: dict[str, set[str]] = {}  # all that a storey stands on
    for name in STOREYS:
        below[name] = edges[name].union(*(below[other] for other in edges[name]))
    return {
        name: others - set().union(*(below[other] for other in others))
        for name, others in edges.items()
    }


def shown(name: str) -> str:
    return f"{name}/" if (PACKAGE / name).is_dir() else f"{name}.py"


def holds(name: str) -> str:
    """The first sentence of a storey's docstring, without its full stop."""
    module = f"complexnn.{name}.__init__" if (PACKAGE / name).is_dir() else f"complexnn.{name}"
    text = " ".join((ast.get_docstring(tree(module)) or "").split())
    return text.split(". ")[0].removesuffix(".").replace("``", "`")


def made() -> str:
    """The picture and the table."""
    edges, top_down = graph(), list(reversed(STOREYS))
    arrows = direct(edges)
    picture = [f'    {name}["{shown(name)}"]' for name in top_down]
    for name in top_down:
        picture += [f"    {name} --> {other}" for other in top_down if other in arrows[name]]
    table = ["| `complexnn/` | holds | imports |", "| --- | --- | --- |"]
    for name in top_down:
        others = ", ".join(f"`{other}`" for other in top_down if other in edges[name])
        table.append(f"| `{shown(name)}` | {holds(name)} | {others or 'nothing'} |")
    return "\n".join(["```mermaid", "graph TD", *picture, "```", "", *table])


def page() -> str:
    """The page with what is made of the code as it is now."""
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n\n{made()}\n\n{END}{after}"


def main(argv: list[str]) -> int:
    """Write the page, or check it."""
    text = page()
    if argv == ["--check"]:
        if text == PAGE.read_text():
            return 0
        print(f"{PAGE} is not what the code says: python scripts/architecture.py", file=sys.stderr)
        return 1
    if argv:
        print(f"usage: python {sys.argv[0]} [--check]", file=sys.stderr)
        return 2
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
