"""Code broken on purpose behind a claim breaks the claim: each notebook is run on a library with one line changed."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

# claim, notebook, module, line, what stands there instead
BROKEN = [
    ("C11", "01", "loss", "delta = chosen_logratios - rejected_logratios", "delta = chosen_logratios + rejected_logratios"),
    ("C12", "01", "loss", "-(1 - label_smoothing) * F.logsigmoid(z)", "-(1 - label_smoothing) * F.logsigmoid(-z)"),
    ("C05", "02", "logps", "logits = outputs.logits[:, :-1]", "logits = outputs.logits[:, 1:]"),
    ("C06", "02", "logps", "torch.where(scored, logps, torch.zeros_like(logps)).sum(dim=1)", "logps.sum(dim=1)"),
    ("D01", "02", "loss", "policy_chosen_logps - ref_chosen_logps", "policy_chosen_logps"),
    ("D02", "02", "loss", "z = beta * delta", "z = delta"),
    ("D04", "02", "tokens", "ids if closed or ids[-1:] == [eos] else ids + [eos]", "ids"),
    ("C07", "03", "loss", "-(1 - label_smoothing) * F.logsigmoid(z)", "-(1 - label_smoothing) * F.logsigmoid(-z)"),
    ("C10", "03", "loss", "delta = chosen_logratios - rejected_logratios", "delta = chosen_logratios + rejected_logratios"),
    ("C33", "03", "loss", "-(1 - label_smoothing) * F.logsigmoid(z)", "-(1 - label_smoothing) * F.logsigmoid(-z)"),
    ("D10", "03", "loss", "torch.sigmoid(-beta * delta)", "torch.sigmoid(beta * delta)"),
]  # fmt: skip

# Runs the cells of a notebook on the broken module and prints which claims were made and which of them held. A cell that
# fails for another reason is left: what is asked is whether the claim would have been printed.
RUN = """
import json, sys
import nbformat
import toylib
held = {}
toylib.claim = lambda name, text, holds, evidence="": held.__setitem__(name, bool(holds))
scope = {"__name__": "__main__"}
for cell in nbformat.read(sys.argv[1], as_version=4).cells:
    if cell.cell_type == "code":
        try:
            exec(compile(cell.source, cell.id, "exec"), scope)
        except Exception as problem:
            print(cell.id, type(problem).__name__, problem, file=sys.stderr)
print(json.dumps([toylib.__file__, held]))
"""


def claims_held(folder, notebook, module="", old="", new=""):
    """Claim → whether it held, of a notebook on a copy of the library with `old` in `module` replaced by `new`."""
    path = next((ROOT / "notebooks").glob(f"{notebook}_*.ipynb"))
    shutil.copytree(ROOT / "toylib", folder / "toylib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("data", "notebooks"):
        (folder / name).symlink_to(ROOT / name, target_is_directory=True)
    if module:
        broken = folder / "toylib" / f"{module}.py"
        source = broken.read_text(encoding="utf-8")
        assert source.count(old) == 1, f"{module}.py has {source.count(old)} times {old!r}"
        broken.write_text(source.replace(old, new), encoding="utf-8")
    environment = os.environ | {"MPLBACKEND": "agg", "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", RUN, str(path)]
    done = subprocess.run(
        command, cwd=folder / "notebooks", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    used, held = json.loads(done.stdout.splitlines()[-1])
    assert used.startswith(str(folder))
    return held


@pytest.mark.parametrize("notebook", ["01", "02", "03"])
def test_unbroken_every_claim_holds(notebook, tmp_path):
    held = claims_held(tmp_path, notebook)
    assert held and all(held.values())


@pytest.mark.parametrize("name, notebook, module, old, new", BROKEN, ids=[f"{row[0]}-{row[2]}" for row in BROKEN])
def test_the_claim_fails_when_the_code_behind_it_is_broken(name, notebook, module, old, new, tmp_path):
    assert claims_held(tmp_path, notebook, module, old, new).get(name) is not True
