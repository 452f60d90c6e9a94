"""What attackers know of other images, and the attacker that does not know the encoder."""

import dataclasses

import pytest
import torch
from PIL import Image

import complexnn
from complexnn.attacks import substitute
from complexnn.attacks.auxiliary import attacker_images
from complexnn.attacks.fitting import Knowledge
from complexnn.commands import app
from complexnn.commands import attack as attack_command
from complexnn.commands import train as train_command
from complexnn.config import DataConfig, InputError
from complexnn.config_attack import AttackConfig
from complexnn.data import datasets
from complexnn.rotation import functional as cF
from complexnn.runs import checkpoint, results

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    return datasets.load(DataConfig(groups="parity"))


def rows(images):
    return set(map(tuple, images.pixels.flatten(1).tolist()))


def asked(**settings):
    return AttackConfig("all", victim="run", **settings)


# ------------------------------------------------------------------------ the attacker's images


def test_by_default_the_attacker_has_what_the_victim_was_trained_on(digits):
    train, validation = attacker_images(asked(), DataConfig(), digits, torch.arange(10))
    assert train is digits.train
    assert validation is digits.validation


def test_held_out_images_are_neither_trained_on_nor_judged(digits):
    judged = torch.arange(0, 300)
    own = attacker_images(asked(auxiliary="held-out"), DataConfig(), digits, judged)
    assert sum(map(len, own)) == len(digits.validation) + 60
    both = rows(own[0]) | rows(own[1])
    assert not both & rows(digits.train)
    assert not both & rows(digits.test.subset(judged))
    assert not rows(own[0]) & rows(own[1])


def test_copies_of_judged_images_are_not_held_out(digits):
    pixels = digits.test.pixels.clone()
    pixels[[350, 359]] = pixels[[0, 7]]
    test = type(digits.test)(pixels, digits.test.labels, digits.test.classes)
    copied, judged = dataclasses.replace(digits, test=test), torch.arange(300)
    own = attacker_images(asked(auxiliary="held-out"), DataConfig(), copied, judged)
    assert sum(map(len, own)) == len(digits.validation) + 58
    assert not (rows(own[0]) | rows(own[1])) & rows(test.subset(judged))


@pytest.mark.parametrize("whose", [None, "held-out"])
def test_a_limit_counts_all_of_the_attackers_images(digits, whose):
    config = asked(auxiliary=whose, auxiliary_limit=100)
    own = attacker_images(config, DataConfig(), digits, torch.arange(300))
    assert [len(part) for part in own] == [90, 10]
    if whose is None:
        assert rows(own[0]) | rows(own[1]) <= rows(digits.train)


def make_folder(root, size):
    for part in ("train", "test"):
        for number in range(40):
            path = root / part / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, (6 * number, 0, 255)).save(path)


def test_another_set_is_brought_to_the_victims_form(digits, tmp_path):
    make_folder(tmp_path, (20, 16))
    config = asked(auxiliary=str(tmp_path))
    own = attacker_images(config, DataConfig(), digits, torch.arange(300))
    assert sum(map(len, own)) == 40
    assert own[0].pixels.shape[1:] == (1, 8, 8)
    assert own[0].labels.unique().tolist() == [0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"auxiliary": "nowhere"}, "neither held-out nor a folder nor a data set; data sets: dig"),
        ({"auxiliary": "digits"}, "is the victim's own data set: leave it out, or say held-out"),
        ({"auxiliary": "held-out", "auxiliary_limit": 5000}, "but there are 204 images: lower it"),
    ],
)
def test_images_that_are_not_there_are_one_line(digits, settings, message):
    with pytest.raises(InputError, match=message):
        attacker_images(asked(**settings), DataConfig(groups="parity"), digits, torch.arange(300))
    with pytest.raises(InputError, match="auxiliary_limit must be at least 10"):
        asked(auxiliary_limit=3)


# ---------------------------------------------------------------------------------- query-free


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return complexnn.build("lenet", num_classes=2, in_channels=1, image_size=(8, 8),
                           mean=(0.3,), std=(0.4,)).eval()  # fmt: skip


def test_moments_are_those_of_the_features_whatever_the_keys(network, digits):
    with torch.no_grad():
        release = network.release(torch.rand(64, 1, 8, 8))
    known = substitute.moments(release.parts)
    for _ in range(3):
        released = network.release_again(release).released
        found = substitute.moments(released)
        torch.testing.assert_close(found.channels, known.channels, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.power, known.power, atol=1e-5, rtol=1e-4)
        assert found.distance(known) < 1e-8
    assert substitute.moments(2 * release.parts).distance(known) == pytest.approx(18, rel=1e-4)


def test_moments_against_a_slow_loop():
    maps = torch.randn(5, 2, 3, 4, 6)
    wanted = torch.zeros(4, 3, 3)
    for place, (down, right) in enumerate(substitute.OFFSETS):
        positions = [(y, x) for y in range(4 - down) for x in range(6 - right)]
        for i in range(3):
            for j in range(3):
                products = [maps[:, :, i, y, x] * maps[:, :, j, y + down, x + right]
                            for y, x in positions]  # fmt: skip
                wanted[place, i, j] = torch.stack(products).mean()
    torch.testing.assert_close(substitute.moments(maps).channels, wanted)


