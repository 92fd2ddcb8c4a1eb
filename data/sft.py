"""Train the support model from scratch, before `build.py` samples pairs from it.

Three things make this possible in minutes on two cores, and each was tried without: Muon in place of AdamW for the
weight matrices, small batches, and a head (discarded later) that predicts the intent at the last prompt token.
"""

from __future__ import annotations

import contextlib
import random
import time

import compose
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from toylib.train import slices

SHAPE = {"hidden_size": 96, "intermediate_size": 288, "num_hidden_layers": 4, "num_attention_heads": 4}
LARGE = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
LARGE |= {"num_key_value_heads": 3, "vocab_size": 49152}  # SmolLM2-135M's, most of its vocabulary never used here
# Steps, share of copying exercises, mix of styles. Exercises alone come first, because they teach to copy both halves of
# an order number in half a minute. Mixed in from the start, the second half is sometimes not learned at all. Then come
# all styles, mostly the longer replies, and at last, while the rate falls, the mix that the model ships with.
PHASES = ((250, 1.0, compose.STYLES), (3300, 0.15, compose.KIND_STYLES), (700, 0.1, compose.STYLES))
BATCH, CHUNK = 32, 20  # rows per step; steps whose rows are sorted by length together
MATRIX_RATE, OTHER_RATE, DECAY = 4e-3, 3e-3, 0.05
PROMPT_WEIGHT, PROMPT_SHARE, TOPIC_WEIGHT = 0.4, 0.25, 0.5  # a quarter of the rows also learn to predict the prompt


class Muon(torch.optim.Optimizer):
    """An optimizer with orthogonalised momentum for matrices (Jordan 2024, kellerjordan.github.io/posts/muon).

    `torch.optim.Muon` is the same but multiplies in bf16 and one matrix at a time, which doubles the time of the whole
    step on a CPU without bf16 units. Here it is fp32, with all matrices of one shape at once. The update's root mean
    square is about 0.2, as AdamW's, so rates and decay compare with AdamW's.
    """

    def __init__(self, matrices, lr, weight_decay, momentum=0.95):
        shapes = {}
        for matrix in matrices:
            shapes.setdefault(matrix.shape, []).append(matrix)
        settings = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__([{"params": group} for group in shapes.values()], settings)

    @torch.no_grad()
    def step(self):
        """Make one update from the gradients."""
        for group in self.param_groups:
            matrices, rate = group["params"], group["lr"]
            gradient = torch.stack([matrix.grad for matrix in matrices])
            average = self.state[matrices[0]].setdefault("average", torch.zeros_like(gradient))
            average.lerp_(gradient, 1 - group["momentum"])
            update = orthogonal(gradient.lerp(average, group["momentum"]))
            update *= 0.2 * max(update.shape[1:]) ** 0.5
            for matrix, change in zip(matrices, update, strict=True):
                matrix.mul_(1 - rate * group["weight_decay"]).sub_(change, alpha=rate)


def orthogonal(matrices):
    """Return a stack of matrices with singular values brought near 1 by five Newton-Schulz steps."""
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = wide @ wide.mT
        wide = 3.4445 * wide + (-4.7750 * square + 2.0315 * square @ square) @ wide
    return wide if wide.shape == matrices.shape else wide.mT


def new_model(tokenizer, seed, shape=SHAPE):
    """Return a Llama of `shape` with random weights."""
    set_seed(seed)
    config = LlamaConfig(
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        **({"vocab_size": len(tokenizer)} | shape),
    )
    return LlamaForCausalLM(config)


