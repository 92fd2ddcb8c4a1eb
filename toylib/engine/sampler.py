"""A sampler that batches pairs of like length and resumes exactly."""

from __future__ import annotations

import torch


class LengthGrouped(torch.utils.data.Sampler):
    """Every index once, in an order drawn by `seed()`, so that a batch of `size` holds rows of like length.

    Fifty batches at a time are drawn, sorted by length and shuffled as batches. The order depends on the seed alone,
    so a resumed run goes on with the very batches that are left.
    """

    def __init__(self, lengths, size, seed):
        self.lengths, self.size, self.seed = lengths, size, seed

    def __len__(self):
        return len(self.lengths)

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed())
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        rest = order[: len(order) % self.size]  # drawn before anything is sorted, or it would be the longest, always
        order, batches = order[len(rest) :], []
        for start in range(0, len(order), 50 * self.size):
            drawn = sorted(order[start : start + 50 * self.size], key=lambda i: self.lengths[i])
            batches += [drawn[i : i + self.size] for i in range(0, len(drawn), self.size)]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[i]
        yield from rest
