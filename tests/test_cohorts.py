"""Which runs are one network, which share a cohort, and what both cuts of a ResNet share."""

from typing import get_args

import pytest
import torch
from made_rows import CIFAR, angle, hidden, inversion, numbers, rows_of

import complexnn
from complexnn.config import DataConfig, Kind
from complexnn.measurements import gaussianity, linearity
from complexnn.report import attack_tables, beyond, summary, verdict_tables
from complexnn.report.cohorts import SHARED, cohorts
from complexnn.report.figures import grids
from complexnn.report.notes import Abbreviations
from complexnn.report.rows import collect

NET = {"arch": "resnet20"}
ABOUT = {"train": 45_000, "validation": 5_000, "test": 10_000}


def cut(kind, variant):
    torch.manual_seed(3)
    net = complexnn.build("resnet20", variant=variant, kind=kind, image_size=8)
    for module in net.modules():  # statistics that matter
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
    return net.double().eval()


def same_function(kind):
    """Whether the cuts compute the same once one has the other's numbers in order."""
    alpha, beta = cut(kind, "alpha"), cut(kind, "beta")
    mine, theirs = (list(net.state_dict().values()) for net in (beta, alpha))
    if [x.shape for x in mine] != [x.shape for x in theirs]:
        return False
    names = beta.state_dict().keys()
    beta.load_state_dict(dict(zip(names, theirs, strict=True)))
    images = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        found = [net(images, generator=torch.Generator().manual_seed(1)) for net in (alpha, beta)]
    return torch.allclose(*found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_both_cuts_of_a_resnet_compute_the_same_where_lines_share_them(kind):
    assert same_function(kind) == (kind in SHARED)


@pytest.mark.parametrize("kind", SHARED)
def test_what_both_cuts_release_is_the_same(kind):
    """So an attack on the released feature is one attack."""
    alpha, beta = cut(kind, "alpha"), cut(kind, "beta")
    beta.encoder.load_state_dict(alpha.encoder.state_dict())  # the same names, too
    images = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    seen = [n.encode(images, generator=torch.Generator().manual_seed(1))[0] for n in (alpha, beta)]
    assert torch.equal(*seen)


def test_seeds_half_precision_devices_and_places_are_one_network(tmp_path):
    rows_of(tmp_path / "a", net=NET, error=0.1)
    rows_of(tmp_path / "b", net=NET, error=0.2, seed=1, save_as="fp16", device="a GPU", workers=0)
    elsewhere = DataConfig(dataset="cifar10", data_dir=tmp_path)
    rows_of(tmp_path / "c", net=NET, error=0.3, seed=2, data=elsewhere, compile=True, draws=1)
    (runs,) = collect([tmp_path])
    assert runs.seeds == [0, 1, 2]
    assert runs.task_error(1) == "20.0 ± 10.0"


@pytest.mark.parametrize("attacked", ["whole", "half"])
def test_of_two_runs_with_one_seed_the_attacked_one_counts(tmp_path, attacked):
    """Such as a network and its copy in half precision."""
    for name, stored in (("whole", "fp32"), ("half", "fp16")):
        rows_of(tmp_path / name, save_as=stored, attacks=[angle(0.1)] if name == attacked else ())
    (runs,) = collect([tmp_path])
    assert (runs.seeds, runs.folders) == ([0], [tmp_path / attacked])
    assert [numbers["value"] for _, numbers in runs.strongest("angle")] == [0.1]


@pytest.mark.parametrize(
    "other",
    [{"epochs": 5}, {"lr": 0.1}, {"precision": "bf16"}, {"critic_every": 4}, {"batch_size": 64},
     {"adversarial_weight": 0.5},
     {"data": DataConfig(dataset="cifar10", limit_train=500)},
     {"data": DataConfig(dataset="cifar10", channels=1)}, {"net": NET | {"counterparts": "batch"}},
     {"net": NET | {"variant": "beta"}}],
    ids=str,
)  # fmt: skip
def test_what_changes_a_network_makes_another_one(tmp_path, other):
    rows_of(tmp_path / "a", net=NET)
    rows_of(tmp_path / "b", **{"net": NET} | other)
    every = collect([tmp_path])
    assert [runs.seeds for runs in every] == [[0], [0]]
    apart = [cohort for several in cohorts(every).values() for cohort in several]
    assert sorted(cohort.own["complex d=2 decoy"].number for cohort in apart) == [1, 2]
    short = Abbreviations()
    assert len({(cohort.network, short.budget(cohort)) for cohort in apart}) == 2


def four_kinds(folder):
    for number, kind in enumerate(("original", "additional", "local")):
        rows_of(folder / kind, net=NET | {"kind": kind}, error=(0.1, 0.1, 0.3)[number])
    for way, error in (("blocks", 0.12), ("batch", 0.2)):
        rows_of(folder / way, net=NET | {"counterparts": way}, error=error,
                attacks=[angle(error - 0.02), inversion(0.1, 20.0)])  # fmt: skip


def test_networks_of_one_name_are_told_apart_in_every_table(tmp_path):
    """By the flags that today's defaults lack, and only where there is something to tell."""
    four_kinds(tmp_path)
    both = {runs.released for runs in collect([tmp_path])}
    assert both >= {"complex d=2 decoy", "complex d=2 decoy, --counterparts batch"}
    (alone,) = collect([tmp_path / "batch"])
    assert alone.released == "complex d=2 decoy"

    table = verdict_tables.by_claim(collect([tmp_path]))
    told = {(row[0], row[1]): row[4] for row in table.rows}
    for claim in ("accuracy is preserved", "the angle is hidden"):
        first, second = (told[claim, f"resnet20-alpha{way}"]
                         for way in ("", ", --counterparts batch"))  # fmt: skip
        assert first != second
    assert told["the angle is hidden", "resnet20-alpha"].startswith("0.100 rad")
    kinds = [row[1] for row in summary.main_table(collect([tmp_path])).rows]
    assert len(kinds) == len(set(kinds)) == 5
    kinds = [row[1] for row in beyond.trade_off_table(collect([tmp_path])).rows]
    assert sorted(kinds) == ["complex d=2 decoy", "complex d=2 decoy, --counterparts batch"]


@pytest.mark.parametrize(
    ("other", "told"),
    [({"lr": 0.1}, "--lr 0.1"), ({"critic_every": 4}, "--critic-every 4"),
     ({"adversarial_weight": 0.5}, "--adversarial-weight 0.5"),
     ({"about": ABOUT | {"source": "elsewhere"}}, "elsewhere"), ({"epochs": 5}, "5 epochs")],
)  # fmt: skip
def test_no_two_verdicts_have_the_same_name(tmp_path, other, told):
    settings = {"net": NET, "attacks": [angle(0.1)], "about": ABOUT}
    rows_of(tmp_path / "a", **settings)
    rows_of(tmp_path / "b", **settings | other)
    names = [row[1] for row in verdict_tables.by_claim(collect([tmp_path])).rows]
    assert len(set(names)) == 2
    assert f"resnet20-alpha, {told}" in names


def test_every_table_of_a_number_says_what_is_unofficial_about_its_data(tmp_path):
    """Each function that makes a table of runs."""
    settings = {"about": ABOUT | {"source": "half of it"}, "net": NET}
    measured = ("linearity", {name: numbers(0.2) for name in linearity.ERRORS})
    moments = {f"{measure}_{what}": numbers(1.0) for measure in ("kurtosis", "epps_pulley")
               for what in (*gaussianity.SHOWN, "gaussian")}  # fmt: skip
    attacks = [angle(0.1), inversion(0.1, 20.0), hidden(0.3), measured, ("gaussianity", moments)]
    for kind, error in (("original", 0.1), ("additional", 0.1), ("local", 0.3)):
        rows_of(tmp_path / kind, **settings | {"net": NET | {"kind": kind}}, error=error)
    rows_of(tmp_path / "complex", **settings, attacks=attacks)
    short = DataConfig(dataset="cifar10", limit_train=500)
    rows_of(tmp_path / "short", **settings, attacks=attacks, data=short)
    ours = collect([tmp_path])
    every = [*summary.front_page(ours), *beyond.beyond_page(ours), summary.short_table(ours)]
    every.append(attack_tables.side_by_side([tmp_path / "complex"]))
    assert len(every) == 8
    for table in every:
        assert table.rows
        assert "cifar10: half of it; trained on 45,000" in table.note, table.title


def test_the_grid_of_pictures_is_of_the_largest_budget(tmp_path):
    for epochs in (5, 100, 20):
        folder = tmp_path / str(epochs)
        rows_of(folder, net=NET, epochs=epochs)
        (folder / "examples").mkdir()
        (folder / "examples" / "inversion.safetensors").touch()
    (shown,) = grids.grids(collect([tmp_path])).values()
    assert [runs.config.epochs for runs in shown] == [100]


def test_a_cohort_holds_one_way_to_train_the_rotated_network(tmp_path):
    four_kinds(tmp_path)
    several = cohorts(collect([tmp_path]))["resnet20-alpha", "cifar10"]
    assert [cohort.way for cohort in several] == ["", "--counterparts batch"]
    for cohort, error in zip(several, (0.12, 0.2), strict=True):
        assert cohort.find("complex d=2 decoy").values("task", "error") == [error]
        assert cohort.find("local").values("task", "error") == [0.3]


def test_today_s_way_stands_first_though_another_one_was_tried_with_more_networks(tmp_path):
    """And so its verdict is the one that counts."""
    four_kinds(tmp_path)
    packed = {"counterparts": "batch", "group": "packed", "dim": 8}
    rows_of(tmp_path / "packed", net=NET | packed)
    several = cohorts(collect([tmp_path]))["resnet20-alpha", "cifar10"]
    assert [cohort.way for cohort in several] == ["", "--counterparts batch"]


def test_no_network_is_lost_beside_one_of_the_same_label(tmp_path):
    """Plain ones, too, whose defence has a weight that no label tells."""
    for weight in (5.0, 1.0):
        net = NET | {"kind": "additional", "defence": "nopeek"}
        rows_of(tmp_path / str(weight), net=net, nopeek_weight=weight)
    ((cohort,),) = (
        several for (network, _), several in cohorts(collect([tmp_path])).items()
        if network == "resnet20-alpha"
    )  # fmt: skip
    assert {label: runs.config.nopeek_weight for label, runs in cohort.own.items()} == {
        "additional + nopeek": 1.0, "additional + nopeek, --nopeek-weight 5.0": 5.0,
    }  # fmt: skip


def test_a_cut_without_runs_has_the_cohorts_of_the_other_one(tmp_path):
    rows_of(tmp_path / "a", net=NET | {"kind": "original"})
    rows_of(tmp_path / "b", net=NET)
    before = cohorts(collect([tmp_path]))
    (beta,) = before["resnet20-beta", "cifar10"]
    assert (list(beta.own), list(beta.twin)) == ([], ["original"])
    assert beta.mark(beta.find("original")) == " (α)"
    rows_of(tmp_path / "lenet", net={"arch": "lenet", "kind": "original"}, data=CIFAR)
    assert set(cohorts(collect([tmp_path]))) == {*before, ("lenet", "cifar10")}


def test_there_are_names_for_any_number_of_flags(tmp_path):
    for number in range(30):
        rows_of(tmp_path / str(number), batch_size=200 + number)
    short = Abbreviations()
    budgets = [short.budget(runs) for runs in collect([tmp_path])]
    assert len(set(budgets)) == 30
    assert budgets[25:28] == ["20 epochs, Z", "20 epochs, AA", "20 epochs, AB"]
    (note,) = short.notes([(budgets[26],)])
    assert note.startswith("Flags of train.py: AA: `--batch-size")
