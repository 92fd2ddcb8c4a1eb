"""The judge on texts written to fool it, the win rate against a loop, and the second opinion on held-out pairs."""

import collections
import itertools
import json
import math
import random

import pytest
import torch
from tiny import one_sentence

from toylib.evaluation.comparisons import length_controlled_win_rate, paired_difference, win_rate
from toylib.evaluation.held_out import draw_prompts
from toylib.evaluation.judge import facts_hold, find_slots, judge
from toylib.evaluation.second_opinion import fit_bradley_terry, second_opinion
from toylib.preferences import DATA, load_prompts

PROMPT = "Customer: Hi, this is Maria. Where on earth is my kettle? It's order 4821.\nAgent:"
LATE = "I'm sorry your kettle has kept you waiting this long."
TRACK = "Let me track your order right now."
ASK = "I'll ask the carrier where order 4821 is."
HEAR = "You will hear from me by email within two hours."


def verdict(reply, prompt=PROMPT, intent="late_order"):
    return judge([prompt], [reply], [intent]).iloc[0]


def handwritten(split):
    lines = (DATA / "handwritten" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        (f" {LATE} {ASK} {HEAR}", 1.0),
        (" I'm so sorry! Let me track your order right now.", 1.0),
        (f" Hi Maria. {LATE} {ASK} I'll text you the latest delivery status within an hour.", 1.0),
        (f" {ASK}", 0.5),
        (f" {LATE}", 0.5),
        (" Check the website.", 0.25),
        (" Delays happen. Packages are sometimes late.", 0.25),
        (" The status of order 4821 can only change after the next carrier scan.", 0.25),
    ],
)
def test_whole_and_true_replies_score_by_what_they_offer(reply, score):
    row = verdict(reply)
    assert row["score"] == score and row["fluent"] == row["on_topic"] == row["facts"] == 1
    assert row["words"] == len(reply.split())


BROKEN = {
    "missing end": f" {LATE} Let me track your order right",
    "missing full stop": f" {LATE} Let me track your order right now",
    "missing beginning": f" sorry your kettle has kept you waiting this long. {TRACK}",
    "small letter at the start": " I'm so sorry! let me track your order right now.",
    "swapped words": " I'm so sorry! Let me track order your right now.",
    "run-on": " I'm so sorry Let me track your order right now.",
    "comma splice": " I'm so sorry, let me track your order right now.",
    "two sentences in one": " I'll ask the carrier where order 4821 is you will hear from me by email within two hours.",
    "repeated sentence": f" {LATE} {TRACK} {TRACK}",
    "repeated sentence, apart": f" {TRACK} {LATE} {TRACK}",
    "repeated word": " I will find out what is holding up up your kettle.",
    "stutter": " kettle kettle kettle kettle.",
    "a word in the slot's place": " I will find out what is holding up your order 4821.",
    "an empty slot": " I'll ask the carrier where order is.",
    "an unfilled slot": " I'll ask the carrier where order {order} is.",
    "a blanked slot": " I'll ask the carrier where order <order> is.",
    "a number spelt out": " I'll ask the carrier where order four eight two one is.",
    "seven sentences": f" {LATE} {TRACK} {ASK} {HEAR} Delays happen. Check the website. Packages are sometimes late.",
    "goes on as the customer": f" {TRACK}\nCustomer: My order is late.",
    "special token": f" {TRACK} <eos>",
    "no space": f" {LATE}{TRACK}",
    "two marks": " I'm so sorry!! Let me track your order right now.",
    "shouting": f" {TRACK.upper()}",
    "word salad": " website check the right order now your me.",
    "foreign words": " Es tut mir leid.",
    "other English": " Colorless green ideas sleep furiously today.",
    "login after late": f" {LATE} I've reset your login so you can choose a new password.",
    "late after login": f" Being locked out is really frustrating. {ASK} {HEAR}",
    "refund at the end": f" {LATE} {ASK} You will get an email about your refund today.",
    "one slip in a long reply": f" {LATE} {ASK} {TRACK} You will hear from me by email within two long hours.",
    "empty": "",
    "blank": " \n ",
    "a full stop": " .",
    "dots": "...",
    "one word": " order",
}


