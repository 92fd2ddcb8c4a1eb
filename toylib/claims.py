"""Claims: statements that a notebook makes and checks at once."""

from __future__ import annotations


def claim(id: str, text: str, holds: object, evidence: str = "") -> None:
    """Print "✓ id  text" if `holds` is true, raise `AssertionError` with the text if it is not.

    `holds` is computed from a run, never a literal. `evidence` is what the run showed, printed under the text.
    """
    line = f"{id}  {text}" + (f"\n       {evidence}" if evidence else "")
    if not bool(holds):
        raise AssertionError(f"✗ {line}")
    print(f"✓ {line}")
