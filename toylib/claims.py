"""Claims: statements that a notebook makes and checks at once."""

from __future__ import annotations


def claim(id: str, text: str, holds: object, evidence: str = "") -> None:
    """Print "✓ text", and what the run showed under it, or raise `AssertionError` with both if `holds` is false.

    `holds` is computed from a run, never a literal. Tests and notebook 10 find the claim by `id`, which is never shown.
    """
    line = text + (f"\n  {evidence}" if evidence else "")
    if not bool(holds):
        raise AssertionError(f"✗ {line}")
    print(f"✓ {line}")
