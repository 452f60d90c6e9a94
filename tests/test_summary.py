"""The tables of the pages, and the figures: from rows, and the same as what is committed."""

import json
import math
import os
import statistics
from pathlib import Path

import pytest
import torch

from complexnn.attacks import worst
from complexnn.commands import app, publish, report
from complexnn.config import DataConfig, InputError, NetConfig, TrainConfig
from complexnn.config_io import from_dict, to_dict
from complexnn.measurements import gaussianity
from complexnn.networks.costs import dissect
from complexnn.report import beyond, paper, ranking, summary, verdict_tables, verdicts
from complexnn.report.cohorts import cohorts
from complexnn.report.figures import grids, plots, structure
from complexnn.report.rows import collect, mean_std, of_attacked_run
from complexnn.runs import results  # fmt: skip
from complexnn.runs.pictures import keep_pixels, read_pixels
from complexnn.training.evaluation import evaluate

ROOT = Path(__file__).parent.parent


def numbers(value, width=0.002, **beside):
    return {"value": value, "low": value - width, "high": value + width, **beside}


def run(
    folder, error, *, attacks=(), groups=None, limit=None, weight=0.05, epochs=20, seed=0, **net
):
    """A finished run as train.py and attack.py leave it."""
    data = DataConfig(groups=groups, limit_train=limit)
    config = TrainConfig(
        net=NetConfig(**net), data=data, adversarial_weight=weight, epochs=epochs, seed=seed
    )
    about = {"victim": folder.name, "seconds": 60.0, "device": "cpu, 1 thread"}
    settings = to_dict(config)
    task = {"error": numbers(error, chance=0.9)}
    rows = [{"name": "task", "metrics": task, "images": 100, "config": settings}]
    for name, measured in attacks:
        rows.append({
            "name": name, "family": name.split()[0], "metrics": measured, "flags": [],
            "images": 100, "draws": 5, "config": {"budget": "standard"},
        })  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"config": settings}))
    text = "".join(json.dumps(row | about) + "\n" for row in rows)
    (folder / "results.jsonl").write_text(text)
    names = ["input", "worst case", "dec(x)"] + (["dec(a*)"] if config.net.parts > 1 else [])
    (folder / "examples").mkdir()
    grid = {name: torch.full((4, 3, 8, 8), i / 255) for i, name in enumerate(names)}
    keep_pixels(folder / "examples" / "inversion.safetensors", grid)


def inversion(psnr):
    beside = {"floor": 12.0, "control": 22.0}
    top = numbers(0.5, chance=0.001)
    return ("inversion dec(x)", {"psnr": numbers(psnr, **beside), "top1": top})


@pytest.fixture
def runs(tmp_path):
    angle = ("angle ica", {"angle_error": numbers(0.05, chance=1.5708)})
    hidden = {"error": numbers(0.3, chance=0.9, given_label=0.8, control=0.2)}
    run(tmp_path / "original", 0.10, kind="original", attacks=[inversion(23)])
    run(tmp_path / "additional", 0.09, kind="additional", attacks=[inversion(22)])
    run(tmp_path / "local", 0.19, kind="local")
    matrices = {
        "error": numbers(0.11),
        "error_under_another_group": numbers(0.14),
        "error_of_the_mean_matrix": numbers(0.12),
    }
    moments = {
        f"{measure}_{what}": numbers(value)
        for what, kurtosis in (("features", 4.0), ("released", 3.2), ("gaussian", 0.1))
        for measure, value in (("kurtosis", kurtosis), ("epps_pulley", kurtosis / 1000))
    }
    again = ("intersection", {"angle_error": numbers(0.0004, chance=1.5708)})
    attacks = [angle, again, inversion(20), ("linearity", matrices), ("gaussianity", moments)]
    run(tmp_path / "complex", 0.11, attacks=attacks)
    run(tmp_path / "kinds", 0.02, groups="parity", attacks=[("property features", hidden)])
    return tmp_path


def test_a_verdict_per_claim_follows_from_the_rows(runs):
    table = verdict_tables.by_claim(collect([runs]))
    assert [(row[0], row[3]) for row in table.rows] == [
        ("accuracy is preserved", "holds in part"),
        ("the angle is hidden", "FAILS"),
        ("the input is hidden", "FAILS"),
        ("the property is hidden", "FAILS"),
    ]
    assert "80 % [" in table.rows[0][4]
    assert "12.0 % error with one fixed matrix in the server's place" in table.rows[0][4]


