"""What ``pip install .`` puts in place: every file of the code, every command by its name."""

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import complexnn
from complexnn.commands import app
from complexnn.commands import main as command_line

setuptools = pytest.importorskip("setuptools")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def distribution():
    """The package as setuptools would build it; nothing is built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        distribution = setuptools.Distribution({"script_name": "setup.py"})  # as a build has it
        distribution.parse_config_files()
        yield distribution


def test_the_package_holds_every_module_and_the_published_numbers(distribution):
    build = distribution.get_command_obj("build_py")
    build.ensure_finalized()
    outputs = {Path(file).relative_to(build.build_lib) for file in build.get_outputs()}
    files = (p for p in (ROOT / "complexnn").rglob("*.*") if p.parent.name != "__pycache__")
    there = {p.relative_to(ROOT) for p in files}
    assert {".py", ".json"} == {p.suffix for p in there}
    assert outputs >= there


def test_its_commands_are_functions(distribution):
    scripts = distribution.entry_points["console_scripts"]
    started = dict(line.replace(" ", "").split("=") for line in scripts)
    assert started.keys() == {"complexnn", "complexnn-train", "complexnn-attack"}
    for name, place in started.items():
        assert callable(EntryPoint(name, place, "console_scripts").load())


def test_every_module_that_starts_a_command_is_a_command_of_complexnn(capsys):
    package = Path(complexnn.__file__).parent
    doors = {p.stem for p in package.glob("*.py") if "sys.exit(" in p.read_text()} - {"__main__"}
    named = command_line.COMMANDS.keys()
    assert named == doors | {"train", "attack", "report"}
    assert app.run(command_line.main, []) == 0
    assert set(re.findall(r"^  (\w+)", capsys.readouterr().out, re.MULTILINE)) == named


@pytest.mark.parametrize("name", command_line.COMMANDS)
def test_commands_of_complexnn_show_their_flags(name, capsys):
    with pytest.raises(SystemExit) as end:
        app.run(command_line.main, [name, "--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_an_unknown_command_is_refused(capsys):
    assert app.run(command_line.main, ["tarin"]) == 2
    assert "train, attack" in capsys.readouterr().err
