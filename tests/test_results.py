"""Rows on disk: whole lines only, and a damaged file is named."""

import subprocess

import pytest

from complexnn.config import InputError
from complexnn.runs import results
from complexnn.runs.results import append_row, read_rows


def test_the_commit_is_that_of_the_projects_own_clone(tmp_path, monkeypatch):
    """Not of a repository that holds an environment with an installation; none without git."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    told = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    for place, commit in (("", told.stdout.strip()), (".venv/site-packages", None)):
        module = tmp_path / place / "complexnn" / "runs" / "results.py"
        module.parent.mkdir(parents=True)
        monkeypatch.setattr(results, "__file__", str(module))
        assert results._git_commit() == commit
    monkeypatch.setenv("PATH", "")
    assert results._git_commit() is None
    results.write_config(tmp_path, {})
    assert results.read_config(tmp_path) == {}


def test_a_line_that_a_kill_cut_off_is_neither_read_nor_kept(tmp_path):
    path = tmp_path / "results.jsonl"
    append_row(path, {"name": "task"})
    with path.open("a") as file:
        file.write('{"name": "sp')
    assert read_rows(path) == [{"name": "task"}]
    append_row(path, {"name": "span"})
    assert [row["name"] for row in read_rows(path)] == ["task", "span"]
    assert read_rows(tmp_path / "nowhere.jsonl") == []


@pytest.mark.parametrize("line", ["<<<<<<< HEAD", '{"name": "sp', "[1, 2]"])
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    path = tmp_path / "results.jsonl"
    path.write_text(f'{{"name": "task"}}\n\n{line}\n{{"name": "span"}}\n')
    with pytest.raises(InputError, match=r"results\.jsonl: line 3 is no row"):
        read_rows(path)
