"""Claims: statements that a notebook makes and checks at once."""

from __future__ import annotations


def claim(id: str, text: str, holds: object, evidence: str = "") -> None:
    """Print "✓ text", and `evidence` on a line of its own, if `holds` is true.

    Args:
        id: the key by which tests and the cards of notebook 10 find the claim. It is never shown.
        text: the statement, as a reader should see it.
        holds: the result of a check, computed from a run and never a literal.
        evidence: what the run showed.

    Raises:
        AssertionError: `holds` is false. The message is "✗ text" with the evidence.
    """
    line = text + (f"\n  {evidence}" if evidence else "")
    if not bool(holds):
        raise AssertionError(f"✗ {line}")
    print(f"✓ {line}")