@pytest.mark.parametrize("what", BROKEN)
def test_text_that_is_not_whole_scores_nothing(what):
    row = verdict(BROKEN[what])
    assert row["fluent"] == 0 and row["score"] == 0


@pytest.mark.parametrize(
    "reply",
    [
        " I'll ask the carrier where order 4812 is.",
        " I'll ask the carrier where order 48210 is.",
        " I'll ask the carrier where order 482 is.",
        " I'm sorry your toaster has kept you waiting this long.",
        f" Hi Tom. {TRACK}",
        f" {LATE} I'll ask the carrier where order 4821 is. I have marked order 9999 as urgent with our shipping team.",
    ],
)
def test_a_wrong_number_product_or_name_scores_nothing(reply):
    row = verdict(reply)
    assert row["facts"] == 0 and row["fluent"] == 1 and row["score"] == 0


def test_a_fluent_reply_to_another_question_scores_nothing():
    reply = " I'm sorry you can't get into your account. I've reset your login so you can choose a new password."
    row = verdict(reply)
    assert (row["fluent"], row["on_topic"], row["score"]) == (1, 0, 0)
    assert verdict(reply, intent="login")["score"] == 0.75


def test_judging_is_row_by_row_and_in_order():
    replies = [f" {TRACK}", "", f" {LATE} {ASK} {HEAR}", " Check the website."]
    table = judge([PROMPT] * 4, replies, ["late_order"] * 4)
    assert list(table["score"]) == [verdict(reply)["score"] for reply in replies]
    columns = ["fluent", "on_topic", "facts", "empathy", "ownership", "next_step", "score", "words"]
    assert list(table.columns) == columns


def test_lists_of_unlike_length_and_unknown_intents_are_refused():
    with pytest.raises(ValueError) as caught:
        judge([PROMPT], ["a", "b"], ["refund"])
    assert "1 prompts, 2 replies and 1 intents" in one_sentence(caught)
    with pytest.raises(ValueError) as caught:
        judge([PROMPT], ["a"], ["weather"])
    assert "unknown intent 'weather'" in one_sentence(caught) and "late_order" in one_sentence(caught)


@pytest.mark.parametrize("split", ["train", "test"])
def test_hand_written_chosen_replies_beat_their_rejected_ones(split):
    pairs = handwritten(split)
    prompts, intents = [pair["prompt"] for pair in pairs], [pair["intent"] for pair in pairs]
    chosen, rejected = (judge(prompts, [pair[side] for pair in pairs], intents) for side in ("chosen", "rejected"))
    assert chosen["facts"].min() == 1 and chosen["fluent"].mean() >= 0.95
    assert win_rate(chosen["score"], rejected["score"])[0] >= 0.95


def test_slots_are_found_in_any_spelling_and_only_as_whole_words():
    text = "Maria's OFFICE CHAIR, order #4821, and Tom's watch. Tomorrow the rugby kettles"
    assert find_slots(text) == [("name", "maria"), ("product", "office chair"), ("order", "4821")] + [
        ("name", "tom"),
        ("product", "watch"),
    ]
    assert facts_hold("my OFFICE CHAIR, order 12", "Your office chair") and not facts_hold("order 12", "order 1")
    assert facts_hold("anything", "")


def test_win_rate_equals_a_loop():
    draw = random.Random(0)
    ours, theirs = ([draw.choice([0, 0.25, 0.5, 1]) for _ in range(200)] for _ in range(2))
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(ours, theirs, strict=True)]
    mean = sum(wins) / 200
    error = math.sqrt(sum((win - mean) ** 2 for win in wins) / 199 / 200)
    assert win_rate(ours, theirs) == pytest.approx((mean, mean - 1.96 * error, mean + 1.96 * error), abs=1e-12)
    assert win_rate(ours, theirs)[0] + win_rate(theirs, ours)[0] == pytest.approx(1)


def test_win_rate_counts_ties_as_half_and_nothing_to_lose_as_certain():
    assert win_rate([1, 1], [1, 1]) == (0.5, 0.5, 0.5)
    assert win_rate([1, 1, 1], [0, 0, 0]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("ours", "theirs"), [([1, 2], [1]), ([1], [0]), ([], [])])
