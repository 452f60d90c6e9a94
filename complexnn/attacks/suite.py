"""The attacks on one victim: train what is missing, judge on the test images, write rows."""

from __future__ import annotations

import csv
import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from complexnn import checkpoint, metrics, results, tasks
from complexnn.attacks import angle, inference
from complexnn.attacks.attacker import Attacker
from complexnn.attacks.fitting import Knowledge, Observation
from complexnn.attacks.pictures import save_grid
from complexnn.config import AttackConfig, InputError, to_dict
from complexnn.images import Dataset, ImageSet
from complexnn.networks.split import SplitNet
from complexnn.progress import track
from complexnn.training import eval_batch, random_for

log = logging.getLogger("complexnn")
PICTURES = 10  # random test images in a grid


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A network under attack and the images it is judged on."""

    attacker: Attacker
    test: ImageSet

    def observations(self, draw: int, what: str) -> Any:
        """Queries of the victim's user under fresh keys, one draw of them."""
        keys = random_for("evaluation", self.attacker.config.seed, draw)
        size = eval_batch(self.attacker.knowledge.net.config.parts)
        batches = self.test.batches(size, self.attacker.knowledge.device)
        steps = -(-len(self.test) // size)
        for batch in track(batches, steps, what):
            yield self.attacker.knowledge.observe(batch, keys)

    def per_image(self, measure: Callable[[Observation], Tensor], what: str) -> Tensor:
        """``measure`` for every test image, mean over the draws: ``(N, ...)``."""
        draws = self.attacker.config.draws
        every = [
            torch.cat([measure(seen).cpu() for seen in self.observations(draw, what)])
            for draw in range(draws)
        ]
        return torch.stack(every).double().mean(dim=0)


def run(
    config: AttackConfig,
    victim: SplitNet,
    control: SplitNet | None,
    dataset: Dataset,
    device: torch.device,
) -> None:
    """Run the attacks that ``config`` asks for and write rows, tables and pictures."""
    if config.attack == "angle" and victim.config.parts == 1:
        raise InputError(f"kind {victim.config.kind} has no key: attack angle needs kind complex")
    if config.attack == "property" and not dataset.hidden:
        raise InputError(
            f"the victim learned the classes of {dataset.name} themselves, so nothing is hidden: "
            "train it with --groups"
        )
    test = dataset.test
    if config.limit_test is not None:
        chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
        test = test.subset(chosen[: config.limit_test])
    (config.run_dir / "examples").mkdir(parents=True, exist_ok=True)

    def target(net: SplitNet, folder: Path) -> Target:
        victim_hash = checkpoint.sha256(folder / "model.safetensors")
        knowledge = Knowledge(net, dataset.train.to(device), dataset.validation.to(device), device)
        attackers = (config.output_dir or folder) / "attackers" / victim_hash[:12]
        return Target(Attacker(knowledge, dataset, config, attackers, victim_hash), test.to(device))

    attacked = target(victim, config.victim)
    compared = None if control is None else target(control, config.control)
    victim_hash = attacked.attacker.victim_hash
    for name in families(config, victim.config.parts > 1, dataset.hidden):
        if done(config, name, victim_hash):
            log.info("%s: already done, see %s", name, config.run_dir / "results.jsonl")
            continue
        started = time.time()
        attacked.attacker.prepare(name)
        if compared is not None and name != "angle":
            compared.attacker.prepare(name)
        for row_name, measured in ATTACKS[name](attacked, compared):
            row = {
                "name": row_name,
                "attack": name,
                "metrics": measured,
                "images": len(test),
                "draws": config.draws,
                "config": to_dict(config),
                "victim": victim_hash,
                **results.stamp(device, started),
            }
            results.append_row(config.run_dir / "results.jsonl", row)
            print(summary(row), flush=True)


def families(config: AttackConfig, rotated: bool, hidden: bool) -> list[str]:
    """The attacks that ``config`` asks for and that the victim allows: a key to recover needs a
    rotation, a property to infer one that the victim never learned."""
    wanted = list(ATTACKS) if config.attack == "all" else [config.attack]
    possible = {"angle": rotated, "inversion": True, "property": hidden}
    return [name for name in wanted if possible[name]]


def done(config: AttackConfig, family: str, victim_hash: str) -> bool:
    """Whether these attacks were made on these weights with the same settings."""
    where = {name: None for name in ("attack", "victim", "output_dir", "data_dir", "device")}
    settings = to_dict(config) | where
    return any(
        row.get("attack") == family
        and row["victim"] == victim_hash
        and row["config"] | where == settings
        for row in results.read_rows(config.run_dir / "results.jsonl")
    )


Rows = list[tuple[str, dict[str, dict[str, float | None]]]]


def attack_angle(target: Target, control: Target | None) -> Rows:
    """Mean circular error of the regressed key; no control, which has no key."""
    attacker = target.attacker

    def error(seen: Observation) -> Tensor:
        directions, _ = angle.recover(attacker.regressor, seen.released)
        return angle.errors(directions, seen.key.directions).flatten()[: seen.key.queries]

    errors = target.per_image(error, "angle")
    low, high = metrics.mean_interval(errors)
    blind = angle.chance(attacker.regressor.dim, attacker.regressor.vectors)
    value = {"value": errors.mean().item(), "low": low, "high": high, "chance": blind}
    return [("angle", {"angle_error": value})]


IMAGE_MEASURES = {"rmse": metrics.rmse, "psnr": metrics.psnr, "ssim": metrics.ssim}


def attack_inversion(target: Target, control: Target | None) -> Rows:
    """Reconstruction errors of dec(x) and dec(a*) beside the mean image and the control."""
    attacker = target.attacker
    decoders = {"dec(x)": attacker.direct_reconstructions}
    if attacker.rotated:
        decoders["dec(a*)"] = attacker.reconstructions

    def measures(reconstruct: Callable[[Observation], Tensor]) -> Callable[[Observation], Tensor]:
        def measure(seen: Observation) -> Tensor:
            guess, truth = reconstruct(seen), seen.batch.images
            return torch.stack([m(guess, truth) for m in IMAGE_MEASURES.values()], dim=1)

        return measure

    mean_image = _mean_image(attacker)
    tables = {name: target.per_image(measures(decoder), name) for name, decoder in decoders.items()}
    floor = target.per_image(
        measures(lambda seen: mean_image.expand_as(seen.batch.images)), "mean image"
    )
    best = None
    if control is not None:
        best = control.per_image(measures(control.attacker.reconstructions), "control")

    rows: Rows = []
    for name, table in tables.items():
        measured = {}
        for column, measure in enumerate(IMAGE_MEASURES):
            values = table[:, column]
            low, high = metrics.mean_interval(values)
            measured[measure] = {
                "value": values.mean().item(), "low": low, "high": high,
                "floor": floor[:, column].mean().item(),
                "control": None if best is None else best[:, column].mean().item(),
            }  # fmt: skip
        rows.append((f"inversion {name}", measured))

    examples = attacker.config.run_dir / "examples"
    _write_csv(examples / "inversion.csv", tables | {"mean image": floor})
    seed = attacker.config.seed
    chosen = torch.randperm(len(target.test), generator=torch.Generator().manual_seed(seed))
    shown = target.test.subset(chosen[: max(PICTURES, attacker.knowledge.net.config.dim)])
    grid = {"input": None, **decoders}
    pictures = _pictures(Target(attacker, shown), grid)
    if control is not None:
        control_shown = Target(control.attacker, shown)
        name = f"{control.attacker.knowledge.net.config.kind} (control)"
        pictures |= _pictures(control_shown, {name: control.attacker.reconstructions})
    save_grid(
        examples / "inversion.png", {name: rows_[:PICTURES] for name, rows_ in pictures.items()},
        f"{len(shown.classes[:PICTURES])} test images drawn at random with seed {seed}",
    )  # fmt: skip
    return rows


def attack_property(target: Target, control: Target | None) -> Rows:
    """Error of the hidden class: classifiers on features, reconstructions and images, and k-NN."""
    predicted = {t: _predictions(t) for t in (target, control) if t is not None}
    train, test = target.attacker.knowledge.train, target.test
    chance = tasks.blind_error(test.classes, train.classes)
    knowing = inference.given_label(train, test)
    occurring = 2 if test.classes.dim() == 2 else len(test.classes.unique())
    rows: Rows = []
    for name, guesses in predicted[target].items():
        errors = tasks.errors(guesses, test.classes).mean(dim=0)  # over the draws
        low, high = metrics.mean_interval(errors)
        other = None if control is None else predicted[control][name]
        measured: dict[str, dict[str, float | None]] = {
            "error": {
                "value": errors.mean().item(), "low": low, "high": high, "chance": chance,
                "given_label": knowing,
                "control": None if other is None
                else tasks.errors(other, test.classes).mean().item(),
            },
            "balanced_accuracy": {
                "value": _balanced(guesses, test.classes), "chance": 1 / occurring,
                "control": None if other is None else _balanced(other, test.classes),
            },
        }  # fmt: skip
        rows.append((f"property {name}", measured))
    return rows


def _balanced(guesses: Tensor, truth: Tensor) -> float:
    """Balanced accuracy, mean over the draws."""
    return sum(tasks.balanced_accuracy(g, truth) for g in guesses) / len(guesses)


ATTACKS = {"angle": attack_angle, "inversion": attack_inversion, "property": attack_property}


@torch.no_grad()
def _predictions(target: Target) -> dict[str, Tensor]:
    """Hidden classes predicted by each attack: name to ``(draws, N)``."""
    attacker = target.attacker
    neighbours = inference.fit_neighbours(
        attacker.features, attacker.knowledge, attacker.rng("neighbours")
    )
    found: dict[str, list[Tensor]] = {}
    for draw in range(attacker.config.draws):
        chunks: dict[str, list[Tensor]] = {}
        for seen in target.observations(draw, "property"):
            features = attacker.features(seen)
            images = attacker.feature_decoder(features).squeeze(1)
            views = {"images": images, "features": features, "reconstructions": images}
            guesses = {
                name: tasks.answers(attacker.classifier(name)(view), seen.batch.classes)
                for name, view in views.items()
            }
            flat = features.flatten(1).cpu().numpy()
            for k, model in neighbours.items():
                guesses[f"{k}-nn"] = torch.from_numpy(model.predict(flat))
            for name, guess in guesses.items():
                chunks.setdefault(name, []).append(guess.cpu())
        for name, parts in chunks.items():
            found.setdefault(name, []).append(torch.cat(parts))
    return {name: torch.stack(draws) for name, draws in found.items()}


def _mean_image(attacker: Attacker) -> Tensor:
    knowledge = attacker.knowledge
    batches = knowledge.train.batches(256, knowledge.device)
    return sum(b.images.sum(0) for b in batches) / len(knowledge.train)


def _pictures(
    target: Target, reconstruct: dict[str, Callable[[Observation], Tensor] | None]
) -> dict[str, Tensor]:
    seen = next(iter(target.observations(0, "pictures")))
    return {
        name: (seen.batch.images if f is None else f(seen)).cpu() for name, f in reconstruct.items()
    }


def _write_csv(path: Path, tables: dict[str, Tensor]) -> None:
    """Per-image measures, a line per test image."""
    with checkpoint.replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *(f"{n} {m}" for n in tables for m in IMAGE_MEASURES)])
        columns = torch.cat(list(tables.values()), dim=1).tolist()
        writer.writerows([index, *(f"{v:.6g}" for v in row)] for index, row in enumerate(columns))


def summary(row: dict[str, Any]) -> str:
    """One line about a row: each measure with its interval and what it stands beside."""
    parts = []
    for measure, numbers in row["metrics"].items():
        beside = [
            f"{what.replace('_', ' ')} {numbers[what]:.4g}"
            for what in ("chance", "floor", "given_label", "control")
            if numbers.get(what) is not None
        ]
        interval = f" [{numbers['low']:.4g}, {numbers['high']:.4g}]" if "low" in numbers else ""
        parts.append(f"{measure} {numbers['value']:.4g}{interval} ({', '.join(beside)})")
    return f"{row['name']}: " + "; ".join(parts)
