"""What the pages tell a reader to type: the code runs, and the commands exist with these flags."""

import re
import shlex
from pathlib import Path

import pytest

from complexnn import config, config_attack
from complexnn.commands import app, campaign, measure, publish, report
from complexnn.commands import attack as attack_command
from complexnn.commands import train as train_command
from complexnn.speed import bench, scaling

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = {
    "train.py": config.TrainConfig,
    "attack.py": config_attack.AttackConfig,
    "attack.py compare": attack_command.CompareConfig,
    "complexnn.bench": bench.BenchConfig,
    "complexnn.campaign": campaign.CampaignConfig,
    "complexnn.checkpoints": publish.CheckpointsConfig,
    "complexnn.report": report.ReportConfig,
    "complexnn.scaling": scaling.ScalingConfig,
    **{f"complexnn.{name}": made.config for name, made in measure.MEASUREMENTS.items()},
}


def commands():
    """Every ``python train.py ...``, ``python -m complexnn.bench ...`` of the pages, as words."""
    typed = set()
    for page in PAGES:
        text = page.read_text()
        lines = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).splitlines()
        lines += [code.replace("\n", " ") for code in re.findall(r"`(python [^`]*)`", text)]
        for line in lines:
            words = shlex.split(re.sub(r"[\[\]]| < .*", "", line), comments=True)
            if words[:1] == ["python"]:
                typed.add(tuple(words[2:] if words[1] == "-m" else words[1:]))
    return sorted(w for w in typed if w[0] != "pytest" and not w[0].startswith("scripts/"))


def test_pages_hold_commands():
    assert {words[0] for words in commands()} >= {name.split()[0] for name in CONFIGS}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_flags_that_exist(words):
    script, *flags = words
    if flags[:1] == ["compare"]:
        script, flags = f"{script} compare", flags[1:]
    if flags == ["--help"]:
        return
    app.parse(CONFIGS[script], train_command._bare_resume(flags), script)


def test_every_script_and_file_is_there():
    for page in PAGES:
        for path in re.findall(r"scripts/[\w.]+|docs/[\w-]+\.md|assets/[\w.-]+", page.read_text()):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        app.run(train_command.main, ["--limit-train", "100", "--epochs", "1", "--device", "cpu"])
        == 0
    )
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    known = {}
    for block in blocks:
        exec(block, known)
