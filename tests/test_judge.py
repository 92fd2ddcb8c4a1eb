"""The judge on texts written to fool it, the win rate against a loop, and the second opinion on held-out pairs."""

import json
import math
import random

import pytest
from tiny import one_sentence

from toylib.evaluation.comparisons import win_rate
from toylib.evaluation.judge import facts_hold, find_slots, judge
from toylib.evaluation.second_opinion import fit_bradley_terry, second_opinion
from toylib.preferences import DATA

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
