"""A reward model from preference pairs, and other scorers for PPO and online DPO. Shown in notebook 07.

A *scorer* is any function `scorer(prompts, replies)` of a list of strings and the `Replies` to them that returns one
number per reply. The reward model is one, and so is a rule.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from toylib.engine.arguments import check_counts
from toylib.evaluation.judge import brief_score, find_slots, judge
from toylib.labs.loops import end_on_interrupt, history_table, pair_accuracy, trainable_copy
from toylib.logps import position_ids
from toylib.tokens import collate, tokenize_pairs
from toylib.train import batches, optimizer_step


class ScalarModel(torch.nn.Module):
    """A language model with one number per position in place of a vocabulary, for the reward and the value model.

    The trunk is a copy of `model`'s and trains the weights that require a gradient there. The head starts at zero, so
    every position gets 0 at first.
    """

    def __init__(self, model):
        super().__init__()
        self.trunk = trainable_copy(model.base_model)
        place = {"device": model.device, "dtype": model.dtype}
        self.head = torch.nn.utils.skip_init(torch.nn.Linear, model.config.get_text_config().hidden_size, 1, **place)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return `(batch, length)`: a number for each position, which has seen the tokens up to and including its own."""
        places = position_ids(self.trunk, attention_mask)
        out = self.trunk(input_ids=input_ids, attention_mask=attention_mask, position_ids=places, use_cache=False)
        return self.head(out.last_hidden_state).squeeze(2)


def reply_scores(reward_model, input_ids, attention_mask, completion_mask) -> Tensor:
    """Return the number at the last token of each reply, `(batch,)`. The inputs are those of `sequence_logps`."""
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    last = (completion_mask * places).argmax(dim=1, keepdim=True)
    return reward_model(input_ids, attention_mask).gather(1, last).squeeze(1)


def train_reward_model(model, tokenizer, pairs, *, learning_rate=3e-4, steps=26, batch_size=24, seed=0):
    """Train a reward model on preference pairs. Return `(reward_model, history)`; `model` is left untouched.

    The loss is −log σ(score of chosen − score of rejected) (Bradley–Terry; Ouyang et al. 2022, arXiv 2203.02155, eq. 1).
    The first one is ln 2. `history` is a DataFrame indexed by step with `loss` and `accuracy` of each batch before its
    update. Raises `ValueError` for steps or a batch size that is not a whole number, and `FloatingPointError` for a loss
    that is not finite. An interrupt keeps what was trained.
    """
    check_counts(steps=steps, batch_size=batch_size)
    rows = tokenize_pairs(pairs, tokenizer)
    reward_model, history = ScalarModel(model), []
    optimizer = torch.optim.AdamW(reward_model.parameters(), lr=learning_rate, weight_decay=0.0)
    with end_on_interrupt(history, steps):
        for step, indices in enumerate(batches(len(rows), batch_size, steps, seed), start=1):
            batch = collate([rows[i] for i in indices], tokenizer.pad_token_id, model.device)
            chosen, rejected = reply_scores(reward_model, **batch).chunk(2)
            loss = -F.logsigmoid(chosen - rejected).mean()
            optimizer_step(loss, optimizer, reward_model, f"step {step}")
            accuracy = (chosen > rejected).float().mean().item()
            history.append({"step": step, "loss": loss.item(), "accuracy": accuracy})
    optimizer.zero_grad()  # frees the gradients
    return reward_model.requires_grad_(False), history_table(history)


def reward_accuracy(reward_model, tokenizer, pairs, batch_size=64) -> float:
    """Return the share of pairs whose chosen reply the reward model scores higher, from 0 to 1."""

    def score_pairs(rows):
        batch = collate(rows, tokenizer.pad_token_id, reward_model.head.weight.device)
        return reply_scores(reward_model, **batch).chunk(2)

    return pair_accuracy(score_pairs, tokenize_pairs(pairs, tokenizer), batch_size)


def scorer_of(reward_model):
    """Return a scorer that gives the reward model's numbers, without gradient."""

    @torch.no_grad()
    def scorer(prompts, replies):
        return reply_scores(reward_model, *replies[1:])

    return scorer


def brief_scorer(intent_of, per_word):
    """Return a scorer that gives `brief_score`. `intent_of` is a dict from prompt to intent."""

    def scorer(prompts, replies):
        return brief_score(judge(prompts, replies.texts, [intent_of[prompt] for prompt in prompts]), per_word).tolist()

    return scorer


def quotes_order(prompt, reply) -> bool:
    """Return whether a reply quotes an order number, and every one that it quotes is in the prompt."""
    quoted, given = ({value for kind, value in find_slots(text) if kind == "order"} for text in (reply, prompt))
    return bool(quoted) and quoted <= given


def order_scorer(prompts, replies):
    """Score replies by a rule that can be verified: 1.0 where `quotes_order` holds, else 0.0. It needs no model and no label."""
    return [float(quotes_order(prompt, reply)) for prompt, reply in zip(prompts, replies.texts, strict=True)]


def checked_scores(scorer, prompts, replies) -> Tensor:
    """Return the scorer's numbers as a tensor `(replies,)`. Raises `ValueError` if one is missing or not finite."""
    scores = torch.as_tensor(scorer(prompts, replies), dtype=torch.float32)
    if scores.shape != (len(prompts),) or not torch.isfinite(scores).all():
        raise ValueError(
            f"the scorer must give {len(prompts)} finite numbers, one per reply; got {tuple(scores.shape)}"
        )
    return scores
