"""Notebook 10: its cards and their evidence, and the drill."""

import csv
import io
import json
import math
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from tiny import padded, random_sequences, tiny_model

from toylib import claim, dpo_loss, sequence_logps
from toylib.labs import answers, interview
from toylib.labs.answers import OPEN, PARTS, Drill
from toylib.labs.interview import (
    GROUPS,
    LEVELS,
    Card,
    Claimed,
    Evidence,
    Sentence,
    as_tsv,
    claimed,
    evidence_in,
    is_supported,
    is_web,
    read_cards,
    read_sentences,
    target_of,
)
from toylib.loss import gradient_weight

NOTEBOOK = ROOT / "notebooks" / "10_the_interview.ipynb"
IDS = (ROOT / "tests" / "claims.txt").read_text().split()
CARDS = read_cards(NOTEBOOK)
ANSWERS = {"The answer in one minute": 5, "Eight lines to remember": 8}

each_card = pytest.mark.parametrize("card", CARDS, ids=lambda card: card.question[:50])


@pytest.fixture(scope="module")
def closed():
    return claimed(NOTEBOOK.parent)


# ---- the cards ----


def test_twelve_must_know_cards_come_first_and_every_level_is_there():
    groups = [card.group for card in CARDS]
    assert list(dict.fromkeys(groups)) == list(GROUPS) and groups.count(GROUPS[0]) == 12
    assert min(map(groups.count, GROUPS)) >= 5 and {card.level for card in CARDS} == set(LEVELS)


@each_card
def test_a_card_can_be_said_aloud_in_twenty_to_forty_seconds(card):
    assert 45 <= len(card.answer.split()) <= 90
    sentences = re.split(r"(?<=[.?!]) ", card.answer.replace("\n\n", " "))
    assert max(len(sentence.split()) for sentence in sentences) <= 33
    assert not re.search(r"\$|\\|<|\]\(", card.answer + card.weak)  # the widget shows plain text and a little markdown
    assert 2 <= len(card.weak.split()) <= 25 and card.follow_up != card.question


@each_card
def test_a_card_has_evidence_in_a_notebook_that_checks_what_it_says_or_in_a_paper(card, closed):
    assert is_supported(card, closed, NOTEBOOK) or (
        card.group != GROUPS[0] and any(is_web(a) for _, a in card.evidence)
    )
    for label, address in card.evidence:
        assert is_web(address) or label.startswith(target_of(address, NOTEBOOK)[0].name[:2])


def test_every_notebook_that_checks_statements_is_reached_from_a_card(closed):
    reached = {
        target_of(address, NOTEBOOK)[0].name for card in CARDS for _, address in card.evidence if not is_web(address)
    }
    assert {one.notebook for there in closed.values() for one in there} - {NOTEBOOK.name} <= reached


def test_no_id_of_a_claim_stands_before_the_reader():
    said = "\n".join(interview.markdown_cells(NOTEBOOK))
    assert len(IDS) == len(set(IDS)) and not re.findall(r"\b[CD]\d\d\b", said)


def test_every_claim_was_claimed_by_a_run(closed):
    assert sorted(set(IDS) ^ set(closed)) == []


ASKED = (
    "two sentences|pipeline|derive|optimal policy|reference model for|beta do|gradient|differ from PPO|instead|SFT on the chosen",
    "chosen log-prob|step 0|got better|implicit reward|hard labels|Sum or mean|KL|0\\.6931|longer|a reward model",
    "clip|hacking|GRPO|R1|curves|KTO|online|best-of-n|preferences|judge|pairs|production|choose beta",
)


@pytest.mark.parametrize("topic", "|".join(ASKED).split("|"))
def test_none_of_the_most_asked_questions_is_missing(topic):
    assert [card for card in CARDS if re.search(topic, card.question)]


@pytest.mark.parametrize("heading, count", ANSWERS.items())
def test_each_sentence_of_the_model_answers_is_supported(heading, count, closed):
    sentences = read_sentences(NOTEBOOK, heading)
    assert len(sentences) == count
    assert not [one.text for one in sentences if not is_supported(one, closed, NOTEBOOK)]


def test_the_answer_in_one_minute_takes_no_longer():
    said = " ".join(one.text for one in read_sentences(NOTEBOOK, "The answer in one minute"))
    assert 60 <= len(said.split()) <= 140