def train_sft(model, tokenizer, examples_of, seed, pace=1.0, share=1.0):
    """Train `model` in place through `PHASES`. `examples_of(rng, styles)` yields (prompt, reply, number of the intent).

    `pace` scales the rates, because a larger model needs smaller steps. `share` scales the steps of every phase. On a
    GPU it computes in bf16 autocast. Returns the last loss.
    """
    phases = [(max(1, round(share * count)), *rest) for count, *rest in PHASES]
    topic_head = torch.nn.Linear(model.config.hidden_size, len(compose.INTENTS)).to(model.device)
    named = [*model.named_parameters(), *topic_head.named_parameters()]
    matrices = [p for name, p in named if "layers." in name and p.ndim == 2]
    others = [p for name, p in named if not ("layers." in name and p.ndim == 2)]
    steps = sum(count for count, *_ in phases)
    optimizers = [
        Muon(matrices, pace * MATRIX_RATE, DECAY),
        torch.optim.AdamW(others, lr=pace * OTHER_RATE, betas=(0.9, 0.98), weight_decay=DECAY),
    ]
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, pace * rate, total_steps=steps, pct_start=0.1, cycle_momentum=False, final_div_factor=100
        )
        for optimizer, rate in zip(optimizers, (MATRIX_RATE, OTHER_RATE), strict=True)
    ]
    started = time.monotonic()
    for step, rows in enumerate(sft_batches(tokenizer, examples_of, random.Random(seed), phases), start=1):
        with torch.autocast("cuda", torch.bfloat16) if model.device.type == "cuda" else contextlib.nullcontext():
            loss = sft_loss(model, topic_head, rows, tokenizer.pad_token_id)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        for one in (*optimizers, *schedules):
            one.step()
        if step % 100 == 0 or step == steps:
            print(f"sft {step}/{steps}  loss {loss.item():.3f}  {time.monotonic() - started:.0f} s", flush=True)
    return loss.item()


def sft_batches(tokenizer, examples_of, rng, phases):
    """Yield the batches of all `phases`: lists of (prompt ids, reply ids, number of the intent) of similar length."""
    for steps, drill_share, styles in phases:
        examples, left = examples_of(rng, styles), steps
        while left:
            count = min(CHUNK, left) * BATCH
            drawn = [compose.copy_drill(rng) if rng.random() < drill_share else next(examples) for _ in range(count)]
            prompts, replies, topics = zip(*drawn, strict=True)
            prompts = tokenizer(list(prompts))["input_ids"]
            replies = tokenizer([reply + tokenizer.eos_token for reply in replies])["input_ids"]
            rows = sorted(zip(prompts, replies, topics, strict=True), key=lambda row: len(row[0]) + len(row[1]))
            batches = list(slices(rows, BATCH))
            rng.shuffle(batches)
            yield from batches
            left -= len(batches)


def sft_loss(model, topic_head, rows, pad):
    """Return the cross-entropy of replies, of some prompts at a lower weight, and of intents at prompts' last tokens."""
    length = max(len(prompt) + len(reply) for prompt, reply, _ in rows)
    input_ids = torch.full((len(rows), length), pad)
    weight = torch.zeros(len(rows), length)
    for i, (prompt, reply, _) in enumerate(rows):
        end = len(prompt) + len(reply)
        input_ids[i, :end] = torch.tensor(prompt + reply)
        weight[i, len(prompt) : end] = 1.0
        if i < PROMPT_SHARE * len(rows):
            weight[i, : len(prompt)] = PROMPT_WEIGHT
    input_ids, weight = input_ids.to(model.device), weight.to(model.device)
    # With padding on the right, causal attention keeps it out.
    hidden = model.model(input_ids=input_ids, use_cache=False).last_hidden_state
    scored = weight[:, 1:] > 0
    weight = weight[:, 1:][scored]
    losses = F.cross_entropy(model.lm_head(hidden[:, :-1][scored]), input_ids[:, 1:][scored], reduction="none")
    last = torch.tensor([len(prompt) - 1 for prompt, _, _ in rows], device=model.device)
    topics = torch.tensor([topic for _, _, topic in rows], device=model.device)  # -100 for an exercise, which has none
    topic_logits = topic_head(hidden[torch.arange(len(rows), device=model.device), last])
    topic_loss = F.cross_entropy(topic_logits, topics, ignore_index=-100, reduction="sum")
    return (losses * weight).sum() / weight.sum() + TOPIC_WEIGHT * topic_loss / len(rows)
