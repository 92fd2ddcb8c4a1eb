"""Notebook 10: its cards and their evidence, the drill, the mock interview without a browser."""

import csv
import gc
import io
import json
import math
import random
import re
import subprocess
import sys
import threading
import time
from html.parser import HTMLParser
from types import SimpleNamespace

import ipywidgets
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from PIL import Image
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
from toylib.widgets import interview_html
from toylib.widgets import kernel as widgets
from toylib.widgets import mock_interview as widgets_interview
from toylib.widgets.mock_interview import GRADES, Interview, draw

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


# ---- the interview, without a page ----


def test_questions_come_from_the_groups_in_turn_and_none_twice():
    for level in (None, *LEVELS):
        drawn = Interview(CARDS, 8, level, seed=1)
        cards = [drawn.card, *drawn.to_come]
        there = {card.group for card in CARDS if level in (None, card.level)}
        assert len(set(cards)) == len(cards) >= 4 and level in (None, *{card.level for card in cards})
        assert {card.group for card in cards[: len(there)]} == there


def test_a_draw_is_another_one_each_time_but_for_a_seed():
    draws = [[card.question for card in Interview(CARDS, 8, None, seed).to_come] for seed in (1, 1, 2, None, None)]
    assert draws[0] == draws[1] != draws[2] and draws[3] != draws[4]


def test_more_questions_than_cards_are_all_cards():
    assert len(draw(CARDS[:5], 12, None, random.Random(0))) == 5


def test_an_answer_is_graded_only_once_it_is_open():
    one = Interview(CARDS, 4, None, seed=0)
    first = one.card
    one.grade(GRADES[0])
    assert one.card is first and not one.graded
    one.show()
    seconds = one.seconds
    one.show()
    assert one.seconds == seconds >= 0
    one.grade(GRADES[1])
    assert one.card is not first and [(card, grade) for card, grade, _ in one.graded] == [(first, GRADES[1])]


def test_the_follow_up_is_asked_where_you_had_it_and_only_there():
    seed = next(seed for seed in range(100) if Interview(CARDS, 4, None, seed).card.follow_up)
    for grade in GRADES:
        one = Interview(CARDS, 4, None, seed)
        deeper = one.all[one.card.follow_up]
        planned = one.to_come[0]
        one.show()
        one.grade(grade)
        assert one.card is (deeper if grade == GRADES[0] else planned)
        while one.card:
            one.show()
            one.grade(grade)
        assert len(one.graded) == 4 == len(set(one.asked()))


