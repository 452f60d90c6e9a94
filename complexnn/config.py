"""Configuration: every default of the project, each in one place.

The command lines of ``train.py`` and ``attack.py`` are generated from these dataclasses, and the
resolved values are saved with every run.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from tyro.conf import OmitArgPrefixes, Positional, Suppress

Kind = Literal["original", "additional", "noisy", "complex", "local"]
Variant = Literal["alpha", "beta"]
Group = Literal["decoy", "packed"]
Counterparts = Literal["blocks", "batch"]
Weights = Literal["real", "complex"]
Gate = Literal["paper", "mixing"]
Defence = Literal["none", "laplace", "dropout", "quantise", "nopeek", "decoder"]
Optimizer = Literal["adamw", "sgd"]
Precision = Literal["fp32", "bf16", "fp16"]
Stored = Literal["fp32", "fp16"]
Attack = Literal["angle", "span", "release", "intersection", "inversion", "property", "all"]
Spending = Literal["quick", "standard", "thorough"]


OWN = (None, "held-out")  # images of the victim's own data set, as an attacker's


class InputError(ValueError):
    """Something the user can mend: the command line shows it as one line and exits with 2."""


def choose(what: str, name: str, known: Collection[str]) -> str:
    """Return ``name`` if it is one of ``known``; otherwise say which ones there are."""
    if name not in known:
        raise InputError(f"unknown {what} {name!r}; known: {', '.join(known)}")
    return name


# Settings that mean nothing unless another one has one of these values: changing one elsewhere is
# refused, not ignored. A setting whose condition is idle is idle, too.
_ABOVE_0 = ("above 0",)
_GENERATED = ("kind", ("additional", "noisy", "complex", "local"))
_ONLY_FOR: dict[str, tuple[str, tuple[str, ...]]] = {
    "dim": ("kind", ("complex",)),
    "group": ("kind", ("complex",)),
    "counterparts": ("kind", ("complex",)),
    "weights": ("kind", ("complex",)),
    "gate": ("kind", ("complex",)),
    "gaussian_decoys": ("kind", ("complex",)),
    "decoy_scale": ("gaussian_decoys", _ABOVE_0),
    "gamma": ("kind", ("noisy",)),
    "generator_width": _GENERATED,
    "relu_end": _GENERATED,
    "defence": ("kind", ("original", "additional", "complex")),
    "epsilon": ("defence", ("laplace",)),
    "drop_rate": ("defence", ("dropout",)),
    "bits": ("defence", ("quantise",)),
    "nopeek_weight": ("defence", ("nopeek",)),
    "decoder_weight": ("defence", ("decoder",)),
    "decoder_lr": ("defence", ("decoder",)),
    "adversarial_weight": ("kind", ("complex",)),
    "wrong_keys": ("adversarial_weight", _ABOVE_0),
    "critic_lr": ("adversarial_weight", _ABOVE_0),
    "critic_steps": ("adversarial_weight", _ABOVE_0),
    "critic_every": ("adversarial_weight", _ABOVE_0),
    "critic_constraint": ("adversarial_weight", _ABOVE_0),
    "gradient_penalty": ("critic_constraint", ("gradient-penalty",)),
    "clip_value": ("critic_constraint", ("weight-clipping",)),
}
OF_SOME_NETWORKS = frozenset(_ONLY_FOR)


def _idle(name: str, value_of: Callable[[str], Any]) -> str | None:
    """Why a setting has no effect beside the values of the others; None if it has one."""
    if name not in _ONLY_FOR:
        return None
    other, values = _ONLY_FOR[name]
    why = _idle(other, value_of)
    value = value_of(other)
    if why is None and not (value > 0 if values is _ABOVE_0 else value in values):
        why = f"{other} {' and '.join(values)} only, not to {value}"
    return why


def _refuse_idle(config: Any, beside: Any = None) -> None:
    """Refuse settings of ``config`` that were changed though they have no effect beside the other
    ones of ``config`` and ``beside``."""

    def value_of(name: str) -> Any:
        return getattr(config if hasattr(config, name) else beside, name)

    for spec in dataclasses.fields(config):
        if spec.name in _ONLY_FOR and getattr(config, spec.name) != spec.default:
            why = _idle(spec.name, value_of)
            if why is not None:
                raise InputError(f"{spec.name} applies to {why}")


@dataclass(frozen=True)
class NetConfig:
    """A split network."""

    arch: str = "lenet"
    """Architecture; an unknown name lists the known ones."""
    variant: Variant = "alpha"
    """Where a ResNet is cut: after the first 64-channel block (alpha) or before the last (beta)."""
    kind: Kind = "complex"
    """original; additional (with generator); noisy; complex (rotated); local (no real server)."""
    dim: int = 2
    """Parts d of a feature, kind complex: 2 is the paper's complex-valued network."""
    group: Group = "decoy"
    """Who shares a key, kind complex: one query and d - 1 decoys, or d packed queries."""
    counterparts: Counterparts = "blocks"
    """Where decoys come from, kind complex: blocks of d images that share no image with another
    block; or any of the batch, which lets two groups that share one image give it away, and is kept
    to repeat early runs."""
    gaussian_decoys: int = 0
    """Parts of Gaussian noise put beside the group's d before the rotation, kind complex; features
    are then clipped to a mean square of 1."""
    decoy_scale: float = 1.0
    """Standard deviation of the Gaussian decoys' entries."""
    weights: Weights = "real"
    """The server's weights, kind complex: shared by all parts, or complex (d = 2 only)."""
    gate: Gate = "paper"
    """The server's non-linearity, kind complex: the paper's, or mixing, whose gates see every
    channel (architectures with norms only)."""
    gamma: float = 0.2
    """Strength of the noise relative to the feature, kind noisy."""
    defence: Defence = "none"
    """A defence to compare with: Laplace noise, dropout or quantisation of the released feature;
    nopeek and decoder train the encoder to give less away."""
    epsilon: float = 1e4
    """Local differential privacy of one query, defence laplace: noise of scale 2N/epsilon on each
    of the N numbers of a feature."""
    drop_rate: float = 0.5
    """Share of the feature's entries that is dropped, defence dropout."""
    bits: int = 2
    """Bits of each entry, defence quantise."""
    generator_width: int | None = None
    """Channels inside the generator at the encoder's end; None: the encoder's own, at least 4."""
    relu_end: bool = False
    """End the encoder in a ReLU: leaks the angle, kept for that experiment."""

    # Known from the data, so not flags.
    num_classes: Suppress[int] = 10
    in_channels: Suppress[int] = 3
    image_size: Suppress[tuple[int, int]] = (32, 32)
    mean: Suppress[tuple[float, ...]] = (0.5, 0.5, 0.5)
    std: Suppress[tuple[float, ...]] = (0.25, 0.25, 0.25)

    def __post_init__(self) -> None:
        for name, options in (
            ("variant", Variant),
            ("kind", Kind),
            ("group", Group),
            ("counterparts", Counterparts),
            ("weights", Weights),
            ("gate", Gate),
            ("defence", Defence),
        ):
            choose(name, getattr(self, name), get_args(options))
        check_numbers(self)
        _refuse_idle(self)
        if self.dim < 2:
            raise InputError(
                f"dim must be at least 2, got {self.dim}; without rotation: additional"
            )
        if self.weights == "complex" and self.parts != 2:
            raise InputError(f"complex weights need 2 parts, got {self.parts}; use weights real")
        if self.gaussian_decoys < 0:
            raise InputError(f"gaussian_decoys must not be negative, got {self.gaussian_decoys}")
        if self.decoy_scale <= 0:
            raise InputError(f"decoy_scale must be positive, got {self.decoy_scale}")
        if self.epsilon <= 0:
            raise InputError(f"epsilon must be positive, got {self.epsilon}")
        if not 0 <= self.drop_rate < 1:
            raise InputError(f"drop_rate must be at least 0 and below 1, got {self.drop_rate}")
        if not 1 <= self.bits <= 16:
            raise InputError(f"bits must be 1 to 16, got {self.bits}")
        if self.gamma < 0:
            raise InputError(f"gamma must not be negative, got {self.gamma}")
        if self.generator_width is not None and self.generator_width < 1:
            raise InputError(f"generator_width must be positive, got {self.generator_width}")
        if self.num_classes < 2:
            raise InputError(f"a classifier needs at least 2 classes, got {self.num_classes}")
        if self.in_channels < 1:
            raise InputError(f"in_channels must be positive, got {self.in_channels}")
        if len(self.mean) != self.in_channels or len(self.std) != self.in_channels:
            raise InputError(
                f"mean and std need one number per channel: {self.in_channels} channels, "
                f"{len(self.mean)} means, {len(self.std)} deviations"
            )
        if min(self.std) <= 0:
            raise InputError(f"std must be positive, got {self.std}")

    @property
    def parts(self) -> int:
        """Parts of a released feature: d and the Gaussian decoys for kind complex, else 1."""
        return self.dim + self.gaussian_decoys if self.kind == "complex" else 1

    @property
    def queries(self) -> int:
        """Real queries of a group: d where they are packed, else 1."""
        return self.dim if self.kind == "complex" and self.group == "packed" else 1

    @property
    def label(self) -> str:
        """What distinguishes this network from others of its architecture, in a few words."""
        words = [self.kind]
        if self.kind == "noisy":
            words.append(f"γ={self.gamma:g}")
        if self.kind == "complex":
            words += [f"d={self.dim}", self.group]
            if self.gaussian_decoys:
                words.append(f"+ {self.gaussian_decoys} Gaussian of {self.decoy_scale:g}")
            words += ["mixing gates"] if self.gate == "mixing" else []
            words += ["complex weights"] if self.weights == "complex" else []
        words += ["ReLU end"] if self.relu_end else []
        words += [f"generator {self.generator_width}"] if self.generator_width else []
        how = {
            "laplace": f" ε={self.epsilon:g}",
            "dropout": f" {self.drop_rate:g}",
            "quantise": f" {self.bits} bit{'s' if self.bits > 1 else ''}",
        }
        if self.defence != "none":
            words.append("+ " + self.defence + how.get(self.defence, ""))
        return " ".join(words)

    @property
    def has_generator(self) -> bool:
        return self.kind != "original"


