"""What the victim's user sends and keeps: batches of whole groups, draws, clusters, intervals."""

import csv
import dataclasses
import itertools

import pytest
import torch
from test_attacks import make_attacker, make_user

import complexnn
from complexnn import metrics
from complexnn.attacks import evaluation, target, trial, worst
from complexnn.attacks.fitting import Knowledge, together, whole_groups
from complexnn.attacks.user import Truth
from complexnn.commands import app
from complexnn.commands import attack as attack_command
from complexnn.config import DataConfig, InputError
from complexnn.config_attack import AttackConfig
from complexnn.data import datasets
from complexnn.data.images import Batch
from complexnn.networks.key import Key, Release
from complexnn.runs import results

PACKED = {"dim": 8, "group": "packed"}


@pytest.mark.parametrize("dim", [1, 2, 3, 8, 128])
def test_batches_hold_whole_groups(dim):
    for count, size in itertools.product((dim, 2 * dim, 5 * dim + dim // 2, 1000), (4, 64, 256)):
        if count < dim:
            continue
        chunks = whole_groups(count, size, dim)
        assert torch.equal(torch.cat(chunks), torch.arange(count))
        assert all(len(chunk) % dim == 0 for chunk in chunks[:-1])
        assert len(chunks[-1]) % dim == count % dim
        assert min(map(len, chunks)) >= min(2 * dim, count // dim * dim)  # a neighbour's key
        assert max(map(len, chunks)) < max(size, 2 * dim) + 2 * dim


@pytest.mark.parametrize("settings", [PACKED, {"dim": 8}, {"dim": 64, "group": "packed"}])
def test_attackers_batches_follow_the_groups(tmp_path, settings):
    attacker, _ = make_attacker(tmp_path, steps=2, **settings)
    known, dim = attacker.knowledge, settings["dim"]
    rng = torch.Generator().manual_seed(0)
    for size in (4, 100, 256):
        batches = [len(b.images) for b in known.shuffled(size, rng)]
        assert batches
        assert all(count % dim == 0 and count >= min(size, dim) for count in batches)
        assert len(next(known.endless(size, rng)).batch.images) % dim == 0
        held_out = [len(seen.batch.images) for seen in known.held_out(size, limit=64)]
        assert sum(held_out) == max(64, dim)
        assert all(count % dim == 0 for count in held_out)
    if settings == PACKED:
        assert attacker.key_attacks.best in attacker.key_attacks


@pytest.mark.parametrize(
    ("settings", "share"),
    [({"kind": "additional"}, 1), ({"counterparts": "batch"}, 1), ({}, 2), (PACKED, 8)],
)
def test_every_draw_sends_every_image_once(tmp_path, settings, share):
    attacker, whole = make_attacker(tmp_path, **settings)
    user, rows = make_user(attacker, whole), []
    for draw in range(2):
        sent = [truth for _, truth in user.sends(draw, 360)]
        index = torch.cat([truth.index for truth in sent])
        assert torch.equal(index.sort().values, torch.arange(360))
        images = torch.cat([truth.batch.images for truth in sent])
        assert torch.equal((images * 255).round().byte(), whole.test.pixels[index])
        rows.append((index, torch.cat([truth.clusters for truth in sent])))
    (first, groups), (second, others) = rows
    assert torch.equal(first, torch.arange(360))
    for clusters in (groups, others):  # of closed blocks and packed groups, all members
        assert (clusters.bincount()[clusters] == share).all()
    if attacker.victim.queries == 1:
        assert torch.equal(second, first)
        assert torch.equal(groups, first) == (share == 1)
        return
    # Who shares a key changes, not the key alone; and clusters are who shares one.
    both = torch.zeros(360, 360)
    for index, cluster in rows:
        both[index.unsqueeze(1), index] += (cluster.unsqueeze(1) == cluster).float()
    assert both.sum() == 2 * 360 * 8
    assert (both == 2).sum() - 360 < 360 * 8 / 8  # 7 of 359 by chance
    assert len(groups.unique()) == len(others.unique()) == 45


@pytest.mark.parametrize("settings", [{"dim": 3}, PACKED])
def test_a_draw_as_a_whole_is_its_batches(tmp_path, settings):
    attacker, whole = make_attacker(tmp_path, **settings)
    user = make_user(attacker, whole)
    batches = list(user.sends(1, 360, again="other co-members", times=2))
    assert len(batches) > 1
    seen, truth = user.sends_whole(1, 360, again="other co-members", times=2)
    assert torch.equal(seen.released, torch.cat([s.released for s, _ in batches]))
    assert torch.equal(truth.images, torch.cat([t.images for _, t in batches]))
    assert torch.equal(truth.rotated_back, torch.cat([t.rotated_back for _, t in batches]))
    assert torch.equal(truth.index, torch.cat([t.index for _, t in batches]))
    assert truth.key.queries == 360
    (again,) = seen.again
    there = torch.cat([s.again[0].released[s.again[0].place] for s, _ in batches])
    assert torch.equal(again.released[again.place], there)


@pytest.mark.parametrize(
    ("members", "clusters"),
    [
        ([[0, 2], [1, 3], [2, 0], [3, 1]], [7, 5, 7, 5]),  # closed blocks
        ([[0, 1], [1, 2], [2, 3], [3, 0]], [9, 5, 7, 6]),  # overlapping groups
        ([[0, 1], [1, 0], [2, 3], [3, 0]], [9, 5, 7, 6]),  # among which two happen to be equal
    ],
)
def test_queries_whose_groups_have_the_same_members_form_a_cluster(members, clusters):
    images = torch.zeros(4, 1, 2, 2)
    key = Key(torch.eye(2).expand(4, 2, 2), "decoy", torch.tensor(members), 4)
    index = torch.tensor([9, 5, 7, 6])
    truth = Truth(Batch(images, index, index), Release(images, key, None), index)
    assert truth.clusters.tolist() == clusters


def test_images_that_share_a_key_count_as_one():
    """Of values that are equal within groups, the interval is that of the groups' values."""
    each = torch.rand(40, dtype=torch.float64)
    groups = torch.arange(40).repeat_interleave(8)
    order = torch.randperm(320)
    values, groups = each.repeat_interleave(8)[order], groups[order]
    over_groups = trial.interval("rmse", values.unsqueeze(0), groups.unsqueeze(0))
    alone = metrics.mean_interval(each)
    over_images = metrics.mean_interval(values)
    assert over_groups == pytest.approx(alone, abs=0.01)
    assert over_groups[1] - over_groups[0] > 2 * (over_images[1] - over_images[0])


def test_more_draws_of_groups_do_not_narrow_the_interval():
    values = torch.rand(40).repeat_interleave(8)
    groups = torch.arange(40).repeat_interleave(8)
    one = trial.interval("rmse", values.expand(1, -1), groups.expand(1, -1))
    five = trial.interval("rmse", values.expand(5, -1), groups.expand(5, -1))
    assert five == pytest.approx(one)


def test_what_is_measured_lands_at_its_image():
    found = trial.Columns(2, 4)
    for draw, index in ((0, [0, 1]), (0, [2, 3]), (1, [3, 0]), (1, [2, 1])):
        index = torch.tensor(index)
        found.note(draw, index, {"rmse": 10.0 * draw + index, "logits": index.expand(2, 2).T})
    assert found.columns["rmse"].tolist() == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert found.columns["logits"][1].tolist() == [[i, i] for i in range(4)]


def test_attacks_are_judged_on_whole_groups_and_on_sixteen(tmp_path):
    attacker, _ = make_attacker(tmp_path, budget="standard", **PACKED)
    net, config = attacker.victim, attacker.config
    assert target.image_count(config, net, 10_000) == 2000
    # 16 groups, where 100 would be 12.
    assert target.image_count(config, net, 10_000, slow=True) == 128
    assert target.image_count(config, net, 77) == 72
    assert together(net) == 8


def attack(*words):
    return app.run(attack_command.main, [*map(str, words), "--device", "cpu", "--steps", "2"])


@pytest.mark.parametrize(
    ("flags", "what", "batch"),
    [
        ({"dim": 8, "group": "packed"}, ["angle", "--only", "angle-regressor"], 4),
        ({"dim": 128, "group": "packed"}, ["span"], 256),
    ],
)
def test_large_groups_and_small_batches_are_attacked(tmp_path, trained_run, flags, what, batch):
    victim = trained_run(tmp_path / "run", **flags)
    settings = ("--victim", victim, "--budget", "quick", "--draws", 1, "--batch-size", batch)
    assert attack(*what, *settings) == 0
    (row,) = (r for r in results.read_rows(victim / "results.jsonl") if r["name"] != "task")
    assert row["images"] % flags["dim"] == 0
    assert any("groups judged" in flag for flag in row["flags"]) == (flags["dim"] == 128)


def test_tables_name_an_image_by_its_place_in_the_test_set(tmp_path, trained_run):
    """A victim is judged on whole groups of it, a control on all: places in either are others."""
    victim = trained_run(tmp_path / "run", dim=7, group="packed")
    assert attack("span", "--victim", victim, "--draws", 1) == 0
    net, dataset = app.open_run(victim, None, torch.device("cpu"))
    config = AttackConfig("span", victim=victim)
    judged = target.chosen_images(config, net.config, dataset).tolist()
    assert len(judged) < len(dataset.test)
    table = worst.table_path(victim, "span")
    with table.open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["image"]) for line in lines] == judged
    assert {int(float(line["group"])) for line in lines} <= set(judged)


def test_groups_that_no_data_could_fill_are_refused(tmp_path):
    attacker, whole = make_attacker(tmp_path)
    for dim, refused in ((140, None), (170, "validation"), (200, "400 test")):
        net = dataclasses.replace(attacker.victim, dim=dim)
        few = torch.arange(dim - (refused == "validation"))
        images = {"validation": whole.train.subset(few)}
        images["test"] = whole.test.subset(torch.arange(340))
        data = dataclasses.replace(whole, **images)
        if refused is None:
            evaluation.check(attacker.config, net, data, (data.train, data.validation))
            continue
        with pytest.raises(InputError, match=refused):
            evaluation.check(attacker.config, net, data, (data.train, data.validation))


def test_nothing_is_written_for_an_attack_that_is_refused(tmp_path, trained_run):
    victim = trained_run(tmp_path / "run", kind="additional")
    for what in (["angle"], ["span", "--only", "magic"]):
        assert attack(*what, "--victim", victim, "--output-dir", tmp_path / "no") == 2
        assert not (tmp_path / "no").exists()


def test_copies_among_the_attackers_own_images_do_not_end_a_training():
    images = datasets.load(DataConfig()).train.subset(torch.zeros(8, dtype=torch.long))
    net = complexnn.build("lenet", num_classes=10, in_channels=1, image_size=(8, 8),
                          mean=(0.3,), std=(0.4,)).eval()  # fmt: skip
    know = Knowledge(net, images, images, torch.device("cpu"))
    (batch,) = know.batches(images, 8)
    assert len(know.observe(batch, torch.Generator().manual_seed(0)).released) == 8


def test_rows_of_an_earlier_version_of_an_attack_are_made_again(tmp_path, trained_run):
    victim = trained_run(tmp_path / "run")
    path = victim / "results.jsonl"
    for _ in range(2):
        assert attack("span", "--victim", victim, "--draws", 1) == 0
    names = [row["name"] for row in results.read_rows(path)]
    assert names == ["task", "span"]
    earlier = path.read_text().replace('"version": 2, ', "")
    assert earlier != path.read_text()
    path.write_text(earlier)
    assert attack("span", "--victim", victim, "--draws", 1) == 0
    assert [row.get("version") for row in results.read_rows(path)] == [None, None, 2]