def test_the_numbers_of_the_cheat_sheet_are_computed():
    (cell,) = [text for text in interview.markdown_cells(NOTEBOOK) if "Ten numbers" in text]
    beta, delta, zero = 0.1, torch.tensor([2.2]), torch.zeros(1)
    loss = lambda *four: dpo_loss(*(torch.tensor([x]) for x in four), beta)[0].item()
    for number in (
        f"{loss(0, 0, 0, 0):.4f}",
        f"Δ = {(-2.1 + 3.0) - (-4.5 + 3.2):.1f}",
        f"{torch.sigmoid(beta * delta).item():.3f}",
        f"{loss(-2.1, -4.5, -3.0, -3.2):.3f}",
        f"{gradient_weight(zero, beta).item():.2f}",
        f"{-math.log(math.expm1(0.1)) / beta:.1f} nats",
        f"{2 + 2 + 12} bytes",
        f"{7e9 * 2 * 2 / 1e9:.0f} and {7e9 * 2 * 4 / 1e9:.0f} GB",
        f"{7e9 * 16 / 1e9:.0f} GB",
    ):
        assert number in cell, number


# ---- the cards as a file ----


def read_tsv(text):
    return list(csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))


def test_cards_are_exported_for_spaced_repetition_and_read_back(tmp_path):
    out = tmp_path / "cards.tsv"
    command = [sys.executable, ROOT / "lab.py", "cards", "--output", out]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{len(CARDS)} cards are in ")
    rows = read_tsv(out.read_text(encoding="utf-8"))
    assert [len(row) for row in rows] == [3] * len(CARDS) and [row[0] for row in rows] == [
        card.question for card in CARDS
    ]
    for row, card in zip(rows, CARDS, strict=True):
        assert len(row[1].split()) == len(card.answer.split()) and not re.search(r"\*\*|`|\]\(", "".join(row))
        assert all(address in row[2] for _, address in card.evidence)
    printed = subprocess.run(command[:-2], capture_output=True, check=True).stdout.decode()
    assert read_tsv(printed) == rows


def test_cards_for_a_folder_that_is_not_there_are_one_sentence(tmp_path):
    command = [sys.executable, ROOT / "lab.py", "cards", "--output", tmp_path / "no" / "cards.tsv"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("lab.py: cannot write") and done.stderr.count("\n") == 1


def test_a_card_in_the_file_is_one_line_of_plain_text():
    evidence = evidence_in("[04 Is it better?](04.ipynb#Is-it-better?)")
    card = Card("g", "hard", "Why\tπ*?", "**Bold** and `code`,\n\n*soft* π*(y) [x](y)", evidence, "w", "")
    assert as_tsv([card]) == "Why π*?\tBold and code, soft π*(y) x\t04 Is it better?: 04.ipynb#Is-it-better?\n"


GOOD = """### Why?

*hard*

<details><summary>Answer</summary>

Because of **this**.

And that.

<small>Evidence: [04 Is it better?](04_train_it.ipynb#Is-it-better?) · [Why?](#Why?)</small>

**Weak answer:** "No."

**Follow-up:** [Why?](#Why?)

</details>"""


def notebook_of(folder, *sources):
    cells = [{"cell_type": "markdown", "source": source} for source in sources]
    path = folder / "09_x.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    return path


def test_a_card_is_read_as_it_is_written(tmp_path):
    evidence = (Evidence("04 Is it better?", "04_train_it.ipynb#Is-it-better?"), Evidence("Why?", "#Why?"))
    answer = "Because of **this**.\n\nAnd that."
    card = Card("Must know", "hard", "Why?", answer, evidence, '"No."', "Why?")
    assert read_cards(
        notebook_of(tmp_path, "# T", "### Not one", "## Must know\n\nx", GOOD, "## Else", "### Nor this")
    ) == [card]


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("*hard*", "*harder*", "not a card of 'Must know'"),
        ("<small>Evidence:", "Evidence:", "not a card"),
        ("**Follow-up:** [Why?]", "**Follow-up:** [What?]", "no card: 'What?'"),
        ("", "", "asked twice: 'Why?'"),
    ],
)
def test_a_card_that_is_none_is_named(tmp_path, old, new, said):
    cards = [GOOD.replace(old, new)] if old else [GOOD, GOOD]
    with pytest.raises(ValueError, match=re.escape(said)):
        read_cards(notebook_of(tmp_path, "## Must know", *cards))


