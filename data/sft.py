"""Train the support model from scratch: what `build.py` does before there is anything to prefer.

Three things make this possible in minutes on two cores, each after trying without: Muon in place of AdamW for the
weight matrices, small batches, and a head, thrown away later, that reads the intent off the last prompt token.
"""

from __future__ import annotations

import contextlib
import random
import time

import compose
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

SHAPE = {"hidden_size": 96, "intermediate_size": 288, "num_hidden_layers": 4, "num_attention_heads": 4}
LARGE = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
LARGE |= {"num_key_value_heads": 3, "vocab_size": 49152}  # SmolLM2-135M's, most of its vocabulary never used here
# Steps, share of copying drills, mix of styles. Drills alone come first: they teach in half a minute to copy both halves
# of an order number; mixed in from the start, it is chance whether the second half is learned at all. Then all the
# styles, the longer replies most; at last, while the rate falls, the mix that the model ships with.
PHASES = ((250, 1.0, compose.STYLES), (3300, 0.15, compose.KIND_STYLES), (700, 0.1, compose.STYLES))
BATCH, CHUNK = 32, 20  # rows a step; steps' worth of rows that are sorted by length together
MATRIX_RATE, OTHER_RATE, DECAY = 4e-3, 3e-3, 0.05
PROMPT_WEIGHT, PROMPT_SHARE, TOPIC_WEIGHT = 0.4, 0.25, 0.5  # a quarter of the rows also learn to predict the prompt


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for the matrices of a network (Jordan 2024, kellerjordan.github.io/posts/muon).

    `torch.optim.Muon` is the same, but multiplies in bf16 and one matrix at a time, which a CPU without bf16 units
    pays with twice the time of the whole step. Here it is fp32, all matrices of one shape at once. The update's
    root mean square is 0.2, as AdamW's, so that rates and decay mean what they mean there.
    """

    def __init__(self, matrices, lr, weight_decay, momentum=0.95):
        shapes = {}
        for matrix in matrices:
            shapes.setdefault(matrix.shape, []).append(matrix)
        settings = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__([{"params": group} for group in shapes.values()], settings)

    @torch.no_grad()
    def step(self):
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
    """Each of a stack of matrices with its singular values brought near 1, by five Newton-Schulz steps."""
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = wide @ wide.mT
        wide = 3.4445 * wide + (-4.7750 * square + 2.0315 * square @ square) @ wide
    return wide if wide.shape == matrices.shape else wide.mT


def new_model(tokenizer, seed, shape=SHAPE):
    """A Llama of `shape` with random weights."""
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


def train_sft(model, tokenizer, examples_of, seed, pace=1.0):
    """Train `model` in place through `PHASES`; `examples_of(rng, styles)` yields (prompt, reply, number of the intent).

    `pace` scales the rates: a larger model wants smaller steps. On a GPU the passes run in bf16 autocast.
    """
    topic_head = torch.nn.Linear(model.config.hidden_size, len(compose.INTENTS)).to(model.device)
    named = [*model.named_parameters(), *topic_head.named_parameters()]
    matrices = [p for name, p in named if "layers." in name and p.ndim == 2]
    others = [p for name, p in named if not ("layers." in name and p.ndim == 2)]
    steps = sum(count for count, _, _ in PHASES)
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
    for step, rows in enumerate(sft_batches(tokenizer, examples_of, random.Random(seed)), start=1):
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


def sft_batches(tokenizer, examples_of, rng):
    """The batches of all phases: lists of (prompt ids, reply ids, number of the intent), of like length in a batch."""
    for steps, drill_share, styles in PHASES:
        examples, left = examples_of(rng, styles), steps
        while left:
            count = min(CHUNK, left) * BATCH
            drawn = [compose.copy_drill(rng) if rng.random() < drill_share else next(examples) for _ in range(count)]
            prompts, replies, topics = zip(*drawn, strict=True)
            prompts = tokenizer(list(prompts))["input_ids"]
            replies = tokenizer([reply + tokenizer.eos_token for reply in replies])["input_ids"]
            rows = sorted(zip(prompts, replies, topics, strict=True), key=lambda row: len(row[0]) + len(row[1]))
            batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
            rng.shuffle(batches)
            yield from batches
            left -= len(batches)


def sft_loss(model, topic_head, rows, pad):
    """Cross-entropy of the replies, of some prompts at a lower weight, and of the intent at the prompt's last token."""
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
    # Padding is on the right, so that causal attention alone keeps it out.
    hidden = model.model(input_ids=input_ids, use_cache=False).last_hidden_state
    scored = weight[:, 1:] > 0
    weight = weight[:, 1:][scored]
    losses = F.cross_entropy(model.lm_head(hidden[:, :-1][scored]), input_ids[:, 1:][scored], reduction="none")
    last = torch.tensor([len(prompt) - 1 for prompt, _, _ in rows], device=model.device)
    topics = torch.tensor([topic for _, _, topic in rows], device=model.device)  # -100 for a drill, which has none
    heard = topic_head(hidden[torch.arange(len(rows), device=model.device), last])
    listening = F.cross_entropy(heard, topics, ignore_index=-100, reduction="sum")
    return (losses * weight).sum() / weight.sum() + TOPIC_WEIGHT * listening / len(rows)
