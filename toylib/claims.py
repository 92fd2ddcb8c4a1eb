"""Claims: sentences that a notebook states and checks in one breath, and what the committed notebooks have claimed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

PRINTED = re.compile(r"^✓ ([CD]\d\d)  (.+)$", re.MULTILINE)


def claim(id: str, text: str, holds, evidence: str = "") -> None:
    """Print "✓ id  text" if `holds` is true, raise `AssertionError` with the text if it is not.

    `holds` is computed from a run, never a literal. `evidence` is what the run showed, printed under the text.
    """
    line = f"{id}  {text}" + (f"\n       {evidence}" if evidence else "")
    if not bool(holds):
        raise AssertionError(f"✗ {line}")
    print(f"✓ {line}")


class Claimed(NamedTuple):
    notebook: str  # file name
    text: str


def claimed(folder) -> dict[str, list[Claimed]]:
    """What the notebooks in `folder` claimed when they were last run: id → `Claimed`, in the order of the notebooks.

    Read from the saved outputs, not from the code: a claim whose cell was not run, or failed, is not in it.
    """
    found = {}
    for path in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                for id, text in PRINTED.findall("".join(output.get("text", ""))):
                    found.setdefault(id, []).append(Claimed(path.name, text))
    return found