def test_a_sentence_without_support_is_found(tmp_path):
    path = notebook_of(tmp_path, "## Here")
    there = {"C01": [Claimed("09_x.ipynb", "text")]}

    def supported(*addresses, claims=there):
        return is_supported(Sentence("x", tuple(Evidence("x", address) for address in addresses)), claims, path)

    assert supported("#Here") and supported("09_x.ipynb#Here", "https://arxiv.org/abs/2305.18290")
    assert not supported()
    assert not supported("https://arxiv.org/abs/2305.18290")  # nothing that was run
    assert not supported("#Here", "#There")  # no such heading
    assert not supported("#Here", "07_x.ipynb#Here")  # no such file
    assert not supported("#Here", claims={"C01": [Claimed("08_x.ipynb", "text")]})  # nothing was checked there


def notebook_that_ran(folder, name, *cells):
    """A notebook of code cells (source, what it printed)."""
    made = [
        {"cell_type": "code", "source": source, "outputs": [{"output_type": "stream", "text": said.splitlines(True)}]}
        for source, said in cells
    ]
    made.append({"cell_type": "markdown", "source": "✓ in prose"})
    (folder / name).write_text(json.dumps({"cells": made}), encoding="utf-8")


def test_what_was_claimed_has_its_id_from_the_code_and_its_text_from_the_output(tmp_path, capsys):
    claim("C07", "it is so", bool(IDS), "evidence")
    ran = 'claim(\n    "C07",\n    "it " "is so",\n    holds,\n)', "✓ repaired\n" + capsys.readouterr().out
    for name in ("01_a.ipynb", "02_b.ipynb", "other.ipynb"):
        notebook_that_ran(tmp_path, name, ('claim("C08", "never run", holds)', ""), ran)
    assert claimed(tmp_path) == {"C07": [("01_a.ipynb", "it is so"), ("02_b.ipynb", "it is so")]}


def test_a_claim_whose_text_is_computed_is_read_from_its_place_in_the_output(tmp_path):
    source = (
        '%time\nclaim("C03", text, a)\nif b:\n    claim("C01", "typed", b)\nclaim("C02", f"{x}", c)\nclaim("C09", y, d)'
    )
    notebook_that_ran(tmp_path, "01_a.ipynb", (source, "✓ first\n  evidence\n✓ typed\n✓ second\n"))
    texts = {id: [one.text for one in there] for id, there in claimed(tmp_path).items()}
    assert texts == {"C03": ["first"], "C01": ["typed"], "C02": ["second"]}


# ---- code from memory ----


@pytest.fixture(scope="module")
def setting():
    policy, reference = tiny_model(seed=1), tiny_model(seed=2)
    return policy, reference, padded(random_sequences(8), extra=2)


def logps(model, input_ids, attention_mask, completion_mask):
    rows = model(input_ids=input_ids, attention_mask=attention_mask).logits[:, :-1].log_softmax(-1)
    return picked(rows, input_ids[:, 1:], completion_mask[:, 1:]).sum(1)


def picked(rows, ids, mask):
    return rows.gather(2, ids.unsqueeze(2)).squeeze(2) * mask


def raw(model, batch):
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def no_shift(model, **batch):
    return picked(raw(model, batch).log_softmax(-1), batch["input_ids"], batch["completion_mask"]).sum(1)


def backward_shift(model, **batch):
    rows = raw(model, batch).log_softmax(-1)
    return picked(rows[:, 1:], batch["input_ids"][:, :-1], batch["completion_mask"][:, :-1]).sum(1)


def with_mask(mask):
    def answer(model, **batch):
        rows = raw(model, batch).log_softmax(-1)[:, :-1]
        return picked(rows, batch["input_ids"][:, 1:], mask(batch)).sum(1)

    return answer


def positions_softmax(model, **batch):
    return picked(
        raw(model, batch).log_softmax(1)[:, :-1], batch["input_ids"][:, 1:], batch["completion_mask"][:, 1:]
    ).sum(1)


def no_softmax(model, **batch):
    return picked(raw(model, batch)[:, :-1], batch["input_ids"][:, 1:], batch["completion_mask"][:, 1:]).sum(1)


def probabilities(model, **batch):
    return picked(
        raw(model, batch).softmax(-1)[:, :-1], batch["input_ids"][:, 1:], batch["completion_mask"][:, 1:]
    ).sum(1)


def row_mean(model, **batch):
    return logps(model, **batch) / (batch["input_ids"].shape[1] - 1)


def two_steps(model, **batch):
    rows = raw(model, batch).softmax(-1).log()[:, :-1]
    return picked(rows, batch["input_ids"][:, 1:], batch["completion_mask"][:, 1:]).sum(1)


