"""The storeys of the package: a file imports only from its own folder or from a lower storey, and
no files import each other in a circle."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "complexnn"
# Bottom to top; docs/architecture.md says what each of them holds.
STOREYS = (
    ("config_idle", "metrics"),
    ("config",),
    ("config_attack", "config_io"),
    ("rotation",),
    ("runs",),
    ("data",),
    ("privacy",),
    ("networks",),
    ("training",),
    ("attacks",),
    ("measurements",),
    ("report",),
    ("speed",),
    ("commands",),
)
# ``python -m complexnn.NAME``: files that do nothing but start a command.
DOORS = ("bench", "campaign", "checkpoints", "gaussianity", "linearity", "offload", "scaling")
LEVEL = {name: level for level, names in enumerate(STOREYS) for name in names}
FILES = {
    ".".join(("complexnn", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
CODE = [
    name for name in FILES if name not in ("complexnn.__init__", *(f"complexnn.{d}" for d in DOORS))
    and not name.endswith("__main__")
]  # fmt: skip


def imported(name):
    """The modules of the package that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("complexnn"):
            found = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [f if {f, f"{f}.__init__"} & FILES.keys() else node.module for f in found]
        else:
            continue
        for full in found:
            if full.startswith("complexnn"):
                yield full if full in FILES else f"{full}.__init__"


def storey(name):
    return LEVEL[name.split(".")[1]]


def test_every_folder_has_a_storey():
    assert {name.split(".")[1] for name in CODE} == set(LEVEL)


@pytest.mark.parametrize("name", CODE)
def test_imports_point_downwards(name):
    own = name.split(".")[1]
    for other in imported(name):
        assert other != "complexnn.__init__", f"{name} imports the package root"
        below = other.split(".")[1]
        assert below == own or LEVEL[below] < LEVEL[own], f"{name} imports {other}"


def test_no_circle_of_any_length():
    graph = {name: set(imported(name)) - {name} for name in FILES}
    while leaves := {name for name, others in graph.items() if not others & graph.keys()}:
        graph = {name: others for name, others in graph.items() if name not in leaves}
    assert not graph, f"circular imports among {', '.join(graph)}"


def test_doors_only_start_commands():
    for name in (*(f"complexnn.{d}" for d in DOORS), "complexnn.report.__main__"):
        tree = ast.parse(FILES[name].read_text())
        assert not [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))], name
        assert all(o.startswith("complexnn.commands.") for o in imported(name)), name


def test_only_the_algebra_indexes_the_parts_of_features():
    features = {"x", "released", "hidden", "parts", "plain", "turned"}
    for name in CODE:
        if name.startswith("complexnn.rotation.") and not name.endswith("equivariance"):
            continue
        for node in ast.walk(ast.parse(FILES[name].read_text())):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
                first = node.slice.elts[0]
                indexes_axis_1 = isinstance(first, ast.Slice) and not (first.lower or first.upper)
                assert not (indexes_axis_1 and ast.unparse(node.value) in features), name


def test_only_commands_print():
    for name in CODE:
        if storey(name) >= LEVEL["training"]:
            continue
        calls = [n for n in ast.walk(ast.parse(FILES[name].read_text())) if isinstance(n, ast.Call)]
        assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"], name
