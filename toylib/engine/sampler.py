"""Draw batches of pairs of similar length, in an order that a resumed run repeats exactly."""

from __future__ import annotations

import torch


class LengthGrouped(torch.utils.data.Sampler):
    """Yield every index once, in an order drawn by `seed()`, so that a batch of `size` holds rows of similar length.

    Fifty batches at a time are drawn, sorted by length and shuffled as batches. The order depends on the seed alone,
    so a resumed run goes on with exactly the batches that are left. transformers' own `LengthGroupedSampler` cannot
    do that from the second epoch on, because the Trainer lets it draw from PyTorch's global generator, and a
    checkpoint does not hold the state of that generator at the start of its epoch.
    """

    def __init__(self, lengths, size, seed):
        self.lengths, self.size, self.seed = lengths, size, seed

    def __len__(self):
        return len(self.lengths)

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed())
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        left_over = order[: len(order) % self.size]  # taken before sorting, or it would always be the longest rows
        order, batches = order[len(left_over) :], []
        for start in range(0, len(order), 50 * self.size):
            drawn = sorted(order[start : start + 50 * self.size], key=lambda i: self.lengths[i])
            batches += [drawn[i : i + self.size] for i in range(0, len(drawn), self.size)]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[i]
        yield from left_over