@dataclass(frozen=True)
class DataConfig:
    """Images and labels."""

    dataset: str = "digits"
    """Data set; an unknown name lists the known ones."""
    data_dir: Path = Path("data")
    """Where downloads go; the folder with train/<class>/* and test/<class>/* (folder); where
    CUB_200_2011 (cub200) or celeba lies."""
    groups: str | None = None
    """What the victim learns instead of the classes: a built-in grouping, or a JSON file that
    maps each class to its group. The classes are then the hidden property."""
    channels: Literal[1, 3] | None = None
    """Grey (1) or colour (3) images; None: as the data set is."""
    resize: int | None = None
    """Scale the shorter side to this many pixels and crop the centre square (folder, celeba,
    cub200)."""
    limit_train: int | None = None
    """Use only this many training images, drawn with a fixed seed."""

    def __post_init__(self) -> None:
        for name in ("limit_train", "resize"):
            value = getattr(self, name)
            if value is not None and value < 2:
                raise InputError(f"{name} must be at least 2, got {value}")


@dataclass(frozen=True)
class TrainConfig:
    """Train a split network and test it once, at the end."""

    net: OmitArgPrefixes[NetConfig] = field(default_factory=NetConfig)
    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    output_dir: Path | None = None
    """Run folder; None: runs/<dataset>-<arch>-<kind>."""
    resume: Literal["no", "yes", "auto"] = "no"
    """Go on with the folder's run, with its settings (--resume alone means yes); auto: or start
    one if there is none."""
    overwrite: bool = False
    """Replace a run that the folder already holds."""
    epochs: int = 20
    """Passes over the training images."""
    batch_size: int = 128
    """Images per step."""
    optimizer: Optimizer = "adamw"
    """adamw, or sgd with Nesterov momentum 0.9: slower, and more accurate where training is long;
    its --lr is near 0.2, its --weight-decay near 0.0005."""
    lr: float = 3e-3
    """Peak of the one-cycle schedule."""
    weight_decay: float = 0.05
    """Weight decay, on weights of two or more axes only."""
    adversarial_weight: float = 0.05
    """Weight of the adversarial term, kind complex; 0 switches critic and term off."""
    wrong_keys: int = 5
    """Wrong keys k that the critic sees for each true feature."""
    critic_lr: float = 2e-4
    """Learning rate of the critic (Adam)."""
    critic_steps: int = 1
    """Steps of the critic for each step of the network that has one."""
    critic_every: int = 1
    """Train the critic, and use the adversarial term, on every n-th step."""
    critic_constraint: Literal["gradient-penalty", "weight-clipping"] = "gradient-penalty"
    """How the critic is kept Lipschitz."""
    gradient_penalty: float = 10.0
    """Weight of the gradient penalty."""
    clip_value: float = 0.01
    """Bound of each weight under weight clipping."""
    nopeek_weight: float = 1.0
    """Weight of the distance correlation, defence nopeek."""
    decoder_weight: float = 10.0
    """Weight of the decoder's squared error, defence decoder."""
    decoder_lr: float = 1e-3
    """Learning rate of the decoder (AdamW), defence decoder."""
    draws: int = 3
    """Independent draws of keys and counterparts in the final test."""
    seed: int = 0
    """Seed of weights, batches, keys and counterparts."""
    workers: int = 2
    """Processes that read images when they do not fit in memory; 0: none."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Precision = "fp32"
    """Arithmetic of the networks; norms and moduli stay in fp32."""
    save_as: Stored = "fp32"
    """Number format of the weights on disk; the final test, like every attack, is of the weights as
    they were saved."""
    compile: bool = False
    """Compile encoder, processing module and decoder for training; takes minutes at the start."""
    dry_run: bool = False
    """Build everything, take two steps, print what would run, write nothing."""

    def __post_init__(self) -> None:
        check_numbers(self)
        choose("optimizer", self.optimizer, get_args(Optimizer))
        choose("save_as", self.save_as, get_args(Stored))
        at_least(self, 1, "epochs", "batch_size", "wrong_keys", "critic_steps", "critic_every")
        at_least(self, 1, "draws")
        at_least(self, 0, "adversarial_weight", "weight_decay", "gradient_penalty", "workers")
        at_least(self, 0, "nopeek_weight", "decoder_weight")
        _refuse_idle(self, self.net)
        for name in ("lr", "critic_lr", "clip_value", "decoder_lr"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")

    @property
    def run_dir(self) -> Path:
        default = f"{self.data.dataset}-{self.net.arch}-{self.net.kind}"
        if self.net.defence != "none":
            default += f"-{self.net.defence}"
        return self.output_dir or Path("runs") / default


@dataclass(frozen=True)
class Budget:
    """What the attackers of one victim may spend."""

    steps: int  # of training, for each network
    width: int  # channels of the decoders' first level and of the classifiers
    images: int  # test images that attacks are judged on, at most
    slow_images: int  # the same for attacks that search or optimise for each image
    slow_draws: int  # and their draws of keys and counterparts, at most
    iterations: int  # of an optimisation, for each start
    restarts: int  # starts from noise, beside the one from a decoder's answer
    repeats: int  # releases of one image, for an attacker who averages or intersects them


BUDGETS = {
    "quick": Budget(300, 16, 500, 50, 1, 100, 1, 4),
    "standard": Budget(1000, 24, 2000, 100, 2, 300, 1, 8),
    "thorough": Budget(4000, 32, 10_000, 500, 5, 1000, 3, 16),
}


@dataclass(frozen=True)
class AttackConfig:
    """Attack a trained network: recover its keys, its inputs and their hidden properties.
    ``attack.py compare RUN RUN ...`` puts attacked networks side by side."""

    attack: Positional[Attack]
    """angle, span, release, intersection, inversion, property, or all of them."""
    victim: Path
    """Run folder of the network to attack."""
    control: Path | None = None
    """Run folder of the unprotected network (kind additional): the positive control."""
    only: str | None = None
    """Only the attacks with this in their name, such as ica or dec(x); several as 'ica|dec(x)'."""
    budget: Spending = "standard"
    """What the attackers may spend; verdicts need standard. See docs/attacks.md."""
    output_dir: Path | None = None
    """Where rows, pictures and attackers go; None: the victim's folder or, for a victim in
    checkpoints/, its name in runs/published/."""
    data_dir: Path | None = None
    """Where the victim's data set lies now; None: where it was."""
    steps: int | None = None
    """Training steps of each attacker; None: the budget's."""
    capacity: float = 1.0
    """Factor on the widths of all attackers' networks."""
    batch_size: int = 128
    """Images per step."""
    lr: float = 2e-3
    """Peak of the one-cycle schedule (AdamW)."""
    draws: int = 5
    """Independent draws of the victim's keys and counterparts on the test images."""
    gallery: int = 1000
    """Candidates among which an image is to be identified."""
    limit_test: int | None = None
    """Judge on this many test images only, drawn with a fixed seed; None: the budget's."""
    auxiliary: str | None = None
    """The attacker's own images; None: those that the victim was trained on. held-out: images of
    the victim's data set that it was not trained on and that no attack is judged on. Or another
    data set's name, or a folder with train/<class>/* and test/<class>/*: then without labels."""
    auxiliary_limit: int | None = None
    """How many images the attacker has; None: all of them."""
    seed: int = 0
    """Seed of the attackers, their batches and all draws."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic in which the attackers' networks are trained; they are judged in fp32."""

    def __post_init__(self) -> None:
        check_numbers(self)
        choose("budget", self.budget, BUDGETS)
        choose("precision", self.precision, ("fp32", "bf16"))
        at_least(self, 1, "draws")
        at_least(self, 2, "batch_size", "gallery")
        if self.steps is not None:
            at_least(self, 1, "steps")
        if self.capacity <= 0:
            raise InputError(f"capacity must be positive, got {self.capacity}")
        if self.limit_test is not None:
            at_least(self, 2, "limit_test")
        if self.auxiliary_limit is not None:
            at_least(self, 10, "auxiliary_limit")
        if self.lr <= 0:
            raise InputError(f"lr must be positive, got {self.lr}")

    @property
    def run_dir(self) -> Path:
        return self.output_dir or results_of(self.victim)

    @property
    def has(self) -> str:
        """What distinguishes the attacker's images from all that the victim was trained on, for
        the names of its attacks; empty if nothing does."""
        if self.auxiliary is None and self.auxiliary_limit is None:
            return ""
        whose = Path(self.auxiliary).name if self.auxiliary else "training"
        count = f"{self.auxiliary_limit:,} " if self.auxiliary_limit else ""
        return f", {count}{whose} images"

    @property
    def spend(self) -> Budget:
        """The budget, with what the flags change about it."""
        spend = BUDGETS[self.budget]
        steps, images = self.steps or spend.steps, self.limit_test or spend.images
        slow = min(spend.slow_images, images)
        return dataclasses.replace(spend, steps=steps, images=images, slow_images=slow)


