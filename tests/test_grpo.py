"""GRPO: its loss against TRL's, its advantages on numbers by hand, its loop on a task it must solve."""

import ast
import json
import math

import pytest
import torch
from conftest import ROOT
from datasets import Dataset
from tiny import PAIRS, counts_words, one_sentence, says_sorry, tiny_model, tiny_tokenizer

from toylib import fingerprint
from toylib.labs.grpo import group_advantages, grpo_loss, kl_estimate, train_grpo
from toylib.labs.ppo import advantages, clipped_objective
from toylib.labs.reward_model import order_scorer, quotes_order
from toylib.logps import token_logps
from toylib.replies import Replies, sample_replies

TOKENIZER = tiny_tokenizer()
PROMPTS = [pair["prompt"] for pair in PAIRS]


def test_advantages_are_relative_to_the_group():
    scores = torch.tensor([1.0, 3.0, 10.0, 10.0, 14.0, 14.0])
    found = group_advantages(scores, 2)
    assert found.tolist() == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2), 0, 0, 0, 0], abs=1e-3)
    assert torch.equal(found, group_advantages(scores + torch.tensor([100.0] * 2 + [0.0] * 4), 2))


def test_the_kl_estimate_is_never_negative_and_its_mean_is_the_kl():
    policy, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    terms = kl_estimate(policy.log(), reference.log())
    assert (terms >= 0).all() and kl_estimate(policy.log(), policy.log()).abs().max() == 0
    assert (policy * terms).sum().item() == pytest.approx((policy * (policy / reference).log()).sum().item(), abs=1e-6)


def gradient_norm(scores, kl_coefficient):
    model = tiny_model()
    replies = sample_replies(model, TOKENIZER, PROMPTS, max_new_tokens=6, seed=1)
    logps, mask = token_logps(model, *replies[1:3]), replies.completion_mask[:, 1:].float()
    old, ref = logps.detach(), logps.detach() + 0.1
    loss, _ = grpo_loss(logps, old, ref, group_advantages(scores, 4), mask, kl_coefficient=kl_coefficient)
    loss.backward()
    return sum(one.grad.square().sum().item() for one in model.parameters() if one.grad is not None) ** 0.5


def test_a_group_that_agrees_gives_no_gradient_but_the_kl_terms():
    assert gradient_norm(torch.ones(4), kl_coefficient=0.0) == 0
    assert gradient_norm(torch.ones(4), kl_coefficient=0.1) > 0
    assert gradient_norm(torch.tensor([1.0, 1.0, 1.0, 0.0]), kl_coefficient=0.0) > 0.1


def trl_batch(tmp_path, model, reference):
    """TRL's trainer, and one batch of its own: generated, scored and standardised by it."""
    from trl import GRPOConfig, GRPOTrainer

    args = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True}
    args |= {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6, "beta": 0.04}
    args |= {
        "num_iterations": 2,
        "loss_type": "grpo",
        "use_bias_correction_kl": False,
        "output_dir": str(tmp_path),
        "max_steps": 1,
    }
    reference.save_pretrained(tmp_path / "reference")
    model.config._name_or_path = str(tmp_path / "reference")  # where TRL loads its reference from
    score = lambda completions, **rest: [float(len(text.split())) for text in completions]
    trainer = GRPOTrainer(
        model, score, GRPOConfig(**args), Dataset.from_dict({"prompt": PROMPTS}), processing_class=TOKENIZER
    )
    batch = trainer._generate_and_score_completions([{"prompt": one} for one in PROMPTS[:2] for _ in range(4)])
    return trainer, batch


