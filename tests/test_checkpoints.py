"""Published networks over a real HTTP server on the loopback address."""

import dataclasses
import hashlib
import http.server
import json
import shlex
import shutil
import threading
from pathlib import Path

import pytest
import torch

import complexnn
from complexnn.commands import app, publish
from complexnn.commands import attack as attack_command
from complexnn.commands import train as train_command
from complexnn.config import TrainConfig
from complexnn.config_io import command as shown
from complexnn.config_io import from_dict, to_dict
from complexnn.networks.attack_networks import UNet
from complexnn.report.rows import of_attacked_run
from complexnn.runs import checkpoint, pictures, results


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
    net = complexnn.build("thin1", image_size=8, num_classes=3)
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
    (folder / "MANIFEST.json").write_text(
        json.dumps({"checkpoints": {"tiny": entry}, "commands": {}})
    )


def command(folder, *words):
    return app.run(publish.main, [*words, "--folder", str(folder)])


def test_download_then_load(tmp_path, server, capsys):
    manifest(tmp_path, [f"{server}/good"])
    assert command(tmp_path, "verify") == 2
    assert "missing" in capsys.readouterr().out
    assert command(tmp_path, "download", "tiny") == 0
    assert command(tmp_path, "verify") == 0
    assert command(tmp_path, "list") == 0
    assert "here" in capsys.readouterr().out
    assert complexnn.load(tmp_path / "tiny", num_classes=3).config.arch == "thin1"
    modes = [(tmp_path / n).stat().st_mode for n in ("MANIFEST.json", "tiny/model.safetensors")]
    assert modes[0] == modes[1]


def test_a_good_file_is_not_fetched_again(tmp_path, server):
    manifest(tmp_path, [f"{server}/good"])
    assert command(tmp_path, "download") == 0
    manifest(tmp_path, ["http://127.0.0.1:9/closed"])
    assert command(tmp_path, "download") == 0


def test_what_is_here_needs_no_mirror_and_one_failure_holds_nothing_back(tmp_path, server, capsys):
    manifest(tmp_path, [f"{server}/good"])
    assert command(tmp_path, "download") == 0
    manifest(tmp_path, [])
    assert command(tmp_path, "download") == 0
    assert "is here" in capsys.readouterr().out
    entries = json.loads((tmp_path / "MANIFEST.json").read_text())["checkpoints"]
    there = entries["tiny"]
    entries = {
        "gone": there | {"path": "gone/model.safetensors"},
        "later": there | {"path": "later/w.safetensors", "mirrors": [f"{server}/good"]},
    }
    (tmp_path / "MANIFEST.json").write_text(json.dumps({"checkpoints": entries, "commands": {}}))
    assert command(tmp_path, "download") == 2
    assert "gone could not be downloaded" in capsys.readouterr().err
    assert (tmp_path / "later/w.safetensors").read_bytes() == Handler.content


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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A victim of digits and some of its attackers, in a folder of runs."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(runs.parent)  # relative paths, as in the scripts
        run = f"{runs.name}/digits/complex"
        words = ["--epochs", "1", "--limit-train", "200", "--output-dir", run]
        assert app.run(train_command.main, words) == 0
        words = ["inversion", "--victim", run, "--only", "dec(x)", "--steps", "3"]
        assert app.run(attack_command.main, [*words, "--budget", "quick", "--draws", "1"]) == 0
    return runs


def published(folder, runs, *words):
    if not (folder / "MANIFEST.json").exists():
        (folder / "MANIFEST.json").write_text('{"checkpoints": {}, "commands": {}}')
    return command(folder, "publish", str(runs / "digits"), "--root", str(runs), *words)