def results_of(victim: Path) -> Path:
    """Where new results about a victim go: into its folder, unless it was published (a folder above
    has a ``MANIFEST.json``), which leaves the repository's own files as they are."""
    for above in victim.absolute().parents:
        if (above / "MANIFEST.json").is_file():
            return Path("runs") / "published" / victim.absolute().relative_to(above)
    return victim


def check_numbers(config: Any) -> None:
    """Refuse what no setting can be: NaN, infinities, a seed that is no 63-bit number."""
    for spec in dataclasses.fields(config):
        value = getattr(config, spec.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{spec.name} must be a finite number, got {value}")
        if spec.name == "seed" and not 0 <= value < 2**63:
            raise InputError(f"seed must be at least 0 and below 2**63, got {value}")


def at_least(config: Any, bound: float, *names: str) -> None:
    """Refuse a setting below its bound, by name."""
    for name in names:
        if getattr(config, name) < bound:
            raise InputError(f"{name} must be at least {bound}, got {getattr(config, name)}")


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(config))


def command(config: Any, *, leave_out: Collection[str] = ()) -> str:
    """The shell command that gives ``config``: only flags that differ from their defaults."""
    script = {"TrainConfig": "train.py", "AttackConfig": "attack.py"}[type(config).__name__]
    return shlex.join(["python", script, *_flags(config, set(leave_out))])


