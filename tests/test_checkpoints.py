"""Published networks over a real HTTP server on the loopback address."""

import hashlib
import http.server
import json
import threading

import pytest

import complexnn
from complexnn import checkpoint, checkpoints, cli
from complexnn.config import to_dict


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the good file whole, cut off, changed, as a web page, or half of what it announces."""

    content = b""

    def do_GET(self):
        whole = self.content
        body = {
            "/good": whole,
            "/truncated": whole[:1000],
            "/changed": whole[:-1] + bytes([whole[-1] ^ 1]),
            "/page": b"<!doctype html><title>Quota exceeded</title>",
            "/stops": whole[:1000],
        }.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(whole if self.path == "/stops" else body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    net = complexnn.build("lenet5", image_size=8, num_classes=3)
    path = tmp_path_factory.mktemp("published") / "w"
    checkpoint.save(path, net, to_dict(net.config))
    Handler.content = path.read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def manifest(folder, mirrors, **changes):
    content = Handler.content
    entry = {
        "path": "tiny/model.safetensors",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "config": {},
        "metrics": {"task error": 0.5},
        "mirrors": mirrors,
    } | changes
    (folder / "MANIFEST.json").write_text(json.dumps({"checkpoints": {"tiny": entry}}))


def command(folder, *words):
    return cli.run(checkpoints.main, [*words, "--folder", str(folder)])


def test_download_then_load(tmp_path, server, capsys):
    manifest(tmp_path, [f"{server}/good"])
    assert command(tmp_path, "verify") == 2
    assert "missing" in capsys.readouterr().out
    assert command(tmp_path, "download", "tiny") == 0
    assert command(tmp_path, "verify") == 0
    assert command(tmp_path, "list") == 0
    assert "here" in capsys.readouterr().out
    assert complexnn.load(tmp_path / "tiny", num_classes=3).config.arch == "lenet5"


def test_a_good_file_is_not_fetched_again(tmp_path, server):
    manifest(tmp_path, [f"{server}/good"])
    assert command(tmp_path, "download") == 0
    manifest(tmp_path, ["http://127.0.0.1:9/closed"])
    assert command(tmp_path, "download") == 0


@pytest.mark.parametrize("first", ["truncated", "changed", "page", "stops", "nowhere", "down"])
def test_the_next_mirror_helps_out(tmp_path, server, first, caplog):
    bad = "http://127.0.0.1:9/closed" if first == "down" else f"{server}/{first}"
    manifest(tmp_path, [bad, f"{server}/good"])
    assert command(tmp_path, "download") == 0
    assert f"{bad} failed" in caplog.text
    assert (tmp_path / "tiny/model.safetensors").read_bytes() == Handler.content


@pytest.mark.parametrize("only", ["truncated", "changed", "page", "stops", "nowhere", "down"])
def test_without_a_good_mirror_nothing_is_left_behind(tmp_path, server, only, capsys):
    bad = "http://127.0.0.1:9/closed" if only == "down" else f"{server}/{only}"
    manifest(tmp_path, [bad])
    assert command(tmp_path, "download") == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    assert f"put it at {tmp_path / 'tiny/model.safetensors'}" in line
    assert not [p for p in (tmp_path / "tiny").rglob("*") if p.is_file()]


def test_a_damaged_file_is_named_and_replaced(tmp_path, server, capsys):
    manifest(tmp_path, [f"{server}/good"])
    assert command(tmp_path, "download") == 0
    path = tmp_path / "tiny/model.safetensors"
    for content, reason in ((b"<html>", "bytes instead"), (Handler.content[::-1], "sha256")):
        path.write_bytes(content)
        assert command(tmp_path, "verify") == 2
        assert reason in capsys.readouterr().out
    assert command(tmp_path, "download") == 0
    assert path.read_bytes() == Handler.content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "run from the repository or give --folder"),
        ("{", "is damaged"),
        ('{"checkpoints": {"x": {"path": "x"}}}', "entry x lacks bytes"),
    ],
)
def test_a_broken_manifest_is_named(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / "MANIFEST.json").write_text(content)
    assert command(tmp_path, "list") == 2
    assert message in capsys.readouterr().err


def test_a_path_out_of_the_folder_is_refused(tmp_path, server, capsys):
    manifest(tmp_path, [f"{server}/good"], path="../../evil")
    assert command(tmp_path, "download") == 2
    assert "leads out of the folder" in capsys.readouterr().err


def test_unknown_names_are_refused(tmp_path, server, capsys):
    manifest(tmp_path, [])
    assert command(tmp_path, "verify", "huge") == 2
    assert "known: tiny" in capsys.readouterr().err
    assert command(tmp_path, "download", "tiny") == 2
    assert "it has none" in capsys.readouterr().err


def test_the_repositorys_own_checkpoints_are_as_published():
    assert cli.run(checkpoints.main, ["verify", "--folder", str(FOLDER)]) == 0


FOLDER = cli.Path(complexnn.__file__).parent.parent / "checkpoints"
