"""The collator of `DPOTrainer`. It stands by itself so that data workers can unpickle it without the trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

NOT_MODEL_INPUTS = ("ref_logps", "lengths", "numbers")  # what a batch holds in addition to the model's inputs


@dataclass(frozen=True)
class Collator:
    """Put tokenised pairs with reference log-probs into one batch.

    `collate_inputs` is `tokens.collate` or `prefix_sharing.collate_rows`. `dtype` is that of the reference log-probs.
    """

    collate_inputs: Callable
    pad_token_id: int
    dtype: torch.dtype

    def __call__(self, rows) -> dict[str, torch.Tensor]:
        """Return the model's inputs, `ref_logps` and reply `lengths` `(batch, 2)`, and row `numbers` `(batch,)`.

        Raises `ValueError` for rows that the reference has not scored.
        """
        if "ref_logps" not in rows[0]:
            raise ValueError(
                "the reference scores pairs once, at construction: pass held-out ones there (eval_dataset)"
            )
        return self.collate_inputs(rows, self.pad_token_id) | {
            "ref_logps": torch.tensor([row["ref_logps"] for row in rows], dtype=self.dtype),
            "lengths": torch.tensor([[len(row["chosen"]), len(row["rejected"])] for row in rows]),
            "numbers": torch.tensor([row["number"] for row in rows]),
        }
