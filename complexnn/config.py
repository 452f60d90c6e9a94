"""Configuration: every setting of a network, its data and its training, with its one default.

The command line of ``train.py`` is generated from these dataclasses, and the resolved values are
saved with every run. The attacks' settings are in :mod:`complexnn.config_attack`.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes, Suppress

from complexnn.config_idle import why_idle

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


class InputError(ValueError):
    """Something the user can mend: the command line shows it as one line and exits with 2."""


def choose(what: str, name: str, known: Collection[str]) -> str:
    """Return ``name`` if it is one of ``known``; otherwise say which ones there are."""
    if name not in known:
        raise InputError(f"unknown {what} {name!r}; known: {', '.join(known)}")
    return name


def check_numbers(config: Any) -> None:
    """Refuse what no setting can be: NaN, infinities, a seed that is no 63-bit number."""
    for spec in dataclasses.fields(config):
        value = getattr(config, spec.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{spec.name} must be a finite number, got {value}")
        if spec.name == "seed" and not 0 <= value < 2**63:
            raise InputError(f"seed must be at least 0 and below 2**63, got {value}")


def check_choices(config: Any) -> None:
    """Refuse a setting that is none of the values of its type, where that is a ``Literal``."""
    for name, known in _choices(type(config)).items():
        choose(name, getattr(config, name), known)


@cache  # the types are looked up once, and configurations made by the thousand
def _choices(cls: type) -> dict[str, tuple[str, ...]]:
    hints = typing.get_type_hints(cls)
    literal = {name: hint for name, hint in hints.items() if typing.get_origin(hint) is Literal}
    return {name: typing.get_args(hint) for name, hint in literal.items()}


def at_least(config: Any, bound: float, *names: str) -> None:
    """Refuse, by name, a setting below its bound; None passes."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < bound:
            raise InputError(f"{name} must be at least {bound}, got {value}")


def positive(config: Any, *names: str) -> None:
    """Refuse, by name, a setting that is 0 or less; None passes."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise InputError(f"{name} must be positive, got {value}")


def refuse_idle(config: Any, beside: Any = None) -> None:
    """Refuse settings of ``config`` that were changed though they have no effect beside the other
    ones of ``config`` and ``beside``."""

    def value_of(name: str) -> Any:
        return getattr(config if hasattr(config, name) else beside, name)

    for spec in dataclasses.fields(config):
        if getattr(config, spec.name) != spec.default:
            reason = why_idle(spec.name, value_of)
            if reason is not None:
                raise InputError(f"{spec.name} applies to {reason}")


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
    gamma: float = 0.2  # the least of the paper's 0.2, 0.5 and 1.0
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
        check_choices(self)
        check_numbers(self)
        refuse_idle(self)
        if self.dim < 2:
            raise InputError(
                f"dim must be at least 2, got {self.dim}; without rotation: additional"
            )
        if self.weights == "complex" and self.parts != 2:
            raise InputError(f"complex weights need 2 parts, got {self.parts}; use weights real")
        at_least(self, 0, "gaussian_decoys", "gamma")
        positive(self, "decoy_scale", "epsilon", "in_channels", "generator_width")
        if not 0 <= self.drop_rate < 1:
            raise InputError(f"drop_rate must be at least 0 and below 1, got {self.drop_rate}")
        if not 1 <= self.bits <= 16:
            raise InputError(f"bits must be 1 to 16, got {self.bits}")
        if self.num_classes < 2:
            raise InputError(f"a classifier needs at least 2 classes, got {self.num_classes}")
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
        at_least(self, 2, "limit_train", "resize")


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
    lr: float = 3e-3  # chosen by hand
    """Peak of the one-cycle schedule."""
    weight_decay: float = 0.05  # chosen by hand
    """Weight decay, on weights of two or more axes only."""
    adversarial_weight: float = 0.05  # chosen by hand
    """Weight of the adversarial term, kind complex; 0 switches critic and term off."""
    wrong_keys: int = 5  # as in the 2021 reproduction
    """Wrong keys k that the critic sees for each true feature."""
    critic_lr: float = 2e-4  # as Radford et al. 2016, arXiv 1511.06434
    """Learning rate of the critic (Adam)."""
    critic_steps: int = 1
    """Steps of the critic for each step of the network that has one."""
    critic_every: int = 1
    """Train the critic, and use the adversarial term, on every n-th step."""
    critic_constraint: Literal["gradient-penalty", "weight-clipping"] = "gradient-penalty"
    """How the critic is kept Lipschitz."""
    gradient_penalty: float = 10.0  # as Gulrajani et al. 2017, arXiv 1704.00028
    """Weight of the gradient penalty."""
    clip_value: float = 0.01  # as Arjovsky et al. 2017, arXiv 1701.07875
    """Bound of each weight under weight clipping."""
    nopeek_weight: float = 1.0  # chosen by hand, as are the next two
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
        check_choices(self)
        check_numbers(self)
        at_least(self, 1, "epochs", "batch_size", "wrong_keys", "critic_steps", "critic_every")
        at_least(self, 1, "draws")
        at_least(self, 0, "adversarial_weight", "weight_decay", "gradient_penalty", "workers")
        at_least(self, 0, "nopeek_weight", "decoder_weight")
        refuse_idle(self, self.net)
        positive(self, "lr", "critic_lr", "clip_value", "decoder_lr")

    @property
    def run_dir(self) -> Path:
        default = f"{self.data.dataset}-{self.net.arch}-{self.net.kind}"
        if self.net.defence != "none":
            default += f"-{self.net.defence}"
        return self.output_dir or Path("runs") / default
