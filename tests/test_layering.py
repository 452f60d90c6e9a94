"""The storeys of the package: a file imports only from its own folder or from a lower storey, and
no files import each other in a circle."""

import ast

import pytest
from architecture import CODE, DOORS, FILES, STOREYS, imported, storey, tree

LEVEL = {name: level for level, name in enumerate(STOREYS)}
LINES, FUNCTION_LINES = 350, 50  # at most


def test_every_folder_has_a_storey():
    assert {storey(name) for name in CODE} == set(STOREYS)


@pytest.mark.parametrize("name", CODE)
def test_imports_point_downwards(name):
    for other in imported(name):
        assert other != "complexnn.__init__", f"{name} imports the package root"
        assert LEVEL[storey(other)] <= LEVEL[storey(name)], f"{name} imports {other}"


def test_no_circle_of_any_length():
    graph = {name: set(imported(name)) - {name} for name in FILES}
    while leaves := {name for name, others in graph.items() if not others & graph.keys()}:
        graph = {name: others for name, others in graph.items() if name not in leaves}
    assert not graph, f"circular imports among {', '.join(graph)}"


def test_doors_only_start_commands():
    for name in DOORS:
        made = [n for n in tree(name).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
        assert not made, name
        assert all(o.startswith("complexnn.commands.") for o in imported(name)), name


def test_only_the_algebra_indexes_the_parts_of_features():
    features = {"x", "released", "hidden", "parts", "plain", "turned"}
    for name in CODE:
        if name.startswith("complexnn.rotation.") and not name.endswith("equivariance"):
            continue
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
                first = node.slice.elts[0]
                indexes_axis_1 = isinstance(first, ast.Slice) and not (first.lower or first.upper)
                assert not (indexes_axis_1 and ast.unparse(node.value) in features), name


def test_only_the_split_network_draws_its_keys():
    for name in CODE:
        if name == "complexnn.networks.splitnet":
            continue
        for node in ast.walk(tree(name)):
            inside = isinstance(node, ast.Attribute) and node.attr in {"_group", "_rotate"}
            makes = isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Key"
            assert not (inside or makes), f"{name}, line {node.lineno}: {ast.unparse(node)}"


def test_only_commands_print():
    for name in CODE:
        if storey(name) == "commands":
            continue
        calls = [n for n in ast.walk(tree(name)) if isinstance(n, ast.Call)]
        assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"], name


def test_a_file_is_a_few_screens():
    long = {name for name, path in FILES.items() if len(path.read_text().splitlines()) > LINES}
    assert not long


def test_a_function_is_one_screen():
    long = {
        f"{name}.{node.name}"
        for name in FILES
        for node in ast.walk(tree(name))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    }
    assert not long