def _flags(config: Any, leave_out: set[str]) -> list[str]:
    words: list[str] = []
    for spec in dataclasses.fields(config):
        value = getattr(config, spec.name)
        if dataclasses.is_dataclass(value):
            words += _flags(value, leave_out)
        elif "Positional" in str(spec.type):
            words.append(str(value))
        elif value != spec.default and spec.name not in leave_out and "Suppress" not in spec.type:
            flag = spec.name.replace("_", "-")
            bare = isinstance(value, bool)
            words += (
                [f"--{flag}" if value else f"--no-{flag}"] if bare else [f"--{flag}", str(value)]
            )
    return words


_PATHS = ("data_dir", "output_dir", "victim", "control")


# What a setting that a saved configuration lacks meant then, where today's default means another.
_BEFORE: dict[str, dict[str, Any]] = {"NetConfig": {"counterparts": "batch"}}


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """The inverse of :func:`to_dict`, also for what earlier versions saved; an unknown key is an
    error."""
    fields = {spec.name: spec for spec in dataclasses.fields(cls)}
    kept = dict(_BEFORE.get(cls.__name__, {}))
    for name, value in values.items():
        choose(f"setting of {cls.__name__}", name, sorted(fields))
        nested = fields[name].default_factory
        if dataclasses.is_dataclass(nested):
            value = from_dict(nested, value)
        elif isinstance(value, list):
            value = tuple(value)
        elif name in _PATHS and value is not None:
            value = Path(value)
        kept[name] = value

    def value_of(name: str) -> Any:
        if name in fields:
            return kept.get(name, fields[name].default)
        return getattr(kept.get("net", NetConfig), name)

    # A setting that was idle may have had another default when it was saved.
    if cls in (NetConfig, TrainConfig):
        kept = {name: value for name, value in kept.items() if _idle(name, value_of) is None}
    return cls(**kept)


# Settings that may differ when a run goes on: they do not change what it computes, except that
# more epochs stretch the schedule. The last four only say what to do with a folder.
MAY_CHANGE = (
    "epochs", "device", "workers", "data_dir", "draws", "save_as",
    "output_dir", "resume", "overwrite", "dry_run",
)  # fmt: skip


def changed(saved: TrainConfig, now: TrainConfig) -> list[str]:
    """Settings that differ and would alter the run, as ``name (saved -> now)``."""

    def flat(tree: dict[str, Any]) -> dict[str, Any]:
        inner = [flat(v) if isinstance(v, dict) else {k: v} for k, v in tree.items()]
        return {k: v for part in inner for k, v in part.items()}

    before, after = flat(to_dict(saved)), flat(to_dict(now))
    return [
        f"{name} ({before[name]} -> {after[name]})"
        for name in before
        if name not in MAY_CHANGE and before[name] != after[name]
    ]