def test_loss_and_advantages_are_trls(tmp_path):
    trainer, batch = trl_batch(tmp_path, tiny_model(0), tiny_model(1))
    texts = TOKENIZER.batch_decode(batch["completion_ids"], skip_special_tokens=True)
    scores = torch.tensor(counts_words(None, Replies(texts, None, None, None)))
    advantage = group_advantages(scores, 4)
    assert advantage.abs().max() > 0.5 and torch.allclose(advantage, batch["advantages"], atol=1e-5)

    with torch.no_grad():
        for weight in trainer.model.parameters():  # away from where the batch was sampled, so that ratios are not 1
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    theirs = trainer._compute_loss(trainer.model, batch)
    ids, attention = (
        torch.cat([batch[f"prompt_{kind}"], batch[f"completion_{kind}"]], dim=1) for kind in ("ids", "mask")
    )
    start = batch["prompt_ids"].shape[1] - 1
    logps = token_logps(trainer.model, ids, attention)[:, start:]
    given = (logps, batch["old_per_token_logps"], batch["ref_per_token_logps"], advantage)
    ours, ratio = grpo_loss(*given, batch["completion_mask"].float(), clip=0.2, kl_coefficient=0.04)
    assert ((ratio - 1).abs() > 0.2).any() and ours.item() == pytest.approx(theirs.item(), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("group_size", [4, 8])
def test_grpo_solves_a_bandit(group_size):
    model = tiny_model(initializer_range=0.05)
    how = {"learning_rate": 1e-2, "kl_coefficient": 0.0, "max_new_tokens": 3, "group_size": group_size}
    _, history = train_grpo(model, TOKENIZER, PROMPTS, says_sorry, steps=25, batch_size=64, **how)
    assert history["score"].iloc[0] < 0.2 and history["score"].iloc[-3:].mean() > 0.9
    solved = history["score"] == 1  # the better the policy, the fewer groups teach
    assert solved.any() and (history["agreed"][solved] == 1).all() and history["agreed"].min() < 0.6


def test_a_group_of_replies_goes_to_each_prompt_and_the_first_update_starts_at_the_reference():
    asked = []

    def scorer(prompts, replies):
        asked.append(list(prompts))
        return counts_words(prompts, replies)

    how = {"steps": 2, "batch_size": 8, "group_size": 4, "max_new_tokens": 6}
    _, history = train_grpo(tiny_model(), TOKENIZER, PROMPTS, scorer, **how)
    assert [len(prompts) for prompts in asked] == [8, 8]
    assert all(len(set(prompts[i : i + 4])) == 1 for prompts in asked for i in (0, 4)) and len(set(asked[0])) == 2
    assert history["kl"].iloc[0] == 0 and history["ratio"].iloc[0] < 1e-4
    assert set(history.columns) == {"score", "kl", "ratio", "clipped", "agreed", "tokens"}


def test_scores_that_always_agree_leave_the_policy_where_it_was():
    model, how = tiny_model(), {"steps": 2, "batch_size": 4, "max_new_tokens": 6, "kl_coefficient": 0.0}
    policy, history = train_grpo(model, TOKENIZER, PROMPTS, lambda prompts, replies: [1.0] * len(prompts), **how)
    assert fingerprint(policy) == fingerprint(model) and (history["agreed"] == 1).all()


@pytest.mark.parametrize(
    "change, said",
    [
        ({"group_size": 1}, "group_size"),
        ({"group_size": 3}, "group_size"),
        ({"group_size": 2.0}, "group_size"),
        ({"kl_coefficient": -1}, "kl_coefficient"),
        ({"clip": 1.5}, "clip"),
        ({"steps": 0}, "steps"),
        ({"prompts": []}, "prompts"),
    ],
)
def test_what_grpo_cannot_use_is_refused_in_one_sentence(change, said):
    given = {"prompts": PROMPTS, "scorer": counts_words, "batch_size": 8} | change
    with pytest.raises(ValueError, match=said) as caught:
        train_grpo(tiny_model(), TOKENIZER, **given)
    one_sentence(caught)


PROMPT = "Customer: order 4711 is late.\nAgent:"


@pytest.mark.parametrize(
    "reply, exact",
    [(" Order 4711 leaves today.", 1.0), (" Order 4712 leaves today.", 0.0), (" It leaves today.", 0.0)],
)
def test_the_order_scorer_pays_for_the_number_of_the_prompt_alone(reply, exact):
    assert order_scorer([PROMPT], Replies([reply], None, None, None)) == [exact]
    assert quotes_order(PROMPT, reply) is bool(exact)
    assert not quotes_order(PROMPT, " Orders 4711 and 4712.")


def test_what_notebook_07_writes_out_is_what_toylib_computes():
    scope, cells = {"torch": torch}, json.loads((ROOT / "notebooks" / "07_dpo_and_ppo.ipynb").read_text())["cells"]
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and source.startswith("def "):
            defined = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
            exec(compile(ast.Module(defined, []), "07", "exec"), scope)  # noqa: S102 (our own notebook)
    logps, old, values = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0.0, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    assert torch.equal(scope["gae"](logps, values * mask, mask), advantages(logps, values * mask, mask)[0])
    objective, ratio = clipped_objective(logps, old, values)
    assert torch.equal(scope["clipped"](ratio, values), objective)
    assert torch.allclose(scope["group_advantage"](logps).flatten(), group_advantages(logps.flatten(), 6))
    assert torch.equal(scope["k3"](logps, old), kl_estimate(logps, old))