def test_a_published_run_gives_the_same_network_rows_and_attackers(trained, tmp_path):
    source = trained / "digits/complex"
    assert published(tmp_path, trained, "--attackers") == 0
    assert command(tmp_path, "verify") == 0
    copy = tmp_path / "digits/complex"
    ours, theirs = (complexnn.load(f).state_dict() for f in (source, copy))
    assert all(theirs[name].equal(tensor) for name, tensor in ours.items())
    entries, commands = publish.read_manifest(tmp_path), publish.read_commands(tmp_path)
    assert commands == {}
    assert {"digits/complex", "digits/complex/dec_x"} < set(entries)
    assert entries["digits/complex"]["sha256"] == checkpoint.sha256(source / "model.safetensors")

    names = {row["name"] for row in results.read_rows(copy / "results.jsonl")}
    assert names == {"task", "inversion dec(x)", "inversion dec(x) set"}
    # Half precision changes no measure by more than the fourth digit.
    found = []
    for folder in (source, copy):
        (attackers,) = (folder / "attackers").iterdir()
        model = UNet(2 * 32, (1, 8, 8), width=16)
        checkpoint.restore(model, checkpoint.read(attackers / "dec_x.safetensors")[0], "x")
        with torch.no_grad():
            found.append(model.eval()(torch.randn(4, 64, 4, 4, generator=rng())))
    assert 0 < (found[0] - found[1]).abs().max() < 1e-3


def test_a_file_that_is_published_again_keeps_its_mirrors(trained, tmp_path):
    assert published(tmp_path, trained) == 0
    path = tmp_path / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    for mirrors, sha256 in ((["https://example.org/w"], None), ([], "0" * 64)):
        entry = manifest["checkpoints"]["digits/complex"]
        entry |= {"mirrors": ["https://example.org/w"], "sha256": sha256 or entry["sha256"]}
        path.write_text(json.dumps(manifest))
        assert published(tmp_path, trained) == 0
        assert publish.read_manifest(tmp_path)["digits/complex"]["mirrors"] == mirrors


def rng():
    return torch.Generator().manual_seed(0)


def test_pictures_of_other_weights_are_not_published(trained, tmp_path, caplog):
    runs = tmp_path / "runs"
    shutil.copytree(trained, runs)
    run = runs / "digits/complex"
    picture = Path("examples/inversion.safetensors")
    victim = checkpoint.sha256(run / "model.safetensors")
    rows = {"input": torch.rand(2, 1, 8, 8)}
    for known, shipped in ((victim, True), ("0" * 64, False), (None, False)):
        pictures.keep_pixels(run / picture, rows, known)
        out = tmp_path / str(known)[:4]
        out.mkdir()
        assert published(out, runs, "--no-weights") == 0
        assert (out / "digits/complex" / picture).is_file() == shipped
    assert caplog.text.count("pictures of other weights are left out") == 2


def test_rows_alone_are_published_too_and_still_judged(trained, tmp_path, capsys):
    assert published(tmp_path, trained, "--no-weights") == 0
    entries, commands = publish.read_manifest(tmp_path), publish.read_commands(tmp_path)
    assert entries == {} and commands.keys() == {"digits/complex"}
    config = from_dict(TrainConfig, results.read_config(trained / "digits/complex"))
    made = app.parse(TrainConfig, shlex.split(commands["digits/complex"])[2:], "train.py")
    assert shown(made) == shown(dataclasses.replace(config, device=made.device))
    assert command(tmp_path, "list", "digits/complex") == 0
    assert f"rows only; make it: {commands['digits/complex']}" in capsys.readouterr().out
    assert command(tmp_path, "download", "digits/complex") == 2
    assert f"make it: {commands['digits/complex']}" in capsys.readouterr().err
    assert command(tmp_path, "download", "digits/other") == 2
    copy = tmp_path / "digits/complex"
    assert not (copy / "model.safetensors").exists()
    assert set(of_attacked_run(copy)) == set(of_attacked_run(trained / "digits/complex"))


def test_a_run_that_names_this_machine_is_not_published(trained, tmp_path, capsys):
    runs = tmp_path / "runs"
    shutil.copytree(trained, runs)
    config = runs / "digits/complex/config.json"
    config.write_text(config.read_text().replace('"data"', '"/home/me/data"'))
    (tmp_path / "out").mkdir()
    assert published(tmp_path / "out", runs) == 2
    assert "names a place of this machine, /home/me/data" in capsys.readouterr().err
    assert not (tmp_path / "out/digits").exists()


