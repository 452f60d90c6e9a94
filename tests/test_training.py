"""The objective, the loop, and what two runs with one seed have in common."""

import ast
import copy
import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import complexnn
from complexnn.config import DataConfig, InputError, NetConfig, TrainConfig
from complexnn.config_attack import AttackConfig
from complexnn.data import datasets
from complexnn.data.images import Batch, ImageSet
from complexnn.networks.critic import Critic
from complexnn.networks.key import Key, Release
from complexnn.rotation import functional as cF
from complexnn.runs import checkpoint
from complexnn.runs.devices import make_accelerator
from complexnn.speed import bench
from complexnn.training import checks, evaluation, loop, optimiser, terms

CPU = torch.device("cpu")


def config(**settings):
    net = NetConfig(
        arch="lenet", image_size=(8, 8), in_channels=1, mean=(0.3,), std=(0.4,),
        **settings.pop("net", {}),
    )  # fmt: skip
    return TrainConfig(net=net, epochs=2, batch_size=64, **settings)


def term_and_step(settings):
    torch.manual_seed(0)
    net = complexnn.build(settings.net).train()
    (term,) = terms.make_terms(settings, CPU)
    return net, term, one_step(net, torch.rand(16, 1, 8, 8))


def one_step(net, images, number=0):
    rng = torch.Generator().manual_seed(0)
    return terms.Step(number, images, net.release(images, generator=rng))


@pytest.mark.parametrize("constraint", ["gradient-penalty", "weight-clipping"])
@pytest.mark.parametrize("net", [{}, {"dim": 4}, {"dim": 4, "group": "packed"}])
def test_the_adversarial_term_reaches_the_encoder_and_only_it(net, constraint, rng):
    net, term, step = term_and_step(config(net=net, critic_constraint=constraint))
    before = [p.clone() for p in term.opponent.parameters()]
    gap = term.loss(step, rng)
    assert any(
        not torch.equal(a, b) for a, b in zip(before, term.opponent.parameters(), strict=True)
    ), "the critic did not learn"

    for parameter in term.opponent.parameters():
        parameter.grad = None
    gap.backward()
    silent = [n for n, p in net.encoder.named_parameters() if p.grad is None or not p.grad.any()]
    # The norm behind a 1x1 convolution shifts a and a' alike at first order, not exactly.
    assert not silent
    assert all(p.grad is None for p in net.processing.parameters())
    assert all(p.grad is None for p in term.opponent.parameters())


def test_switching_the_term_off_removes_it():
    assert terms.make_terms(config(adversarial_weight=0.0), CPU) == []
    assert terms.make_terms(config(net={"kind": "additional"}), CPU) == []


def test_every_nth_step_has_the_term(rng):
    _, term, step = term_and_step(config(critic_every=3))
    on = [term.loss(step._replace(number=n), rng) is not None for n in range(7)]
    assert on == [True, False, False, True, False, False, True]


def test_weight_clipping_clips(rng):
    settings = config(critic_constraint="weight-clipping", clip_value=0.02)
    _, term, step = term_and_step(settings)
    term.loss(step, rng)
    assert max(p.abs().max().item() for p in term.opponent.parameters()) <= 0.02 + 1e-9