def test_the_time_of_an_answer_is_measured_until_it_is_opened(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    one = Interview(CARDS, 4, None, seed=0)
    now[0] = 142.5
    one.show()
    now[0] = 500.0
    one.grade(GRADES[2])
    assert one.graded[0][2] == 42.5 and one.started == 500.0


# ---- the widget ----


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, as (bundle, metadata)."""
    import IPython.display

    calls = []
    monkeypatch.setattr(
        IPython.display, "display", lambda bundle, metadata=None, raw=False: calls.append((bundle, metadata))
    )
    monkeypatch.setattr(widgets, "_open", {})
    return calls


def known_widgets():
    eight = getattr(ipywidgets.widgets.widget, "_instances", None)
    return ipywidgets.Widget.widgets if eight is None else eight


class Page:
    """The mock interview as a reader meets it: what can be pressed, and what stands there."""

    def __init__(self, shown, seed=0):
        widgets_interview.mock_interview(CARDS, seed)
        self.box = known_widgets()[shown[-1][0][widgets.WIDGET_VIEW]["model_id"]]
        top, self.question, self.clock, row, self.answer = self.box.children
        self.level, self.count, self.start = top.children
        self.show, *self.grades = row.children

    def text(self):
        return re.sub(
            r"<style>.*?</style>|<[^>]+>",
            "",
            self.question.value + self.clock.value + self.answer.value,
            flags=re.DOTALL,
        )

    def usable(self):
        return [button.description for button in (self.start, self.show, *self.grades) if not button.disabled]


def test_an_interview_from_start_to_review(shown):
    page = Page(shown)
    assert page.usable() == ["Start"] and page.clock.value == ""
    page.count.value = 4
    page.start.click()
    grades = (0, 2, 1, 2)
    for number, grade in enumerate(grades, 1):
        card = page.box.interview.card
        assert f"{number} of 4 · {card.group} · {card.level}" in page.text()
        assert card.question in page.text().replace("&amp;", "&") and page.answer.value == ""
        assert page.usable() == ["Start again", "Show the answer"]
        page.show.click()
        assert page.usable() == ["Start again", *GRADES]
        for words in ("Evidence:", "A weak answer:", "You took 0:0"):
            assert words in page.text()
        assert all(f'href="{one.address}"'.replace("'", "&#x27;") in page.answer.value for one in card.evidence)
        page.grades[grade].click()
    assert page.usable() == ["Start again"] and page.clock.value == ""
    assert "I had it: 1, partly: 1, not yet: 2." in page.text()
    missed = [card for card, grade, _ in page.box.interview.graded if grade != GRADES[0]]
    for card in missed:
        assert interview_html.as_html(card.question) in page.answer.value
        assert interview_html.links_html(card) in page.answer.value
    assert interview_html.as_html(page.box.interview.graded[0][0].question) not in page.answer.value
    page.start.click()
    assert page.box.interview.graded == [] and "1 of 4" in page.text()


def test_the_level_menu_starts_at_all_levels(shown):
    page = Page(shown)
    assert (page.level.index, page.level.label) == (0, "all levels")
    assert None not in [value for _, value in page.level.options]  # it is "nothing selected" in some kernels
    page.count.value = 12
    page.start.click()
    assert len({card.level for card in (page.box.interview.card, *page.box.interview.to_come)}) > 1


def test_a_level_can_be_chosen_and_a_perfect_interview_has_nothing_to_review(shown):
    page = Page(shown)
    page.level.value, page.count.value = "hard", 8
    page.start.click()
    assert page.box.interview.card.level == "hard"
    while page.box.interview.card:
        page.show.click()
        page.grades[0].click()
    assert "I had it: 8" in page.text() and "Nothing to review" in page.text()


def test_the_clock_is_drawn_anew_for_each_question_and_runs_without_a_thread(shown):
    threads = set(threading.enumerate())
    page = Page(shown)
    page.start.click()
    clocks = []
    for _ in range(3):
        clocks.append(page.clock.value)
        assert "animation: toylib-10 10s steps(10) infinite" in clocks[-1]
        page.show.click()
        assert "animation" not in page.clock.value
        page.grades[1].click()
    assert len(set(clocks)) == 3
    assert set(threading.enumerate()) == threads


def test_answers_over_time_are_said_at_the_end(shown, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    page = Page(shown)
    page.count.value = 4
    page.start.click()
    slow = page.box.interview.card
    while page.box.interview.card:
        now[0] += 130 if page.box.interview.card is slow else 5
        page.show.click()
        page.grades[1].click()
    assert f"Over time: {interview_html.as_html(slow.question)}</p>" in page.answer.value


def test_running_the_cell_again_leaves_nothing_of_the_old_interview(shown, monkeypatch):
    run = ["cell", "run 1"]
    monkeypatch.setattr(widgets, "_cell_and_run", lambda: tuple(run))
    none = set(known_widgets())
    page = Page(shown)
    page.start.click()
    of_one = len(set(known_widgets()) - none)
    for number in (2, 3):
        run[1] = f"run {number}"
        again = Page(shown)
        again.start.click()
    gc.collect()
    assert len(set(known_widgets()) - none) == of_one
    assert page.box.comm is None and page.start.comm is None and again.start.comm is not None


def test_only_widgets_that_ipywidgets_7_has_too(shown):
    def kinds(widget):
        return {type(widget).__name__} | {kind for child in getattr(widget, "children", ()) for kind in kinds(child)}

    assert kinds(Page(shown).box) == {"VBox", "HBox", "Dropdown", "Button", "HTML"}


def test_one_output_holds_the_widget_the_picture_and_the_words(shown):
    Page(shown)
    ((bundle, metadata),) = shown
    assert set(bundle) == {widgets.WIDGET_VIEW, "image/png", "text/plain"}
    assert Image.open(io.BytesIO(bundle["image/png"])).format == "PNG"
    assert metadata == {"image/png": {"alt": bundle["text/plain"]}} and str(len(CARDS)) in bundle["text/plain"]


def test_what_stands_in_a_card_is_shown_as_text():
    text = "`a < b` & **bold** *soft* [x](y.ipynb#z)"
    assert interview_html.as_html(text) == (
        '<code>a &lt; b</code> &amp; <strong>bold</strong> <em>soft</em> <a href="y.ipynb#z" target="_blank" rel="noopener" style="text-decoration: underline">x</a>'
    )


HOSTILE = (
    "<b onmouseover=alert(1)>x</b>",
    "<b><img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    '[x](y"onmouseover="alert(1))',
    "[x](javascript:alert`1`)",
    "[<img/src=x>](y'><script>)",
    "[x](javascript&colon;alert(1)) [x](java&#115;cript:alert(1))",
    "`<svg onload=alert(1)>`",
    "**<i onclick=alert(1)>**",
    "\x000\x00 `code` \x007\x00",
    "![x](y) <https://a.b> \\<b> &lt;b&gt;",
)
UNSAFE = (
    "javascript:alert(1)",
    "JavaScript:alert(1)",
    " javascript:alert(1)",
    "java\tscript:alert(1)",
    "\x01javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:x",
    "file:///etc/passwd",
    "<javascript:alert(1)>",
)


class Tags(HTMLParser):
    """Collects what a browser would make of HTML: the tags and their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_card_makes_no_tag_or_attribute_of_its_own(text):
    card = Card(text, "hard", text, f"{text}\n\n{text}", (Evidence(text, text),), text, "")
    one = Interview([card], 4, None, seed=0)
    asked = interview_html.question_html(one)
    one.show()
    answered = interview_html.answer_html(card)
    one.grade(GRADES[2])
    tags = Tags(asked + answered + interview_html.review_html(one)).found
    assert {tag for tag, _ in tags} <= {"div", "p", "b", "strong", "em", "code", "a", "ul", "li"}
    assert {name for _, attrs in tags for name in attrs} <= {"style", "aria-live", "href", "target", "rel"}
    assert not [attrs for _, attrs in tags if "script:" in attrs.get("href", "").lower()]


@pytest.mark.parametrize("address", UNSAFE)
def test_a_link_elsewhere_than_to_a_page_is_only_its_label(address):
    assert interview_html.link_html("label", address) == "label"
    assert not [tag for tag, _ in Tags(interview_html.as_html(f"[x]({address})")).found if tag == "a"]


@pytest.mark.parametrize("address", ["https://a.b/c?d=1&e:f", "HTTP://a", "#a:b", "y.ipynb#z's", "../y", "/y:z", "?q"])
def test_a_link_to_a_page_keeps_its_address(address):
    ((tag, attrs),) = Tags(interview_html.as_html(f"[x]({address})")).found
    assert tag == "a" and attrs["href"] == address


def test_stars_in_code_and_addresses_are_no_emphasis():
    assert interview_html.as_html("`a**b**c` **`x`**") == "<code>a**b**c</code> <strong><code>x</code></strong>"
    assert 'href="y_*z*_"' in interview_html.as_html("[x](y_*z*_)")


def test_the_star_of_an_optimum_is_no_emphasis():
    assert interview_html.as_html("π*(y) and π* over *the* reference") == "π*(y) and π* over <em>the</em> reference"