def test_one_bad_run_leaves_what_was_published_alone(trained, tmp_path, capsys):
    runs, out = tmp_path / "runs", tmp_path / "out"
    shutil.copytree(trained, runs)
    out.mkdir()
    assert published(out, runs) == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    shutil.copytree(runs / "digits/complex", runs / "digits/unfinished")
    (runs / "digits/unfinished/results.jsonl").unlink()
    assert published(out, runs, "--no-weights") == 2
    assert "unfinished is no finished run" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_flags_of_publish_are_refused_elsewhere(tmp_path, capsys):
    assert command(tmp_path, "verify", "--attackers") == 2
    assert "attackers applies to publish only" in capsys.readouterr().err


def test_what_cannot_be_published_is_said(trained, tmp_path, capsys):
    (tmp_path / "MANIFEST.json").write_text('{"checkpoints": {}, "commands": {}}')
    assert command(tmp_path, "publish", str(tmp_path)) == 2
    assert "no run to publish" in capsys.readouterr().err
    assert command(tmp_path, "publish", str(trained), "--root", str(tmp_path)) == 2
    assert "does not lie below --root" in capsys.readouterr().err


def test_the_repositorys_own_checkpoints_are_as_published():
    assert app.run(publish.main, ["verify", "--folder", str(FOLDER)]) == 0
    entries, commands = publish.read_manifest(FOLDER), publish.read_commands(FOLDER)
    runs = {p.parent.relative_to(FOLDER).as_posix() for p in FOLDER.rglob("config.json")}
    whole = {name for name in runs if (FOLDER / name / "model.safetensors").is_file()}
    assert whole == runs & entries.keys()
    assert runs - whole == commands.keys()


FOLDER = Path(complexnn.__file__).parent.parent / "checkpoints"


def test_rows_of_new_attacks_are_added_to_the_published_ones(
    trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    folder = Path("checkpoints")
    folder.mkdir()
    assert published(folder, trained) == 0
    victim = folder / "digits/complex"
    before = results.read_rows(victim / "results.jsonl")
    weights = (victim / "model.safetensors").read_bytes()

    assert command(folder, "add") == 2
    assert "no published network was attacked" in capsys.readouterr().err

    words = ["inversion", "--victim", str(victim), "--only", "dec(x) set", "--steps", "4"]
    assert app.run(attack_command.main, [*words, "--budget", "quick", "--draws", "1"]) == 0
    words[0:1], words[4] = ["span"], "span"
    assert app.run(attack_command.main, [*words, "--budget", "quick", "--draws", "1"]) == 0
    assert results.read_rows(victim / "results.jsonl") == before
    grid = Path("examples") / "inversion.safetensors"
    attacked = Path("runs/published/digits/complex") / grid
    images = torch.rand(2, 1, 8, 8)
    pictures.keep_pixels(attacked, {"input": images}, before[0]["victim"])
    assert command(folder, "add", "digits/complex") == 0
    assert set(pictures.read_pixels(victim / grid)) == {"input"}
    for more, kept in ((["dec(x)"], {"input", "dec(x)"}), ([], {"input", "dec(x)"})):  # no fewer
        pictures.keep_pixels(attacked, dict.fromkeys(["input", *more], images), before[0]["victim"])
        assert command(folder, "add", "digits/complex") == 0
        assert set(pictures.read_pixels(victim / grid)) == kept
    after = {row["name"]: row for row in results.read_rows(victim / "results.jsonl")}
    assert set(after) == {row["name"] for row in before} | {"span"}
    assert len(results.read_rows(victim / "results.jsonl")) == len(after)
    assert after["inversion dec(x) set"]["config"]["steps"] == 4
    assert after["inversion dec(x)"]["config"]["steps"] == 3
    assert (victim / "model.safetensors").read_bytes() == weights
    assert set(of_attacked_run(victim)) == set(after)

    assert command(folder, "add", "digits/original") == 2
    assert "known: digits/complex" in capsys.readouterr().err
    path = Path("runs/published/digits/complex/results.jsonl")
    kept = path.read_text()
    for old, new, told in (
        (after["span"]["victim"], "0" * 64, "rows of other weights"),
        ('"data_dir": null', '"data_dir": "/home/me"', "names a place of this machine"),
    ):
        path.write_text(kept.replace(old, new))
        there = (victim / "results.jsonl").read_text()
        assert command(folder, "add") == 2
        assert told in capsys.readouterr().err
        assert (victim / "results.jsonl").read_text() == there