def test_each_run_stands_beside_its_command(runs):
    table = summary.main_table(collect([runs]))
    by_kind = {row[1]: row for row in table.rows}
    assert by_kind["complex d=2 decoy"][2:7] == (
        "11.00 [10.8, 11.2]", "0.050 (1.571)", "20.0 (12.0)", "50.0 [40.4, 59.6] (0.1)",
        "`python train.py`",
    )  # fmt: skip
    assert by_kind["local"][4] == "not attacked"
    assert by_kind["original"][3] == "no key"
    assert table.note.endswith("Attacks, by what they ran on: 7 on cpu.")


def test_the_tables_are_put_between_the_marks(runs, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{summary.MARKS[0]}\nyesterday\n{summary.MARKS[1]}\nafter\n")
    assert app.run(report.main, ["summary", str(runs), "--into", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "yesterday" not in text
    assert "holds in part" in text
    assert app.run(report.main, ["tables", str(runs), "--into", str(page)]) == 0
    assert "paper / 2021 / ours" in page.read_text()
    page.write_text("no marks\n")
    assert app.run(report.main, ["summary", str(runs), "--into", str(page)]) == 2
    assert page.read_text() == "no marks\n"
    assert app.run(report.main, ["tables", str(runs), "--into", str(page)]) == 2
    assert app.run(report.main, ["budgets", str(runs), "--into", str(page)]) == 2
    capsys.readouterr()
    assert app.run(report.main, ["summary", str(runs), "--into", str(tmp_path / "no.md")]) == 2
    assert "there is no page" in capsys.readouterr().err
    assert not (tmp_path / "no.md").exists()


def test_the_frontier_sets_use_against_leakage(runs, tmp_path, capsys):
    run(tmp_path / "alone", 0.2, arch="thin4", attacks=[inversion(23)])
    run(runs / "no-critic", 0.12, weight=0, attacks=[inversion(20)])
    table = beyond.trade_off_table(collect([runs]))
    by_name = {row[1]: row for row in table.rows}
    rotated = ["complex d=2 decoy", "complex d=2 decoy, no critic"]
    assert sorted(by_name) == ["additional", *rotated, "original"]
    network, _, error, kept, work, leak, found, angle, again = by_name["complex d=2 decoy"]
    assert network == "lenet, digits, 20 epochs"
    assert (error, leak, found) == ("11.0 [10.8, 11.2]", "8.0", "50.0 [40.4, 59.6]")
    assert kept == "80 [77, 83]"
    assert (work, angle, again) == ("2.00", "0.050 (1.571)", "0.000 (1.571)")
    assert by_name["additional"][3:5] == ("100 [97, 103]", "1.00")

    caption = plots.frontier(collect([runs]), tmp_path / "frontier.svg")
    assert "lenet, digits, 20 epochs" in caption
    assert "95 % intervals" in caption
    assert "<svg" in (tmp_path / "frontier.svg").read_text()
    page = tmp_path / "page.md"
    page.write_text(f"{summary.MARKS[0]}\n{summary.MARKS[1]}\n")
    assert app.run(report.main, ["frontier", str(runs), "--into", str(page)]) == 0
    assert "Use against leakage" in page.read_text()
    with pytest.raises(InputError, match="beside it was attacked"):
        plots.frontier(collect([tmp_path / "alone"]), tmp_path / "none.svg")


def test_only_networks_that_were_trained_as_long_are_compared(runs, tmp_path):
    errors = {"additional": 0.05, "local": 0.09, "complex": 0.08}
    for kind, error in errors.items():
        run(tmp_path / f"long-{kind}", error, epochs=40, kind=kind, attacks=[inversion(21)])
    lines = {tuple(row[:2]): row[3] for row in beyond.trade_off_table(collect([runs])).rows}
    assert lines["lenet, digits, 20 epochs", "complex d=2 decoy"].startswith("80 ")
    assert lines["lenet, digits, 40 epochs", "complex d=2 decoy"].startswith("25 ")


def test_several_seeds_count_by_their_mean(runs, tmp_path):
    run(tmp_path / "again", 0.15, seed=1)
    lines = {row[1]: row for row in beyond.trade_off_table(collect([runs])).rows}
    assert lines["complex d=2 decoy"][2] == "13.0 ± 2.8"
    assert lines["complex d=2 decoy"][3].startswith("60 ")
    assert lines["additional"][2] == "9.0 [8.8, 9.2]"


def test_variants_stand_in_a_table_of_their_own(runs, tmp_path):
    run(tmp_path / "relu", 0.4, limit=500, relu_end=True, attacks=[inversion(21)])
    (table,) = [t for t in paper.tables(collect([runs])) if t.title.startswith("Variants")]
    (line,) = table.rows
    assert line[0] == "lenet, digits"
    assert line[1].startswith("500 images")
    assert line[2:] == (
        "complex d=2 decoy ReLU end", "40.00 [39.8, 40.2]", "not attacked", "21.0 (12.0)",
        "50.0 [40.4, 59.6] (0.1)",
    )  # fmt: skip


def test_features_stand_beside_gaussians_and_independent_ones(runs):
    (line,) = beyond.gaussianity_table(collect([runs])).rows
    assert line == (
        "lenet, digits, 20 epochs", "complex d=2 decoy", "4.00 / 3.20 / 3.00", "4.0 / 3.2 / 0.1",
        "0.050 (1.571)",
    )  # fmt: skip


def test_rotated_servers_stand_beside_fixed_matrices(runs):
    (line,) = beyond.linearity_table(collect([runs])).rows
    assert line == (
        "lenet, digits, 20 epochs", "complex d=2 decoy", "11.0 [10.8, 11.2]", "14.0 [13.8, 14.2]",
        "12.0 [11.8, 12.2]", "19.0", "9.0",
    )  # fmt: skip


def test_hidden_properties_stand_beside_the_best_guess_from_the_answer(runs):
    (line,) = beyond.property_table(collect([runs])).rows
    assert line[:3] == ("lenet, digits by parity, 20 epochs", "complex d=2 decoy", "2.0")
    assert line[3:] == ("70.0 [60.4, 78.1]", "features", "20.0", "80.0")  # Wilson, 100 images


def test_pixels_come_back_in_their_order(tmp_path):
    rows = {name: torch.rand(3, 1, 4, 4) for name in ("input", "b, c", "a*")}
    keep_pixels(tmp_path / "g.safetensors", rows)
    back = read_pixels(tmp_path / "g.safetensors")
    assert list(back) == list(rows)
    for name, images in rows.items():
        assert (back[name] - images).abs().max() <= 0.5 / 255 + 1e-6


def test_figures_are_drawn_and_their_captions_say_what_they_stand_on(runs, tmp_path):
    ours = collect([runs])
    every = grids.grids(ours)
    assert sorted(every) == ["lenet-digits", "lenet-digits-by-parity"]
    shown = every["lenet-digits"]
    assert [r.config.net.kind for r in shown] == ["original", "additional", "complex"]
    run(tmp_path / "a-short-budget", 0.3, limit=200, attacks=[inversion(20)])  # read first
    whole = grids.grids(collect([tmp_path]))["lenet-digits"]
    assert [r.config.net.kind for r in whole] == ["original", "additional", "complex"]
    captions = [
        structure.structure(tmp_path / "structure.svg"),
        plots.angles(ours, tmp_path / "angles.svg"),
        plots.properties(ours, tmp_path / "properties.svg"),
        plots.leakage(ours, tmp_path / "leakage.svg"),
        grids.reconstructions(shown, tmp_path / "grid.png"),
    ]
    for name in ("structure.svg", "angles.svg", "properties.svg", "leakage.svg"):
        assert "<svg" in (tmp_path / name).read_text()
    for caption in captions[1:4]:
        assert "95 % intervals" in caption
        assert "seed 0" in caption
    assert "drawn at random with seed 0" in captions[4]
    before = (tmp_path / "angles.svg").read_bytes()
    plots.angles(ours, tmp_path / "angles.svg")
    assert (tmp_path / "angles.svg").read_bytes() == before


# ------------------------------------------------------------------ what the repository publishes


def test_pages_hold_what_the_committed_rows_say():
    """Nothing in their tables is typed by hand."""
    ours = collect([ROOT / "checkpoints"])
    pages = {
        "README.md": summary.front_page,
        "docs/beyond.md": beyond.beyond_page,
        "docs/results.md": paper.tables,
    }
    for name, tables in pages.items():
        page = ROOT / name
        assert summary.write_into(page, tables(ours)) == page.read_text(), name


def test_the_page_of_results_has_every_figure_with_its_caption(monkeypatch):
    """Figures are drawn for their captions alone: to save them takes most of the time."""
    for module in (plots, structure):
        monkeypatch.setattr(module, "save", lambda figure, path: plots.plt.close(figure))
    monkeypatch.setattr(grids, "save_grid", lambda *_: None)
    ours, nowhere = collect([ROOT / "checkpoints"]), Path("not-saved")
    captions = {
        "structure.svg": structure.structure(nowhere),
        "angles.svg": plots.angles(ours, nowhere),
        "properties.svg": plots.properties(ours, nowhere),
        "leakage.svg": plots.leakage(ours, nowhere),
    }
    for name, shown in grids.grids(ours).items():
        captions[f"reconstructions-{name}.png"] = grids.reconstructions(shown, nowhere)
    page = " ".join((ROOT / "docs" / "results.md").read_text().split())
    for name, caption in captions.items():
        assert (ROOT / "assets" / name).is_file()
        assert f"](../assets/{name}) {caption}" in page
    drawn = {path.name for path in (ROOT / "assets").glob("reconstructions-*.png")}
    assert drawn <= captions.keys()  # none is left of rows that went


def test_the_notebook_holds_no_outputs():
    """Its tables are made of the rows, its figures are files in assets/."""
    cells = json.loads((ROOT / "results.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert not [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None]
    assert not [cell for cell in cells if cell["metadata"]]  # such as when a cell was run


@pytest.mark.slow
def test_published_networks_reach_their_rows():
    """Every network whose data are at hand, tested again: within 0.05 points of its row, and for a
    network that draws keys and decoys within four standard errors more, since early rows drew them
    from other streams. CIFAR-10 (JPEG) is looked for where CIFAR10_JPEG says."""
    tested = []
    for name in publish.read_manifest(ROOT / "checkpoints"):
        folder = ROOT / "checkpoints" / name
        if not (folder / "model.safetensors").is_file():
            continue
        (row,) = [r for r in results.read_rows(folder / "results.jsonl") if r["name"] == "task"]
        config = from_dict(TrainConfig, row["config"])
        place = os.environ.get("CIFAR10_JPEG") if config.data.dataset == "folder" else None
        try:
            device = torch.device("cpu")
            net, dataset = app.open_run(folder, Path(place) if place else None, device)
        except InputError:
            continue  # the data are not here
        again = evaluate(net, dataset.test, device, draws=config.draws, seed=config.seed)
        published = row["metrics"]["error"]
        spread = statistics.stdev(published["draws"]) * math.sqrt(2 / config.draws)
        assert abs(again["error"] - published["value"]) < 5e-4 + 4 * spread, name
        tested.append(name)
    assert tested


def page_and_rows(*runs):
    """The write-up on one line, and the metrics of published runs by their rows' names."""
    page = " ".join((ROOT / "docs" / "beyond.md").read_text().split())
    files = (ROOT / "checkpoints" / run / "results.jsonl" for run in runs)
    return page, [{row["name"]: row["metrics"] for row in results.read_rows(f)} for f in files]


def fair_numbers(run, name, measure):
    """A published row's numbers with the interval that tables show."""
    rows = results.read_rows(ROOT / "checkpoints" / run / "results.jsonl")
    return ranking.fair({row["name"]: row for row in rows}[name], measure)


def test_the_write_up_says_what_the_rows_of_packed_groups_say():
    packed = ("thin4/packed-8", "thin4/packed-32", "thin4/packed-128", "thin1/packed-64")
    runs = (*(f"beyond/{run}" for run in packed), "digits-lenet/packed-8")
    page, (eight, many, most, full, digits) = page_and_rows(*runs)
    found, ica = (eight[f"angle {name}"]["angle_error"] for name in ("dss", "ica"))
    assert f"to {found['value']:.2f} rad where ICA stops at {ica['value']:.2f}" in page
    shown = eight["inversion dss"]["psnr"]
    assert f"images {shown['value'] - shown['floor']:.1f} dB above the blind set" in page
    image = digits["inversion optimised with key"]["psnr"]
    assert f"it is {digits['angle dss']['angle_error']['value']:.2f} rad" in page
    assert f"ends at {image['value']:.1f} dB" in page
    assert f"nothing had been rotated ({image['control']:.1f})" in page
    _, (sixteen,) = page_and_rows("cifar10-resnet20-short/packed-16")
    large = {name: sixteen[f"angle {name}"]["angle_error"] for name in ("dss", "angle-regressor")}
    said = "apart to {value:.2f} rad of {chance:.2f}, where the regressor".format(**large["dss"])
    assert said in page
    assert f"finds nothing ({large['angle-regressor']['value']:.2f})" in page
    _, (long,) = page_and_rows("cifar10-resnet20/packed-8")
    image = long["inversion optimised with key"]["psnr"]
    said = f"gives eight away to {long['angle dss']['angle_error']['value']:.2f} rad, and"
    assert f"{said} optimising ends at {image['value']:.1f} dB" in page
    assert f"({image['control']:.1f} without a rotation)" in page
    apart, *angles = (rows["angle dss"]["angle_error"] for rows in (many, most, full))
    clear = many["inversion dss"]["psnr"]
    said = f"too: {apart['value']:.2f} rad of {apart['chance']:.2f}, and {{:.1f}} dB."
    assert said.format(clear["value"] - clear["floor"]) in page
    for angle, unit in zip(angles, (" rad", ""), strict=True):
        assert f"({angle['value']:.2f}{unit} of {angle['chance']:.2f})" in page
        assert angle["value"] > 0.95 * angle["chance"]  # next to nothing


def test_the_pages_say_what_the_rows_of_the_large_network_say():
    folder = ROOT / "checkpoints" / "cifar10-resnet20" / "complex"
    rows = {row["name"]: row for row in results.read_rows(folder / "results.jsonl")}
    _, angle = ranking.strongest(rows, "angle")
    _, image = ranking.strongest(rows, "inversion")
    readme, attacks = (
        " ".join((ROOT / name).read_text().split()) for name in ("README.md", "docs/attacks.md")
    )
    said = f"is found to {angle['value']:.2f} rad and its inputs to {image['value']:.1f} dB "
    assert f"{said}({image['control']:.1f} dB without rotation)" in readme
    made = [row for row in rows.values() if row.get("family") == "inversion"]
    assert {row["device"] for row in made} == {"NVIDIA H100 80GB HBM3"}
    # The worst case is no attack of its own: a row of the old rule copies another's seconds.
    minutes = sum(row["seconds"] for row in made if row["name"] != worst.NAME) / 60
    assert f"the inversions of the rotated ResNet-20 took {minutes:.0f} minutes" in attacks


@pytest.mark.parametrize(
    ("family", "gamma"), [("fashion-lenet", "noisy γ=0.5"), ("cifar10-lenet", "noisy γ=1")]
)
def test_the_readme_says_what_the_rows_of_noise_say(family, gamma):
    page = " ".join((ROOT / "README.md").read_text().split())
    ours = collect([ROOT / "checkpoints" / family])
    ((cohort,),) = cohorts(ours).values()
    said = []
    for label in (gamma, "complex d=2 decoy"):
        errors = [rows["task"]["metrics"]["error"]["value"] for rows in cohort.own[label].rows]
        _, leak = ranking.strongest(cohort.own[label].attacked, "inversion")
        said += [100 * sum(errors) / len(errors), leak["value"]]
    noise, reached, rotated, further = said
    said = f"leaves {noise:.1f} % error and lets the strongest attack reach {reached:.1f} dB; "
    said += f"the rotation leaves {rotated:.1f} % and lets it reach {further:.1f} dB"
    assert said in page
    assert noise < rotated
    assert reached < further


@pytest.mark.parametrize("family", ["cifar10-lenet", "fashion-lenet"])
def test_the_readme_says_what_the_rows_without_critic_say(family):
    page = " ".join((ROOT / "README.md").read_text().split())
    said = []
    for name in ("complex", "no-critic"):
        folder = ROOT / "checkpoints" / family / name
        rows = {row["name"]: row for row in results.read_rows(folder / "results.jsonl")}
        _, angle = ranking.strongest(rows, "angle")
        _, image = ranking.strongest(rows, "inversion")
        error = 100 * rows["task"]["metrics"]["error"]["value"]
        said.append((angle["value"], image["value"], error))
    angles, images, errors = zip(*said, strict=True)
    wanted = (
        "angles to {:.3f} and {:.3f} rad, inputs to {:.1f} and {:.1f} dB, at {:.1f} and {:.1f} %"
    )
    assert wanted.format(*angles, *images, *errors) in page
    # What "changes nothing" may mean: neither key nor image is better hidden with the critic.
    assert angles[0] < 1.5 * angles[1]
    assert images[0] > images[1] - 1


def test_the_pages_say_what_the_rows_of_one_release_and_of_the_mean_say():
    readme = " ".join((ROOT / "README.md").read_text().split())
    rows = of_attacked_run(ROOT / "checkpoints" / "fashion-lenet" / "complex")
    found = rows["release"]["metrics"]
    assert f"of {rows['release']['images']:,} Fashion-MNIST queries every direction" in readme
    assert found["share"]["value"] == 1 and found["angle_error"]["high"] < 1e-6
    page = " ".join((ROOT / "docs" / "attacks.md").read_text().split())
    rows = of_attacked_run(ROOT / "checkpoints" / "digits-lenet" / "complex")
    mean, regressor = (
        rows[f"angle {name}"]["metrics"]["angle_error"]["value"]
        for name in ("mean", "angle-regressor")
    )
    said = f"finds θ to {mean:.3f} rad, where the trained regressor ends at {regressor:.3f}."
    assert said in page
    fashion, cifar = (
        of_attacked_run(ROOT / "checkpoints" / run)["angle mean"]["metrics"]["angle_error"]["value"]
        for run in ("fashion-lenet/complex", "cifar10-resnet20/complex")
    )
    said = f"Fashion-MNIST's LeNet it finds it to {fashion:.2f} rad, on CIFAR-10's ResNet-20 to"
    assert f"{said} {cifar:.2f}." in page


def test_the_readme_says_what_the_rows_of_a_hidden_property_say():
    page = " ".join((ROOT / "README.md").read_text().split())
    folder = ROOT / "checkpoints" / "cifar10-resnet20-kinds" / "complex"
    rows = {row["name"]: row for row in results.read_rows(folder / "results.jsonl")}
    _, error = ranking.strongest(rows, "property")
    shares = (100 * error[key] for key in ("value", "control", "given_label"))
    said = "with {:.1f} % error behind the rotation, {:.1f} % without it, and {:.1f} % by whoever"
    assert said.format(*shares) in page
    assert verdicts.decide("property", rows)[0] == verdicts.FAILS
    config = rows["task"]["config"]
    data, epochs = config["data"], config["epochs"]
    assert f"({data['limit_train']:,} training images, {epochs} epochs)" in page


def test_the_write_up_says_what_the_rows_of_images_sent_again_say():
    sent = ("thin4/packed-8", "thin4/packed-32", "thin4/packed-128", "thin1/packed-64")
    runs = (*sent, "thin1/packed-64-private")
    page, found = page_and_rows(*(f"beyond/{run}" for run in runs))
    again = [rows["intersection"]["angle_error"] for rows in found]
    once = [rows["angle dss"]["angle_error"] for rows in found]
    assert [numbers["releases"] for numbers in again] == [4, 8, 8, 8, 8]
    # Exact, but for a sign that the judge takes wrongly: that moves the mean, and leaves one end.
    assert max(numbers["low"] for numbers in again[:3]) < 1e-6
    assert max(again[place]["value"] for place in (0, 2)) < 1e-6
    assert f"{again[1]['value']:.3f} rad in the mean" in page
    assert f"of 128 gave {once[2]['value']:.2f} rad of {once[2]['chance']:.2f}" in page
    said = f"to {again[3]['value']:.2f} rad of {again[3]['chance']:.2f}, where one gave"
    assert f"{said} {once[3]['value']:.2f}" in page
    assert again[4]["low"] > again[4]["chance"]  # behind Gaussian decoys: nothing


def test_the_pages_say_what_the_rows_say_about_fixed_matrices():
    victims = ("cifar10-lenet", "fashion-lenet", "cifar10-resnet20")
    page, found = page_and_rows(*(f"{victim}/complex" for victim in victims))
    lenet, fashion, resnet = (
        [100 * error["value"] for error in rows["linearity"].values()] for rows in found
    )
    _, controls = page_and_rows(*(f"{victim}/local" for victim in victims))
    weak, weaker, deep = (100 * rows["task"]["error"]["value"] for rows in controls)
    assert f"LeNet on CIFAR-10 is at {lenet[0]:.1f} % error, and at {lenet[2]:.1f} %" in page
    assert f"four fifths of what it keeps over `local` ({weak:.1f} %) are linear" in page
    assert (weak - lenet[2]) / (weak - lenet[0]) == pytest.approx(0.8, abs=0.05)
    counted = dissect(NetConfig(arch="lenet", kind="additional"))
    numbers_in_matrix = int(10 * counted.released)
    assert (
        f"matrix has {numbers_in_matrix:,} numbers, under a hundredth of the products that the"
        in page
    )
    assert numbers_in_matrix < counted.flops["encoder"] / 2 / 100
    assert fashion[2] == pytest.approx(weaker, abs=0.2)
    assert f"query: {resnet[0]:.1f} % with its own, {resnet[2]:.1f} % without" in page
    assert f"was trained so, is at {deep:.1f} %" in page
    front = " ".join((ROOT / "README.md").read_text().split())
    assert f"{resnet[0]:.1f} % error instead of {resnet[2]:.1f}" in front
    assert f"linear map trained in their place reaches {deep:.1f}" in front
    assert f"for {lenet[2] - lenet[0]:.1f} points of error ({lenet[2]:.1f} instead of" in front
    packed = [f"thin4/packed-{dim}" for dim in (8, 32, 128)] + ["thin4/kinds-packed-8"]
    _, packed = page_and_rows(*(f"beyond/{run}" for run in [*packed, "thin1/packed-64"]))
    _, (blocks,) = page_and_rows("cifar10-resnet20/packed-8")
    own, _, mean = (100 * error["value"] for error in blocks["linearity"].values())
    said = f"is at {own:.1f} %, one fixed matrix in the place of its four blocks at {mean:.1f}"
    assert said in page
    runs = ("thin4/decoy-2", "thin4/decoy-2-mixing", "full/thin4/packed-8-mixing")
    _, deeper = page_and_rows(*(f"beyond/{run}" for run in runs))
    gains = [
        100 * (errors["error_of_the_mean_matrix"]["value"] - errors["error"]["value"])
        for errors in (rows["linearity"] for rows in deeper)
    ]
    assert "worth {:.1f} points, mixing gates {:.1f}. With eight".format(*gains) in page
    assert f"the longest trained, are worth {gains[2]:.1f} points" in page
    assert f"ResNet-20's is at {own:.1f} % and the matrix at {mean:.1f}" in front
    for rows in [*packed, blocks]:
        own, others, mean = (error["value"] for error in rows["linearity"].values())
        assert others - own < 0.0035
        assert mean - own < 0.0035


def test_the_write_up_says_what_the_rows_of_linear_paths_say():
    linear = [
        f"thin4-linear/{kind}"
        for kind in ("decoy-2", "packed-8", "decoy-2-mixing", "local", "additional")
    ]
    page, found = page_and_rows(*(f"beyond/{run}" for run in linear))
    decoy, packed, mixing, local, beside = (100 * rows["task"]["error"]["value"] for rows in found)
    without, other, best = (
        [100 * rows["task"]["metrics"]["error"]["value"] for rows in runs.rows]
        for runs in seeds_of_thin4("complex d=2 decoy mixing gates", "local", "additional")
    )
    said = f"is at {local:.1f} and, over three other initialisations, at "
    assert f"{said}{mean_std(other, 1)} %" in page
    assert f"{decoy:.1f} % error at d = 2 and {packed:.1f} % at d = 8" in page
    said = f"{mean_std(without, 1)} % without that map and {mixing:.1f} % with it"
    assert said in page
    mean = [100 * r["linearity"]["error_of_the_mean_matrix"]["value"] for r in found[:3]]
    assert "these are at {:.1f}, {:.1f} and {:.1f} %".format(*mean) in page
    gains = [m - own for m, own in zip(mean, (decoy, packed, mixing), strict=True)]
    assert f"is {gains[0]:.1f} points, none at d = 8, and {gains[2]:.1f} with mixing" in page
    assert abs(gains[1]) < 0.1
    worth = statistics.mean(other) - statistics.mean(best)
    assert f"worth {local - beside:.1f} beside such a map and {worth:.1f} without" in page


def seeds_of_thin4(*labels):
    """Published runs of `thin4` after five epochs, by what is released."""
    ours = collect([ROOT / "checkpoints" / "beyond" / "thin4"])
    plain = [r for r in ours if r.config.net.label in labels and r.config.data.groups is None]
    assert all(sorted(r.seeds) == [0, 1, 2] for r in plain)
    by_label = {runs.config.net.label: runs for runs in plain}
    return [by_label[label] for label in labels]


def test_the_write_up_says_what_the_rows_of_longer_training_say():
    def full(run):
        file = ROOT / "checkpoints" / "beyond" / "full" / run / "results.jsonl"
        return {row["name"]: row for row in results.read_rows(file)}

    page = " ".join((ROOT / "docs" / "beyond.md").read_text().split())
    plain, local, packed, noise = (
        full(f"thin4/{name}") for name in ("additional", "local", "packed-8-mixing", "noisy-1.0")
    )
    errors = [rows["task"]["metrics"]["error"] for rows in (plain, local, packed, noise)]
    best, control, rotated, noisy = (100 * error["value"] for error in errors)
    matrix = 100 * packed["linearity"]["metrics"]["error_of_the_mean_matrix"]["value"]
    leaks = []
    for rows in (packed, noise):
        _, psnr = ranking.strongest(rows, "inversion")
        leaks.append(psnr["value"] - psnr["floor"])
    said = f"is at {best:.1f} % error, `local` at {control:.1f}, eight packed queries with mixing "
    said += f"gates at {rotated:.1f} % ({matrix:.1f} with one fixed matrix) and {leaks[0]:.1f} dB; "
    said += f"noise of the features' own strength is at {noisy:.1f} % and {leaks[1]:.1f} dB"
    assert said in page
    shares = [verdicts.kept([errors[0]], [errors[1]], [error]) for error in errors[2:]]
    assert all(low < 0 for _, low, _ in shares)  # none is shown to be better than the linear map
    alone, crowd = full("thin1/local"), full("thin1/packed-64")
    assert (
        f"queries is at {100 * crowd['task']['metrics']['error']['value']:.1f} %, `local` at "
        f"{100 * alone['task']['metrics']['error']['value']:.1f}, and" in page
    )
    angle = crowd["angle dss"]["metrics"]["angle_error"]
    assert f"directions to {angle['value']:.2f} rad of {angle['chance']:.2f}, as before" in page
    assert angle["value"] > 0.95 * angle["chance"]


def test_the_write_up_says_what_the_rows_of_trained_opponents_and_private_groups_say():
    kinds = (
        "thin4/decoder",
        "thin4/noisy-1.0",
        "thin4/packed-8-decoder",
        "thin1/packed-64-private",
    )
    kinds += ("thin1/packed-64", "thin1/local")
    page, found = page_and_rows(*(f"beyond/{kind}" for kind in kinds))
    errors = [100 * rows["task"]["error"]["value"] for rows in found]
    leaks = []
    for rows in found[:4]:
        psnr = [m["psnr"] for name, m in rows.items() if "psnr" in m and name != worst.NAME]
        leaks.append(max(m["value"] - m["floor"] for m in psnr))
    assert f"is at {errors[0]:.1f} % error and {leaks[0]:.1f} dB" in page
    assert f"noise ({errors[1]:.1f} % and {leaks[1]:.1f} dB)" in page
    assert f"{errors[2]:.1f} %, and the strongest attack ends {leaks[2]:.1f} dB" in page
    angle = found[2]["angle dss"]["angle_error"]["value"]
    assert f"the directions to {angle:.2f} rad" in page
    assert f"at {errors[3]:.1f} % error, where the same queries without decoys" in page
    assert f"decoys are at {errors[4]:.1f} and `local` is at {errors[5]:.1f};" in page
    blind = found[3]["angle dss"]["angle_error"]
    assert f"({blind['value']:.2f} rad of {blind['chance']:.2f})" in page
    assert f", dec(x) {leaks[3]:.1f} dB" in page


def test_the_write_up_says_what_the_rows_of_gaussianity_say():
    page, (eight, lenet) = page_and_rows("beyond/thin4/packed-8", "cifar10-lenet/complex")
    before, after = (
        eight["gaussianity"][f"kurtosis_{what}"]["value"] for what in ("features", "released")
    )
    assert f"`thin4` at d = 8 have {before:.2f}, and {after:.2f} after" in page
    assert f"independent ones would keep {gaussianity.unshared(before, 8):.2f}" in page
    found = lenet["angle ica"]["angle_error"]["value"]
    kurtosis = lenet["gaussianity"]["kurtosis_features"]["value"]
    assert f"`ica` finds to {found:.3f} rad, features have {kurtosis:.2f}." in page


def test_the_write_up_says_what_the_rows_of_hidden_properties_say():
    kinds = ("decoy-2", "packed-8", "local", "additional")
    page, found = page_and_rows(*(f"beyond/thin4/kinds-{kind}" for kind in kinds))
    decoys, packed, local, plain = found

    def learned(rows):
        errors = [m["error"] for name, m in rows.items() if name.startswith("property")]
        best = min(errors, key=lambda error: error["value"])
        return 1 - best["value"], 1 - best["given_label"], 1 - best["control"]

    right, alone, without = learned(decoys)
    assert f"({100 * right:.0f} % right, {100 * alone:.0f} % from the answer alone)" in page
    assert right == pytest.approx(without, abs=0.01)
    separated = fair_numbers("beyond/thin4/kinds-packed-8", "property dss", "error")
    del packed["property dss"]
    assert (learned(packed)[0] - alone) / (right - alone) == pytest.approx(0.5, abs=0.05)
    assert f"what ICA separates ({100 * learned(packed)[0]:.0f} %)" in page
    shares = (100 * (1 - separated[key]) for key in ("value", "high", "low", "control"))
    said = "`standard`: {:.0f} % right [{:.0f}, {:.0f}], {:.0f} % without rotation"
    assert said.format(*shares) in page
    errors = [100 * rows["task"]["error"]["value"] for rows in (local, plain)]
    assert "({:.1f} and {:.1f} % error)".format(*errors) in page