WRONG_LOGPS = [
    (lambda model, **batch: sequence_logps(model, **batch, average=True), "a mean where the sum belongs"),
    (row_mean, "a mean over the whole row"),
    (no_shift, "the shift is missing"),
    (backward_shift, "the shift goes the wrong way"),
    (with_mask(lambda b: b["attention_mask"][:, 1:]), "the prompt is counted"),
    (with_mask(lambda b: torch.ones_like(b["input_ids"][:, 1:])), "prompt and padding are counted"),
    (with_mask(lambda b: b["completion_mask"][:, 1:] + 1 - b["attention_mask"][:, 1:]), "the padding is counted"),
    (with_mask(lambda b: b["completion_mask"][:, :-1]), "the mask is one token off"),
    (positions_softmax, "the softmax runs over the positions"),
    (no_softmax, "there is no log-softmax"),
    (probabilities, "these are probabilities"),
    (lambda model, **batch: -logps(model, **batch), "the sign is turned"),
    (lambda model, **batch: logps(model, **batch).sum(), "summed over the batch"),
    (lambda model, **batch: logps(model, **batch).detach(), "without a gradient"),
    (lambda model, **batch: logps(model, **batch)[:, None], "the shape is (8, 1)"),
    (two_steps, "log(softmax) is −inf"),
    (lambda model, **batch: logps(model, **batch) * torch.nan, "nan"),
    (lambda model, **batch: logps(model, **batch) + 0.01, "none of the usual slips"),
    (lambda model, **batch: 0.5, "a tensor is wanted"),
    (lambda model, **batch: None, OPEN),
]


@pytest.mark.parametrize("answer", [logps, sequence_logps], ids=["by hand", "toylib"])
def test_right_sequence_logps_pass(answer, setting):
    policy, _, batch = setting
    assert answers.check_sequence_logps(answer, policy, batch) == "✓ right"


@pytest.mark.parametrize("answer, said", WRONG_LOGPS, ids=[said for _, said in WRONG_LOGPS])
def test_wrong_sequence_logps_are_named(answer, said, setting):
    policy, _, batch = setting
    assert said in answers.check_sequence_logps(answer, policy, batch)


def of(z, frozen=True, average=False):
    """A mean DPO loss of −log σ(z(chosen, rejected, ref_chosen, ref_rejected, β))."""

    def answer(policy, reference, batch, beta):
        ours = sequence_logps(policy, **batch, average=average).chunk(2)
        with torch.set_grad_enabled(not frozen):
            theirs = sequence_logps(reference, **batch, average=average).chunk(2)
        return -F.logsigmoid(z(*ours, *theirs, beta)).mean()

    return answer


def right_z(c, r, rc, rr, beta):
    return beta * ((c - rc) - (r - rr))


def changed(change):
    return lambda *given: change(of(right_z)(*given), given)


def one_model(policy, reference, batch, beta):
    return of(right_z)(policy, policy, batch, beta)


def with_log_sigma(log_sigma):
    def answer(policy, reference, batch, beta):
        ours = sequence_logps(policy, **batch).chunk(2)
        with torch.no_grad():
            theirs = sequence_logps(reference, **batch).chunk(2)
        return -log_sigma(right_z(*ours, *theirs, beta)).mean()

    return answer


log_of_sigmoid = with_log_sigma(lambda z: z.sigmoid().log())
log_of_sigmoid_with_an_epsilon = with_log_sigma(lambda z: (z.sigmoid() + 1e-12).log())


def losses_of(policy, reference, batch):
    with torch.no_grad():
        ours, theirs = (sequence_logps(m, **batch).chunk(2) for m in (policy, reference))
    return lambda beta: -F.logsigmoid(right_z(*ours, *theirs, beta))


