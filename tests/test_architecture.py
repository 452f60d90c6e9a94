"""docs/architecture.md is what the code says."""

import re
from pkgutil import resolve_name

import architecture
import pytest

PAGE = architecture.PAGE.read_text()
NAMES = sorted(set(re.findall(rf"`((?:{'|'.join(architecture.STOREYS)})\.\w[\w.]*)`", PAGE)))


def test_the_page_is_up_to_date(capsys):
    assert architecture.main(["--check"]) == 0, capsys.readouterr().err


def test_a_page_that_is_out_of_date_is_written_again(tmp_path, monkeypatch):
    stale = tmp_path / "page.md"
    stale.write_text(re.sub(r"    commands --> .*\n", "", PAGE))
    monkeypatch.setattr(architecture, "PAGE", stale)
    assert architecture.main(["--check"]) == 1
    assert architecture.main([]) == 0
    assert stale.read_text() == PAGE


def test_edges_that_follow_from_others_are_left_out(monkeypatch):
    monkeypatch.setattr(architecture, "STOREYS", ("a", "b", "c"))
    edges = {"a": set(), "b": {"a"}, "c": {"a", "b"}}
    assert architecture.direct(edges) == {"a": set(), "b": {"a"}, "c": {"b"}}


@pytest.mark.parametrize("name", [n for n in NAMES if not n.endswith(".py")])
def test_what_the_walks_name_exists(name):
    resolve_name(f"complexnn.{name}")


def test_every_folder_says_what_it_holds():
    assert all(map(architecture.holds, architecture.STOREYS))