def test_a_substitute_keeps_the_server_and_learns_the_moments(network, digits):
    know = Knowledge(network, digits.train, digits.validation, CPU)
    config = asked(steps=30, batch_size=64)
    rng = torch.Generator().manual_seed(5)
    batch = next(iter(know.batches(digits.train, 256)))
    seen = substitute.moments(know.observe(batch, rng).released)
    torch.manual_seed(1)
    model = substitute.make_substitute(know)
    server = {k: v.clone() for k, v in model.processing.state_dict().items()}
    assert all(torch.equal(v, network.processing.state_dict()[k]) for k, v in server.items())

    def distance():
        model.eval()
        sent, _ = model.encode(batch.images, generator=rng)
        return substitute.moments(sent).distance(seen).item()

    before = distance()
    substitute.fit_substitute(model, seen, know, config, rng)
    assert distance() < 0.5 * before
    for name, value in model.processing.state_dict().items():
        assert torch.equal(value, server[name]), f"the server's {name} drifted"


def test_the_decoder_is_chosen_by_a_substitute_that_it_never_saw(network, digits):
    know = Knowledge(network, digits.train, digits.validation, CPU)
    nets = [substitute.make_substitute(know) for _ in range(3)]
    pretended = substitute.pretended(know, nets)
    assert pretended.net is nets[2]
    observations = pretended.endless(32, torch.Generator().manual_seed(0))
    for turn in range(4):
        seen = next(observations)
        features = nets[turn % 2].features(seen.batch.images)
        back = cF.rotate(seen.released, seen.key.directions)
        torch.testing.assert_close(back.flatten(0, 1), features, atol=1e-4, rtol=1e-3)


# ------------------------------------------------------------------------------- command line


@pytest.mark.slow
def test_an_attacker_who_knows_the_encoder_not_is_not_below_blind_guessing(tmp_path):
    victim = tmp_path / "victim"
    train = ["--groups", "parity", "--epochs", "10", "--device", "cpu", "--output-dir", str(victim)]
    assert app.run(train_command.main, train) == 0
    argv = ["inversion", "--victim", str(victim), "--only", "query-free", "--device", "cpu"]
    assert app.run(attack_command.main, argv) == 0
    (row,) = [r for r in results.read_rows(victim / "results.jsonl") if r["name"] != "task"]
    psnr = row["metrics"]["psnr"]
    assert psnr["low"] > psnr["floor"]


def test_rows_name_the_attackers_images(tmp_path, capsys):
    victim = tmp_path / "victim"
    train = ["--groups", "parity", "--epochs", "1", "--device", "cpu", "--output-dir", str(victim)]
    assert app.run(train_command.main, train) == 0
    argv = ["inversion", "--victim", str(victim), "--only", "dec(x)", "--device", "cpu"]
    argv += ["--steps", "3", "--batch-size", "16", "--draws", "1", "--limit-test", "40"]
    own = ["--auxiliary", "held-out", "--auxiliary-limit", "50"]
    for _ in range(2):  # the second time, all is there
        assert app.run(attack_command.main, [*argv, *own]) == 0
        assert app.run(attack_command.main, argv) == 0
    names = [r["name"] for r in results.read_rows(victim / "results.jsonl")]
    assert names == ["task", "inversion dec(x), 50 held-out images",
                     "inversion dec(x) set, 50 held-out images",
                     "inversion dec(x)", "inversion dec(x) set"]  # fmt: skip
    tables = {path.name for path in (victim / "examples").glob("*.csv")}
    assert {"inversion-dec-x-50-held-out-images.csv", "inversion-dec-x.csv"} <= tables
    make_folder(tmp_path / "other", (8, 8))
    strange = ["property", "--victim", str(victim), "--auxiliary", str(tmp_path / "other")]
    assert app.run(attack_command.main, [*strange, "--device", "cpu"]) == 2
    assert "have none of the victim's properties" in capsys.readouterr().err


def test_an_attacker_that_saw_images_which_are_judged_now_is_trained_again(tmp_path):
    victim = tmp_path / "victim"
    train = ["--groups", "parity", "--epochs", "1", "--device", "cpu", "--output-dir", str(victim)]
    assert app.run(train_command.main, train) == 0
    argv = ["inversion", "--victim", str(victim), "--only", "inversion dec(x)", "--device", "cpu"]
    argv += ["--steps", "3", "--batch-size", "16", "--draws", "1", "--auxiliary", "held-out"]
    known = []
    for judged in (40, 200):
        assert app.run(attack_command.main, [*argv, "--limit-test", str(judged)]) == 0
        (path,) = victim.glob("attackers/*held-out*/dec_x.safetensors")
        known.append(checkpoint.read(path)[1]["images"])
    assert known[0] != known[1]


def test_without_labels_no_attack_needs_them():
    from complexnn.attacks import roster

    config = dataclasses.replace(asked(), auxiliary="faces")
    net = complexnn.NetConfig()
    names = {attack.name for attack in roster.chosen(config, net, hidden=True)}
    assert names
    assert not [n for n in names if n.startswith("property") or "query-free" in n]