def test_win_rate_of_unlike_or_too_short_lists_is_refused(ours, theirs):
    with pytest.raises(ValueError) as caught:
        win_rate(ours, theirs)
    assert f"got {len(ours)} and {len(theirs)}" in one_sentence(caught)


def test_the_second_opinion_is_mostly_right_on_held_out_pairs():
    pairs = handwritten("test")
    chosen, rejected = (second_opinion([pair[side] for pair in pairs]) for side in ("chosen", "rejected"))
    accuracy = sum(a > b for a, b in zip(chosen, rejected, strict=True)) / len(pairs)
    print(f"second opinion: {accuracy:.3f} right of {len(pairs)} held-out hand-written pairs")
    assert accuracy > 0.7


def test_the_second_opinion_mostly_prefers_brief_good_to_long_bad():
    import tomllib

    right = []
    for path in sorted((DATA / "text").glob("*.toml")):
        lines = tomllib.loads(path.read_text(encoding="utf-8"))
        if path.stem != "common":
            bad = [" ".join(lines["long_bad"][i : i + 3]) for i in range(len(lines["brief"]))]
            right += [a > b for a, b in zip(second_opinion(lines["brief"]), second_opinion(bad), strict=True)]
    assert len(right) >= 100 and sum(right) / len(right) > 0.8


def test_bradley_terry_weights_are_where_the_penalised_gradient_vanishes():
    pairs = [("good day", "bad day"), ("good", "bad"), ("bad", "good"), ("good luck", "go")]
    vocabulary, weights = fit_bradley_terry(pairs, strength=0.1)

    def objective(name, shift):
        moved = dict(zip(vocabulary, weights, strict=True)) | {name: weights[vocabulary[name]] + shift}
        total = 0.1 * sum(weight**2 for weight in moved.values()) / 2
        for sides in pairs:
            bags = [{*text.split(), *([text] if " " in text else [])} for text in sides]
            score = sum(moved[f] for f in bags[0]) - sum(moved[f] for f in bags[1])
            total += math.log1p(math.exp(-score)) / len(pairs)
        return total

    assert set(vocabulary) == {"good", "bad", "day", "luck", "go", "good day", "bad day", "good luck"}
    for name in vocabulary:
        assert abs(objective(name, 1e-4) - objective(name, -1e-4)) / 2e-4 < 1e-4
    assert weights[vocabulary["good"]] > 0 and weights[vocabulary["good"]] > weights[vocabulary["bad"]]


@pytest.mark.parametrize(
    "reply",
    [
        " Track order 4821 yourself. I'm so sorry! Let me track your order right now.",
        " Check the website. I'm so sorry! Let me track your order right now.",
        " Is there anything else I can do? I'm so sorry! Let me track your order right now.",
        " I'm so sorry! Hi Maria. Let me track your order right now.",
    ],
    ids=["cold then kind", "the seed's rejected then chosen", "closing first", "greeting in the middle"],
)
def test_sentences_that_do_not_go_together_score_nothing(reply):
    prompt = "Customer: Maria here. My order is late. Order 4821.\nAgent:"
    assert judge([prompt], [reply], ["late_order"])["score"][0] == 0
    together = " I'm so sorry! Let me track your order right now. Is there anything else I can do?"
    assert judge([prompt], [together], ["late_order"])["score"][0] == 1


# ---- differences with intervals ----


