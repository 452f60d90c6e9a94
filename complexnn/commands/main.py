"""``complexnn NAME FLAGS``: every command by its name, for an installed package."""

from __future__ import annotations

from importlib import import_module

from complexnn.commands.app import run
from complexnn.config import choose

# Module of this folder, function, and what it does. The modules are imported when they are asked
# for.
COMMANDS = {
    "train": ("train", "main", "train a split network, test it once, save it"),
    "attack": ("attack", "main", "attack a trained network, or compare attacked ones"),
    "report": ("report", "main", "tables and verdicts of runs, beside the paper's numbers"),
    "campaign": ("campaign", "main", "run many commands, several at once, skipping what is done"),
    "checkpoints": ("publish", "main", "list, verify, download or publish trained networks"),
    "linearity": ("measure", "linearity", "how much of an answer is due to its query"),
    "gaussianity": ("measure", "gaussianity", "how Gaussian features are before and after a key"),
    "offload": ("measure", "offload", "run a plain network's server behind Gaussian decoys"),
    "bench": ("bench", "main", "speed, side by side"),
    "scaling": ("scaling", "main", "how time and memory grow"),
}


def main(argv: list[str]) -> None:
    """Start the command that the first word names."""
    name, *flags = argv or ["--help"]
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:<{width}}  {what}" for name, (_, _, what) in COMMANDS.items()]
        print("usage: complexnn NAME FLAGS; complexnn NAME --help lists a command's flags\n")
        print("\n".join(lines))
        return
    choose("command", name, COMMANDS)
    module, function, _ = COMMANDS[name]
    getattr(import_module(f"complexnn.commands.{module}"), function)(flags)


def command() -> int:
    """``complexnn``, which an installation puts on the path."""
    return run(main)
