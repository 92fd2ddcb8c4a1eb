"""The interview's cards, read from notebook 09's own text, and checks that name what is wrong with code from memory."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import torch
import torch.nn.functional as F

from toylib.logps import sequence_logps

GROUPS = ("Explain it", "Derive it", "Debug it", "Decide")
LEVELS = ("warm-up", "standard", "hard")
OPEN = "not answered yet"

# ---- cards -----------------------------------------------------------------------------------------------------------

CARD = re.compile(
    r"### (?P<question>[^\n]+)\n\n"
    r"\*(?P<group>[^·\n*]+) · (?P<level>[^\n*]+)\.\* \*\*Think:\*\* (?P<think>[^\n]+)\n\n"
    r"<details><summary>Answer</summary>\n\n(?P<answer>.+?)\n\n"
    r"\*\*Evidence:\*\* (?P<evidence>[^\n]+)\n\n"
    r"\*\*A weak answer:\*\* (?P<weak>[^\n]+)\n\n"
    r"(?:\*\*Follow-up:\*\* \[(?P<follow_up>[^\]]+)\]\(#[^)]+\)\n\n)?</details>\s*",
    re.DOTALL,
)
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)(?: \(((?:[CD]\d\d)(?:, [CD]\d\d)*)\))?")


class Evidence(NamedTuple):
    label: str
    address: str  # file#heading, relative to the notebooks; #heading is in notebook 09 itself
    claims: tuple[str, ...]  # ids that were claimed there


class Card(NamedTuple):
    group: str  # one of GROUPS
    level: str  # one of LEVELS
    question: str
    think: str  # what to think of before looking
    answer: str  # markdown, like all that follows
    evidence: tuple[Evidence, ...]
    weak: str  # what a weak answer says: the red flag
    follow_up: str  # the question of another card, or ""


def markdown_cells(path) -> list[str]:
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


def evidence_in(markdown) -> tuple[Evidence, ...]:
    """The links of a text, each with the ids of claims in round brackets after it."""
    return tuple(
        Evidence(label, address, tuple(ids.split(", ")) if ids else ())
        for label, address, ids in LINK.findall(markdown)
    )


def read_cards(path) -> list[Card]:
    """The cards of notebook 09, in its order: the markdown cells under the four group headings.

    `ValueError` for a cell there that is not a card, a group or level that there is not, a question asked twice, or a
    follow-up that is no card's question.
    """
    cards, group = [], None
    for source in markdown_cells(path):
        if source.startswith("## "):
            group = source[3:].splitlines()[0].strip()
        elif group in GROUPS:
            found = CARD.fullmatch(source)
            if not found or found["group"] != group or found["level"] not in LEVELS:
                raise ValueError(f"not a card of {group!r}: {source[:60]!r}")
            fields = found.groupdict(default="") | {"evidence": evidence_in(found["evidence"])}
            cards.append(Card(**fields))
    questions = [card.question for card in cards]
    if len(set(questions)) < len(questions):
        raise ValueError(f"asked twice: {max(questions, key=questions.count)!r}")
    lost = {card.follow_up for card in cards} - {"", *questions}
    if lost:
        raise ValueError(f"a follow-up that is no card: {min(lost)!r}")
    return cards


class Sentence(NamedTuple):
    text: str
    evidence: tuple[Evidence, ...]
    changed: bool  # not as the source text has it: marked so in the text


def read_sentences(path, heading) -> list[Sentence]:
    """The sentences to say, one a line that begins with `- "`, in the markdown cell whose first heading is `heading`."""
    for source in markdown_cells(path):
        if source.lstrip("#").strip().split("\n")[0] == heading:
            lines = [line for line in source.splitlines() if line.startswith('- "')]
            return [Sentence(line[3:].split('"')[0], evidence_in(line), "*Changed:" in line) for line in lines]
    raise ValueError(f"no cell with the heading {heading!r} in {Path(path).name}")


def is_supported(sentence, claims, path) -> bool:
    """Whether it has evidence, each link leads to a heading, and each id was claimed (`claims`: of `claimed`) where it leads."""
    path = Path(path)
    for _, address, ids in sentence.evidence:
        name, _, anchor = address.partition("#")
        target = path.with_name(name) if name else path
        if not target.exists() or unquote(anchor) not in anchors(target):
            return False
        if not all(target.name in {one.notebook for one in claims.get(id, [])} for id in ids):
            return False
    return any(ids for _, _, ids in sentence.evidence)


def anchors(path) -> list[str]:
    """What a link can name in this notebook: its headings as JupyterLab makes ids of them, spaces as dashes."""
    text = "\n\n".join(
        re.sub(r"^```.*?^```", "", cell, flags=re.MULTILINE | re.DOTALL) for cell in markdown_cells(path)
    )
    return [
        re.sub(r"[*`]", "", found).replace(" ", "-") for found in re.findall(r"^#{1,6} +(.+?) *$", text, re.MULTILINE)
    ]


# ---- code from memory ------------------------------------------------------------------------------------------------


def check_sequence_logps(answer, model, batch) -> str:
    """A sentence on `answer(model, **batch)`, which should be the log-prob of each row's reply: "✓ …", or what is wrong.

    `batch` is from `collate`: `input_ids`, `attention_mask`, `completion_mask`, padded on the right.
    """
    given = _asked(lambda: answer(model, **batch))
    if isinstance(given, str):
        return given
    verdict = _named(given, sequence_logps(model, **batch), _wrong_logps(model, **batch))
    if verdict.startswith("✓") and not given.requires_grad:
        return "right numbers, but without a gradient: the policy could not learn from them"
    return verdict


def check_dpo_loss(answer, policy, reference, batch, beta=0.3) -> str:
    """A sentence on `answer(policy, reference, batch, beta)`, the mean DPO loss of a batch: "✓ …", or what is wrong.

    `batch` is as above, its first half chosen replies and its second half the rejected ones. The reference that `answer`
    gets is *not* frozen: whether it takes a gradient is one of the things that are checked.
    """
    policy, reference = copy.deepcopy(policy), copy.deepcopy(reference).requires_grad_(True)
    given = _asked(lambda: answer(policy, reference, batch, beta))
    if isinstance(given, str):
        return given
    with torch.no_grad():
        four, means = (
            [sequence_logps(m, **batch, average=a).chunk(2) for m in (policy, reference)] for a in (False, True)
        )
    (chosen, rejected), (ref_chosen, ref_rejected) = four
    delta = (chosen - ref_chosen) - (rejected - ref_rejected)
    verdict = _named(given, -F.logsigmoid(beta * delta).mean(), _wrong_losses(four, means, beta))
    if not verdict.startswith("✓"):
        return verdict
    if not given.requires_grad:
        return "the right number, but without a gradient: nothing could be learned from it"
    given.backward()
    if any(p.grad is not None for p in reference.parameters()):
        return "the right number, but the reference gets a gradient: score it under torch.no_grad()"
    return verdict


def _asked(call):
    """What `call` returns, a tensor, or a sentence where there is nothing to check."""
    try:
        given = call()
    except NotImplementedError:
        return OPEN
    if given is None:
        return OPEN
    return given if isinstance(given, torch.Tensor) else f"a tensor is wanted, and this is a {type(given).__name__}"


def _named(given, right, wrong) -> str:
    value = given.detach()
    if not value.isfinite().all():
        return "nan or inf: use log_softmax and logsigmoid, which do not overflow"
    same = [said for said, other in {"✓ right": right, **wrong}.items() if _close(value, other)]
    if same:
        return same[0]
    if value.shape != right.shape:
        return f"the shape is {tuple(value.shape)} and should be {tuple(right.shape)}"
    return f"none of the usual slips: {value.flatten()[0]:.4f}, and it should be {right.flatten()[0]:.4f}"


def _close(value, other):
    return value.shape == other.shape and torch.allclose(value.double(), other.double(), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def _wrong_logps(model, input_ids, attention_mask, completion_mask) -> dict[str, torch.Tensor]:
    """What the usual slips make of a batch, by what one would say of them."""
    logits = model(input_ids=input_ids, attention_mask=attention_mask).logits
    logps, ids, mask, read = logits.log_softmax(-1), input_ids[:, 1:], completion_mask[:, 1:], attention_mask[:, 1:]

    def total(rows, ids, mask):
        return (rows.gather(2, ids.unsqueeze(2)).squeeze(2) * mask).sum(1)

    rows, beyond = logps[:, :-1], torch.clamp(1 - read + mask, max=1)
    right = total(rows, ids, mask)
    return {
        "the shift is missing: row t of the logits predicts token t + 1": total(logps, input_ids, completion_mask),
        "the shift goes the wrong way: row t − 1 predicts token t": total(
            logps[:, 1:], input_ids[:, :-1], completion_mask[:, :-1]
        ),
        "a mean where the sum belongs: divided by the reply's length, it is another loss": right / mask.sum(1),
        "a mean over the whole row, where the sum over the reply belongs": right / mask.shape[1],
        "the prompt is counted: mask with completion_mask, not attention_mask": total(rows, ids, read),
        "prompt and padding are counted: the mask is not used": total(rows, ids, torch.ones_like(mask)),
        "the padding is counted: the mask must end with the reply": total(rows, ids, beyond),
        "the mask is one token off: shift it together with the tokens": total(rows, ids, completion_mask[:, :-1]),
        "the softmax runs over the positions: dim=-1 is the vocabulary": total(
            logits.log_softmax(1)[:, :-1], ids, mask
        ),
        "there is no log-softmax: these are logits": total(logits[:, :-1], ids, mask),
        "these are probabilities added up: take their logarithms": total(rows.exp(), ids, mask),
        "the sign is turned: a log-prob is at most 0": -right,
        "summed over the batch too: one number for each row is wanted": right.sum(),
    }


def _wrong_losses(four, means, beta) -> dict[str, torch.Tensor]:
    (chosen, rejected), (ref_chosen, ref_rejected) = four
    up, down = chosen - ref_chosen, rejected - ref_rejected
    (mean_chosen, mean_rejected), (mean_ref_chosen, mean_ref_rejected) = means
    delta, loss = up - down, lambda z: -F.logsigmoid(z)
    reference_plus = (chosen + ref_chosen) - (rejected + ref_rejected)
    of_means = (mean_chosen - mean_ref_chosen) - (mean_rejected - mean_ref_rejected)
    per_pair = {
        "the sign of Δ is wrong: chosen minus rejected, policy minus reference": loss(-beta * delta),
        "the minus is missing: the loss is −log σ": -loss(beta * delta),
        "β stands on the policy's side only: it multiplies the whole Δ": loss(
            beta * (chosen - rejected) - (ref_chosen - ref_rejected)
        ),
        "β stands on the chosen side only: it multiplies the whole Δ": loss(beta * up - down),
        "β stands on the rejected side only: it multiplies the whole Δ": loss(up - beta * down),
        "β is missing": loss(delta),
        "β divides: it multiplies Δ": loss(delta / beta),
        "the reference is missing: Δ is of log-ratios": loss(beta * (chosen - rejected)),
        "the reference is added: a log-ratio is policy minus reference": loss(beta * reference_plus),
        "token means where sums belong": loss(beta * of_means),
        "the logarithm is missing: −log σ, not 1 − σ": torch.sigmoid(-beta * delta),
        "the logarithm is missing: −log σ, not −σ": -torch.sigmoid(beta * delta),
        "Δ is always 0: both log-probs come from one model": loss(0 * delta),
    }
    right = loss(beta * delta)
    summed = {"summed over the pairs: take the mean": right.sum(), "one loss a pair: take the mean": right}
    return {said: losses.mean() for said, losses in per_pair.items()} | summed


# ---- what the committed notebooks claimed ----

PRINTED = re.compile(r"^✓ ([CD]\d\d)  (.+)$", re.MULTILINE)


class Claimed(NamedTuple):
    notebook: str  # file name
    text: str


def claimed(folder) -> dict[str, list[Claimed]]:
    """What the notebooks in `folder` claimed when they were last run: id → `Claimed`, in the order of the notebooks.

    Read from the saved outputs, not from the code: a claim whose cell was not run, or failed, is not in it.
    """
    found = {}
    for path in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                for id, text in PRINTED.findall("".join(output.get("text", ""))):
                    found.setdefault(id, []).append(Claimed(path.name, text))
    return found