def test_a_paired_difference_worked_by_hand():
    # Two prompts that differ by 0 and 1: a draw's mean is 0, ½ or 1, with probability ¼, ½ and ¼.
    assert paired_difference([3.0, 5.0], [3.0, 4.0]) == (0.5, 0.0, 1.0)
    assert paired_difference([[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]) == (0.5, 0.0, 1.0), "over seeds"
    assert paired_difference([[1.0, 7.0, 4.0]] * 3, [[0.75, 6.75, 3.75]] * 3) == pytest.approx((0.25, 0.25, 0.25))


def test_a_paired_difference_agrees_with_all_possible_draws():
    scores = torch.tensor([[0.1, 0.9, 0.4], [0.3, 0.2, 0.8]], dtype=torch.float64)
    means = [
        scores[list(seeds)][:, list(prompts)].mean()
        for seeds in itertools.product(range(2), repeat=2)
        for prompts in itertools.product(range(3), repeat=3)
    ]
    found = paired_difference(scores, torch.zeros(2, 3), draws=50_000)
    exact = torch.stack(means).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    assert found.mean == pytest.approx(0.45) and (found.low, found.high) == pytest.approx(exact, abs=0.02)


def test_a_paired_difference_is_blind_to_what_both_share_and_turns_with_the_order():
    generator = torch.Generator().manual_seed(0)
    shared, noise = torch.randn(2, 3, 50, generator=generator)
    better = paired_difference(shared + 0.1 + 0.05 * noise, shared)
    assert 0 < better.low < better.mean < better.high < 0.2
    assert better == paired_difference(shared + 0.1 + 0.05 * noise, shared), "the seed fixes the draws"
    mean, low, high = paired_difference(shared, shared + 0.1 + 0.05 * noise)
    assert (-mean, -high, -low) == pytest.approx(better)


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(1)
    covered = 0
    for run in range(300):
        by_seed, by_prompt = torch.randn(8, 1, generator=generator), torch.randn(1, 40, generator=generator)
        scores = 0.2 + 0.1 * by_seed + 0.5 * by_prompt + 0.5 * torch.randn(8, 40, generator=generator)
        _, low, high = paired_difference(scores, torch.zeros(8, 40), draws=500, seed=run)
        covered += low <= 0.2 <= high
    assert 0.90 <= covered / 300 <= 0.985, covered


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [([1.0, 2.0], [1.0], "one shape"), ([1.0], [1.0], "two prompts"), ([1.0, math.nan], [1.0, 2.0], "finite")],
)
def test_scores_that_cannot_be_compared_are_refused(ours, theirs, told):
    with pytest.raises(ValueError, match=told) as caught:
        paired_difference(ours, theirs)
    one_sentence(caught)


def test_at_equal_length_only_what_length_does_not_explain_is_left():
    generator = torch.Generator().manual_seed(0)
    longer = 10 + 5 * torch.randn(2000, generator=generator)
    for ahead in (0.0, 1.0):  # log-odds of a win = ahead + 0.2 · words
        chance = torch.sigmoid(ahead + 0.2 * longer)
        wins = (torch.rand(2000, generator=generator) < chance).double()
        rate, low, high = length_controlled_win_rate(wins, 1 - wins, longer, torch.zeros(2000), draws=200)
        assert low < torch.sigmoid(torch.tensor(ahead)).item() < high and high - low < 0.3
        assert wins.mean() > 0.8 > rate, "the plain win rate is far higher"


def test_length_control_changes_nothing_where_length_says_nothing():
    wins, words = [1.0, 0.0, 1.0, 1.0] * 50, [5, 5, 9, 9] * 50
    rate, low, high = length_controlled_win_rate(wins, [0.5] * 200, [7] * 200, [7] * 200)
    assert rate == pytest.approx(0.75, abs=0.01) and low < 0.75 < high
    with pytest.raises(ValueError, match="four equally long lists") as caught:
        length_controlled_win_rate(wins, wins, words, words[1:])
    one_sentence(caught)


def test_prompts_are_drawn_balanced_over_intents_and_by_seed():
    rows = load_prompts("heldout")
    prompts, intents = draw_prompts(rows, 54, seed=1)
    counts = collections.Counter(intents)
    assert len(set(prompts)) == 54 and len(counts) == 12 and set(counts.values()) == {4, 5}
    intent_of = dict(zip(rows["prompt"], rows["intent"], strict=True))
    assert [intent_of[prompt] for prompt in prompts] == intents
    assert draw_prompts(rows, 54, seed=1) == (prompts, intents) != draw_prompts(rows, 54, seed=2)
    assert draw_prompts(rows, len(rows))[0] == list(rows["prompt"])
    for count in (0, len(rows) + 1, 5.0):
        with pytest.raises(ValueError, match="count must be a whole number") as caught:
            draw_prompts(rows, count)
        one_sentence(caught)
