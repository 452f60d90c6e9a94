"""Rows on disk: whole lines only, and a damaged file is named."""

import pytest

from complexnn.config import InputError
from complexnn.results import append_row, read_rows


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
