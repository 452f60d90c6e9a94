"""The rows of the package: a file imports only from rows below its own, or from its own folder."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = [
    [
        "functional",
        "fused",
        "metrics",
        "tasks",
        "config",
        "progress",
        "tables",
        "privacy",
        "losses",
    ],
    ["layers", "equivariance", "checkpoint", "results", "defences"],
    ["images", "folder", "celeba", "cub200", "data"],
    ["networks"],
    ["training", "adversaries", "attacks"],
    [
        "cli",
        "bench",
        "rivals",
        "scaling",
        "offload",
        "linearity",
        "gaussianity",
        "report",
        "published",
        "rows",
        "lines",
        "claims",
        "further",
        "verdicts",
        "summary",
        "figures",
        "campaign",
        "jobs",
        "cluster",
        "estimates",
        "checkpoints",
    ],
]
ROW = {name: row for row, names in enumerate(ROWS) for name in names}
FILES = [p for p in sorted((ROOT / "complexnn").rglob("*.py")) if p.name != "__init__.py"]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("complexnn"):
            inside = node.module.split(".")[1:]
            yield from [inside[0]] if inside else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("complexnn"):
                    yield alias.name.partition(".")[2].split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path):
    own = path.relative_to(ROOT / "complexnn").parts[0].removesuffix(".py")
    for name in imports(path):
        assert name, f"{path} imports the package root"
        same_row = name != own and ROW[name] == ROW[own]
        if same_row:
            # config and progress, checkpoint and folder stand beside each other; no cycles.
            assert own not in set(imports(module_path(name))), f"{path} and {name} form a cycle"
        assert ROW[name] <= ROW[own], f"{path} imports {name} from a row above"


def module_path(name):
    path = ROOT / "complexnn" / f"{name}.py"
    return path if path.exists() else ROOT / "complexnn" / name / "__init__.py"


def test_only_functional_and_layers_index_the_parts_of_features():
    features = {"x", "released", "hidden", "parts", "plain", "turned"}
    for path in FILES:
        if path.name in ("functional.py", "fused.py", "layers.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
                first = node.slice.elts[0]
                indexes_axis_1 = isinstance(first, ast.Slice) and not (first.lower or first.upper)
                assert not (indexes_axis_1 and ast.unparse(node.value) in features), path


def test_no_print_in_the_library():
    for path in FILES:
        if ROW[path.relative_to(ROOT / "complexnn").parts[0].removesuffix(".py")] >= 3:
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
