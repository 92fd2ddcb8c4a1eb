"""The judge that PPO hires: a reward model from preference pairs, and scorers of other kinds. Notebook 07.

A *scorer* is any function `scorer(prompts, replies)` of a list of strings and the `Replies` to them that gives one
number a reply. The reward model is one, and so is a rule.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from toylib.evaluation.judge import judge
from toylib.logps import position_ids
from toylib.tokens import collate, tokenize_pairs
from toylib.train import batches, optimizer_step


class ScalarModel(torch.nn.Module):
    """A language model with one number a position in place of a vocabulary: reward model and value model are this.

    The trunk is a copy of `model`'s; the head begins at zero, so that at first every position gets 0.
    """

    def __init__(self, model):
        super().__init__()
        self.trunk = copy.deepcopy(model.base_model).requires_grad_(True).eval()
        place = {"device": model.device, "dtype": model.dtype}
        self.head = torch.nn.utils.skip_init(torch.nn.Linear, model.config.get_text_config().hidden_size, 1, **place)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`(batch, length)`: a number for each position, which has seen the tokens up to and with its own."""
        places = position_ids(self.trunk, attention_mask)
        out = self.trunk(input_ids=input_ids, attention_mask=attention_mask, position_ids=places, use_cache=False)
        return self.head(out.last_hidden_state).squeeze(2)


def reply_scores(reward_model, input_ids, attention_mask, completion_mask) -> Tensor:
    """The reward model's number at the last token of each reply, `(batch,)`; inputs as for `sequence_logps`."""
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    last = (completion_mask * places).argmax(dim=1, keepdim=True)
    return reward_model(input_ids, attention_mask).gather(1, last).squeeze(1)


def train_reward_model(model, tokenizer, pairs, *, learning_rate=3e-4, steps=26, batch_size=24, seed=0):
    """A reward model from preference pairs; returns `(reward_model, history)`, and `model` is left untouched.

    The loss is −log σ(score of chosen − score of rejected): Bradley–Terry, Ouyang et al. 2022, eq. 1. The first one is
    ln 2. `history` is a DataFrame indexed by step with `loss` and `accuracy` of each batch before its update.
    """
    import pandas

    rows = tokenize_pairs(pairs, tokenizer)
    reward_model, history = ScalarModel(model), []
    optimizer = torch.optim.AdamW(reward_model.parameters(), lr=learning_rate, weight_decay=0.0)
    for step, indices in enumerate(batches(len(rows), batch_size, steps, seed), start=1):
        batch = collate([rows[i] for i in indices], tokenizer.pad_token_id, model.device)
        chosen, rejected = reply_scores(reward_model, **batch).chunk(2)
        loss = -F.logsigmoid(chosen - rejected).mean()
        optimizer_step(loss, optimizer, reward_model, f"step {step}")
        history.append((step, loss.item(), (chosen > rejected).float().mean().item()))
    optimizer.zero_grad()  # it is done: no gradients are kept beside the weights
    return reward_model.requires_grad_(False), pandas.DataFrame(
        history, columns=["step", "loss", "accuracy"]
    ).set_index("step")


@torch.no_grad()
def reward_accuracy(reward_model, tokenizer, pairs, batch_size=64) -> float:
    """The share of pairs whose chosen reply the reward model scores higher."""
    rows, right = tokenize_pairs(pairs, tokenizer), 0
    for start in range(0, len(rows), batch_size):
        batch = collate(rows[start : start + batch_size], tokenizer.pad_token_id, reward_model.head.weight.device)
        chosen, rejected = reply_scores(reward_model, **batch).chunk(2)
        right += (chosen > rejected).sum().item()
    return right / len(rows)


def scorer_of(reward_model):
    """The reward model as a scorer."""

    @torch.no_grad()
    def scorer(prompts, replies):
        return reply_scores(reward_model, *replies[1:])

    return scorer


def brief_scorer(intent_of):
    """A composite scorer, of parts that the style pairs never weigh: the judge's score, minus 1/40 for every word.

    `intent_of` is a dict from prompt to intent. The judge's score already joins politeness, topic and facts.
    """

    def scorer(prompts, replies):
        judged = judge(prompts, replies.texts, [intent_of[prompt] for prompt in prompts])
        return (judged["score"] - judged["words"] / 40).tolist()

    return scorer


def score(scorer, prompts, replies) -> Tensor:
    """The scorer's numbers as a checked tensor, `(replies,)`; `ValueError` for any that are missing or not finite."""
    scores = torch.as_tensor(scorer(prompts, replies), dtype=torch.float32)
    if scores.shape != (len(prompts),) or not torch.isfinite(scores).all():
        raise ValueError(f"the scorer must give {len(prompts)} finite numbers, one a reply; got {tuple(scores.shape)}")
    return scores