def test_true_and_wrong_features_are_what_keys_would_show(rng):
    parts = torch.randn(6, 2, 3, 4, 4)
    shown = cF.rotate(parts, terms.views(6, 2, 1, 5, rng))
    assert shown.shape == (6, 6, 3, 4, 4)
    torch.testing.assert_close(shown[:, 0], parts[:, 0], atol=1e-6, rtol=0)
    for group, features in zip(parts, shown, strict=True):
        basis = group.flatten(1)
        for feature in features:  # in the plane of its own group's a and b, unit weights
            weights = torch.linalg.lstsq(basis.T, feature.flatten()).solution
            torch.testing.assert_close(weights.norm(), torch.tensor(1.0), atol=1e-4, rtol=0)
            torch.testing.assert_close(weights @ basis, feature.flatten(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("net", [{}, {"dim": 3, "group": "packed"}])
def test_the_terms_gradient_is_that_of_the_gap(net, rng):
    """Through the graph, from the critic as it was before its step."""
    _, term, step = term_and_step(config(net=net))
    parts = step.release.parts.detach().requires_grad_()
    release = step.release._replace(parts=parts)
    before = copy.deepcopy(term.opponent)
    value = term.loss(step._replace(release=release), rng)
    (fast,) = torch.autograd.grad(value, parts)
    queries = 3 if net else 1
    again = torch.Generator().manual_seed(0)
    matrix = terms.views(*parts.shape[:2], queries, 5, again)
    gap = terms.wasserstein_gap(before, cF.rotate(parts, matrix), queries)
    (slow,) = torch.autograd.grad(gap, parts)
    assert value.item() == pytest.approx(gap.item(), abs=1e-6)
    torch.testing.assert_close(fast, slow, atol=1e-7, rtol=1e-4)


def test_gradient_penalty_of_a_linear_critic_is_known(rng):
    class Linear(Critic):
        def forward(self, feature):
            return 3 * feature.flatten(1).sum(1)

    penalty = terms.gradient_penalty(Linear(3, (4, 4)), torch.randn(8, 2, 3, 4, 4), 1, rng)
    torch.testing.assert_close(penalty, torch.tensor((3 * 48 - 1.0) ** 2), rtol=1e-4, atol=0)


def test_a_critic_learns_to_tell_true_from_wrong(rng):
    """Positive features beside their signed mixtures: the gap must open."""
    settings = config(critic_lr=2e-3)
    (term,) = terms.make_terms(settings, CPU)
    for _ in range(150):
        parts = torch.rand(32, 2, 32, 4, 4)
        key = Key(torch.eye(2).expand(32, 2, 2), "decoy", torch.arange(64).view(32, 2), 32)
        gap = term.loss(terms.Step(0, parts, Release(parts, key, parts)), rng)
    assert gap > 0.2


def begin(settings):
    """A run before its first step, and its data."""
    torch.manual_seed(settings.seed)
    dataset = datasets.load(DataConfig(limit_train=300))
    net = complexnn.build(settings.net)
    steps = dataset.train.steps(settings.batch_size)
    return loop.Training(net, settings, make_accelerator("cpu"), steps), dataset


def fit(settings, rows):
    run, dataset = begin(settings)
    loop.fit(run, dataset, on_epoch=rows.append, save=lambda: None)
    return run.net


@pytest.mark.parametrize("net", [{"kind": "original"}, {}, {"dim": 3, "group": "packed"}])
def test_one_seed_gives_one_run_to_the_bit(net):
    rows = [[], []]
    nets = [fit(config(net=net), r) for r in rows]
    assert json.dumps(rows[0]) == json.dumps(rows[1])
    a, b = (n.state_dict() for n in nets)
    assert all(torch.equal(a[k], b[k]) for k in a)
    other = []
    fit(config(net=net, seed=1), other)
    assert other[0]["train_loss"] != rows[0][0]["train_loss"]


def test_images_read_by_workers_train_the_same_network(tmp_path, monkeypatch):
    """Decoded and augmented in a worker, in the main process, or on the device: equal bits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for i in range(120):
        path = tmp_path / ("test" if i < 20 else "train") / str(digits.target[i]) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 15).astype("uint8")).save(path)
    settings = dataclasses.replace(config(), batch_size=16, epochs=1)

    def trained(limit, workers):
        monkeypatch.setattr(datasets, "MEMORY_LIMIT", limit)
        images = datasets.load(DataConfig(dataset="folder", data_dir=tmp_path), workers=workers)
        torch.manual_seed(0)
        net = complexnn.build(settings.net)
        run = loop.Training(net, settings, make_accelerator("cpu"), images.train.steps(16))
        loop.fit(run, images, on_epoch=lambda row: None, save=lambda: None)
        return net.state_dict()

    resident = trained(1 << 20, 0)
    for workers in (0, 2):
        streamed = trained(10, workers)
        assert all(torch.equal(resident[name], streamed[name]) for name in resident)


SGD = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 1e-3}


@pytest.mark.parametrize(
    ("net", "other"), [({"kind": "original"}, {}), ({"kind": "original"}, SGD), ({}, {})]
)
@pytest.mark.parametrize("stops", [[3], [1, 2, 5, 6]])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(tmp_path, net, other, stops):
    whole, broken = [], []
    settings = dataclasses.replace(config(net=net), **other)
    unbroken = fit(settings, whole)

    steps = iter([*stops, None])
    while (stop_after := next(steps)) is not None:
        run, dataset = begin(settings)
        state = checkpoint.load_state(tmp_path)
        if state is not None:
            run.restore(state)
        _stop_at(run, dataset, stop_after, broken, tmp_path)
    run, dataset = begin(settings)
    run.restore(checkpoint.load_state(tmp_path))
    loop.fit(run, dataset, on_epoch=broken.append, save=lambda: None)

    assert json.dumps(broken) == json.dumps(whole)
    a, b = unbroken.state_dict(), run.net.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_runs_time_counts_what_was_before_an_interruption():
    run, _ = begin(config())
    run.begun -= 1000
    state = run.state()
    for kept, least in ((state, 1000), ({k: v for k, v in state.items() if k != "seconds"}, 0)):
        again, _ = begin(config())
        again.restore(kept)
        assert least <= time.time() - again.begun < least + 100


def test_a_run_that_died_between_an_epochs_last_step_and_its_end_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)  # saves at every step
    rows, after = [], []
    run, dataset = begin(config())

    def save():
        if run.step == run.steps and run.epoch == 1:
            checkpoint.save_state(tmp_path, run.state())

    loop.fit(run, dataset, on_epoch=rows.append, save=save)
    again, dataset = begin(config())
    again.restore(checkpoint.load_state(tmp_path))
    assert (again.epoch, again.step) == (1, again.steps)
    loop.fit(again, dataset, on_epoch=after.append, save=lambda: None)
    assert json.dumps(after) == json.dumps(rows)
    a, b = run.net.state_dict(), again.net.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def _stop_at(run, dataset, total_steps, rows, folder):
    """Train until ``total_steps`` steps are done since the beginning, then send SIGTERM."""
    step = loop.train_step

    def counted(run, batch):
        step(run, batch)
        if (run.epoch - 1) * run.steps + run.step == total_steps:
            os.kill(os.getpid(), signal.SIGTERM)

    loop.train_step = counted
    try:
        with pytest.raises(loop.Interrupted):
            loop.fit(
                run, dataset, on_epoch=rows.append,
                save=lambda: checkpoint.save_state(folder, run.state()),
            )  # fmt: skip
    finally:
        loop.train_step = step


def test_one_cycle_rises_and_falls():
    rates = [optimiser.one_cycle(i / 100) for i in range(101)]
    assert rates[0] == pytest.approx(0.04)
    assert max(rates) == rates[25] == pytest.approx(1)
    assert rates[100] == pytest.approx(0)
    assert rates == sorted(rates[:25]) + sorted(rates[25:], reverse=True)


@pytest.mark.parametrize("other", [{}, SGD])
def test_training_learns(other):
    rows = []
    fit(dataclasses.replace(config(net={"kind": "complex"}), epochs=12, **other), rows)
    assert rows[-1]["train_loss"] < 0.5 * rows[0]["train_loss"]


def test_a_diverging_loss_stops_the_run_and_names_the_step():
    with pytest.raises(InputError, match=r"loss is (nan|inf) at step \d+ of epoch \d+: lower --lr"):
        fit(dataclasses.replace(config(), lr=1e20), [])


def test_evaluation_changes_nothing_and_repeats(rng):
    net = complexnn.build(config().net).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    dataset = datasets.load(DataConfig())
    test = dataset.test
    first, second = (evaluation.evaluate(net, test, CPU, draws=2, seed=5) for _ in range(2))
    assert first == second
    assert net.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    most_common = dataset.test.labels.bincount().max().item()
    assert first["chance"] == pytest.approx(1 - most_common / 360)


@pytest.mark.parametrize("net", [{"dim": 3}, {"dim": 7, "group": "packed"}, {"kind": "noisy"}])
@pytest.mark.parametrize("count", [7, 256, 300, 518])
def test_evaluation_reads_every_image_once(net, count):
    """Answers are told apart by their labels: each image is its own class."""
    settings = config(net=net | {"num_classes": 518})
    net = complexnn.build(settings.net)
    pixels = torch.randint(256, (518, 1, 8, 8), dtype=torch.uint8)
    net.decoder = torch.nn.Identity()

    def answer(rows):  # an image's own number, whatever its group: right iff the order is kept
        return torch.nn.functional.one_hot(rows, 518).float()

    labels = torch.arange(518)
    images = ImageSet(pixels, labels, labels).subset(labels[:count])
    place = {p.numpy().tobytes(): i for i, p in enumerate(pixels)}
    seen, features = [], net.features

    def remember(batch):
        rows = [place[(255 * p).round().byte().numpy().tobytes()] for p in batch]
        seen.append(torch.tensor(rows))
        return features(batch)

    net.features = remember
    net.decode = lambda hidden, key: answer(seen[-1])
    tested = evaluation.evaluate(net, images, CPU, draws=2, seed=0)
    assert tested["draws"] == [0, 0]
    assert torch.equal(torch.cat(seen).sort().values, labels[:count].repeat_interleave(2))


@pytest.mark.parametrize(("counterparts", "differs"), [("blocks", True), ("batch", False)])
def test_every_draw_packs_queries_in_other_company(counterparts, differs):
    images, order = datasets.load(DataConfig()).test, []
    net = complexnn.build(config(net={"group": "packed", "counterparts": counterparts}).net)
    features = net.features
    net.features = lambda batch: order.append(batch) or features(batch)
    evaluation.evaluate(net, images, CPU, draws=2, seed=0)
    first, second = torch.cat(order).split(len(images))
    assert torch.equal(first, second) != differs


def test_copies_in_a_test_set_do_not_stop_a_measurement_of_accuracy():
    dataset = datasets.load(DataConfig())
    net = complexnn.build(config(net={"dim": 4}).net)
    same = dataset.test.subset(torch.zeros(9, dtype=torch.long))
    assert len(evaluation.evaluate(net, same, CPU, draws=1, seed=0)["draws"]) == 1


@pytest.mark.parametrize("dim", [1, 2, 3, 7, 64, 300])
@pytest.mark.parametrize("count", [300, 301, 599, 1000, 2049])
def test_chunks_hold_whole_groups_and_every_index(dim, count):
    index, size = torch.randperm(count), evaluation.eval_batch(dim)
    chunks = evaluation.whole_chunks(index, size, dim)
    assert torch.equal(torch.cat(chunks), index)
    assert size % dim == 0
    assert all(len(chunk) % dim == 0 for chunk in chunks[:-1])
    assert all(dim <= len(chunk) < size + dim for chunk in chunks)
    if dim == 1:  # as image sets cut themselves
        expected = torch.arange(count).tensor_split(-(-count // size))
        assert [len(c) for c in chunks] == [len(c) for c in expected]


@pytest.mark.parametrize(
    ("processes", "settings", "message"),
    [
        (1, {"batch_size": 2, "net": {"dim": 3}}, "at least 3 images, the batch has 2"),
        (2, {"batch_size": 2}, "the share of each of 2 processes in a batch has 1"),
        (3, {"batch_size": 6, "net": {"dim": 3}}, "the share of each of 3 processes in a batch"),
        (1, {"net": {"dim": 50}, "batch_size": 50}, "the validation set has"),
        (4, {"batch_size": 4, "net": {"kind": "additional"}}, None),
        (2, {"batch_size": 4}, None),
    ],
)
def test_groups_that_a_share_or_a_set_cannot_fill_are_refused(
    processes, settings, message, monkeypatch
):
    monkeypatch.setattr(cF, "processes", lambda: processes)
    dataset = datasets.load(DataConfig(limit_train=300))
    made = dataclasses.replace(config(net=settings.pop("net", {})), **settings)
    if message is None:
        checks.check_groups(dataset, made)
        return
    with pytest.raises(InputError, match=message):
        checks.check_groups(dataset, made)


def test_the_time_left_counts_the_final_test(monkeypatch, caplog):
    """Ten seconds for 30 validation images: six minutes for three draws of 360 test images."""
    clock = {"now": 0.0}
    evaluate = evaluation.evaluate

    def slow(*args, **kwargs):
        clock["now"] += 10
        return evaluate(*args, **kwargs)

    monkeypatch.setattr("complexnn.training.loop.evaluate", slow)
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock["now"])
    with caplog.at_level("INFO", logger="complexnn"):
        fit(dataclasses.replace(config(), epochs=1), [])
    assert caplog.messages[-1].endswith("6 min 0 s left")


def test_evaluation_shows_how_far_it_is(monkeypatch):
    shown = []

    def track(items, total, what):
        items = list(items)
        assert len(items) == total
        shown.append(what)
        return items

    monkeypatch.setattr(evaluation, "track", track)
    images = datasets.load(DataConfig()).test
    evaluation.evaluate(complexnn.build(config().net), images, CPU, draws=2, seed=0)
    assert shown == ["test, draw 1 of 2", "test, draw 2 of 2"]


@pytest.mark.parametrize("net", [{"kind": "original"}, {"dim": 4}, {"dim": 4, "group": "packed"}])
@pytest.mark.parametrize("arch", ["lenet", "resnet20"])
def test_the_memory_that_is_asked_for_is_less_than_a_step_takes(arch, net):
    """A bound from below refuses nothing that would fit; it is not far below either."""
    settings = dataclasses.replace(config(), batch_size=64)
    net = dataclasses.replace(settings.net, arch=arch, image_size=(32, 32), **net)
    critic = {"adversarial_weight": 0.0} if net.kind == "complex" else {}
    run, _ = begin(dataclasses.replace(settings, net=net, **critic))
    batch = Batch(torch.rand(64, 1, 32, 32), torch.arange(64) % 10, torch.arange(64) % 10)
    weights = 4 * sum(p.numel() for p in run.net.parameters())  # there before the step
    taken = bench.peak_bytes(lambda: loop.train_step(run, batch), CPU) + weights
    assert taken / 6 < checks.memory_needed(run.config, 64) < taken


def test_a_training_that_cannot_fit_is_refused(monkeypatch):
    monkeypatch.setattr(checks, "memory_free", lambda device: 1e6)
    with pytest.raises(InputError, match=r"images of 8x8 need more than .* lower --batch-size"):
        checks.check_memory(config(), CPU)
    monkeypatch.setattr(checks, "memory_free", lambda device: None)  # not known
    checks.check_memory(config(), CPU)


def test_norm_scales_and_biases_are_not_decayed():
    net = complexnn.build("resnet20", kind="original")
    decayed, others = optimiser.weight_groups(net, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert others["weight_decay"] == 0
    assert all(p.dim() <= 1 for p in others["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(list(net.parameters()))


@pytest.mark.parametrize("cls", [NetConfig, DataConfig, TrainConfig, AttackConfig])
def test_every_setting_is_read_somewhere(cls):
    read = set()
    for path in (Path(complexnn.__file__).parent).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
    unread = {f.name for f in dataclasses.fields(cls)} - read
    assert not unread


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"adversarial_weight": -1.0}, "adversarial_weight must be at least 0"),
        ({"wrong_keys": 0}, "wrong_keys must be at least 1"),
    ],
)
def test_senseless_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**settings)