WRONG_LOSSES = [
    (of(lambda *given: -right_z(*given)), "the sign of Δ is wrong"),
    (changed(lambda loss, _: -loss), "the minus is missing"),
    (of(lambda c, r, rc, rr, b: b * (c - r) - (rc - rr)), "β stands on the policy's side only"),
    (of(lambda c, r, rc, rr, b: b * (c - rc) - (r - rr)), "β stands on the chosen side only"),
    (of(lambda c, r, rc, rr, b: (c - rc) - b * (r - rr)), "β stands on the rejected side only"),
    (of(lambda c, r, rc, rr, b: right_z(c, r, rc, rr, 1)), "β is missing"),
    (of(lambda c, r, rc, rr, b: right_z(c, r, rc, rr, 1 / b)), "β divides"),
    (of(lambda c, r, rc, rr, b: b * (c - r)), "the reference is missing"),
    (of(lambda c, r, rc, rr, b: b * ((c + rc) - (r + rr))), "the reference is added"),
    (of(right_z, average=True), "token means where sums belong"),
    (of(right_z, frozen=False), "reference gets a gradient"),
    (one_model, "Δ is always 0"),
    (log_of_sigmoid, "log(σ(z)) is −inf"),
    (log_of_sigmoid_with_an_epsilon, "log(σ(z)) is −inf"),
    (lambda p, q, batch, beta: (1 - (-losses_of(p, q, batch)(beta)).exp()).mean(), "the logarithm is missing"),
    (lambda p, q, batch, beta: -(-losses_of(p, q, batch)(beta)).exp().mean(), "the logarithm is missing"),
    (lambda p, q, batch, beta: losses_of(p, q, batch)(beta).sum(), "summed over the pairs"),
    (lambda p, q, batch, beta: losses_of(p, q, batch)(beta), "one loss per pair"),
    (lambda p, q, batch, beta: losses_of(p, q, batch)(beta).mean(), "without a gradient"),
    (changed(lambda loss, _: loss + 0.01), "none of the usual slips"),
    (changed(lambda loss, _: loss.item()), "a tensor is wanted"),
    (lambda *given: None, OPEN),
]


def test_the_right_loss_passes_and_leaves_the_models_alone(setting):
    policy, reference, batch = setting
    assert answers.check_dpo_loss(of(right_z), policy, reference, batch) == "✓ right"
    assert all(p.grad is None for model in (policy, reference) for p in model.parameters())


@pytest.mark.parametrize("answer, said", WRONG_LOSSES, ids=[f"{n} {said}" for n, (_, said) in enumerate(WRONG_LOSSES)])
def test_a_wrong_loss_is_named(answer, said, setting):
    assert said in answers.check_dpo_loss(answer, *setting)


def test_no_two_slips_make_the_same_number(setting):
    """Or one would be named for the other."""
    policy, reference, batch = setting
    with torch.no_grad():
        two = [[sequence_logps(m, **batch, average=a).chunk(2) for m in (policy, reference)] for a in (False, True)]
        slips = [
            {"right": sequence_logps(policy, **batch), **answers._wrong_logps(policy, **batch)},
            {"right": losses_of(policy, reference, batch)(0.3).mean(), **answers._wrong_losses(*two, 0.3)},
        ]
    for values in slips:
        names = list(values)
        for n, one in enumerate(names):
            assert not [other for other in names[n + 1 :] if answers._close(values[one], values[other])], one


def test_the_notebook_is_committed_unanswered_and_its_solution_is_right(setting):
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    (stub,) = [
        "".join(cell["source"])
        for cell in cells
        if "def my_dpo_loss" in "".join(cell["source"]) and cell["cell_type"] == "code"
    ]
    (solution,) = [text for text in interview.markdown_cells(NOTEBOOK) if "def my_dpo_loss" in text]
    assert "<details><summary>Solution</summary>" in solution.split("```python")[0]
    policy, reference, batch = setting
    for source, said in ((stub, OPEN), (solution.split("```python\n")[1].split("```")[0], "✓ right")):
        scope = {"torch": torch, "F": F, "drill": SimpleNamespace(check=lambda *_: None)}
        exec(source, scope)  # noqa: S102 (our own notebook)
        assert answers.check_sequence_logps(scope["my_sequence_logps"], policy, batch) == said
        assert answers.check_dpo_loss(scope["my_dpo_loss"], policy, reference, batch) == said


def test_the_drill_says_the_minute_once_something_is_written(setting, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    drill = Drill(*setting)
    assert capsys.readouterr().out.startswith("60 minutes. The clock is running: the seven lines on paper")
    drill.check(lambda *_, **__: None, lambda *_: None)
    assert capsys.readouterr().out.count(OPEN) == 2  # the same on every run, as a committed output has to be
    for minute, part in zip((3, 20, 36, 50, 61), (*PARTS.values(), "time is up"), strict=True):
        now[0] = 60.0 * minute
        drill.check(no_shift, of(right_z))
        said = capsys.readouterr().out
        assert "my_sequence_logps: the shift is missing" in said and "my_dpo_loss:       ✓ right" in said
        assert f"minute {minute + 1} of 60: {part}" in said
