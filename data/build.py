"""Make everything in data/ that is not written by hand: `python data/build.py` (about 18 minutes on 2 cores).

Tokenizer and support model (data/support-lm), prompts, on-policy and templated pairs, and the measured part of
data/README.md. One seed; nothing is fetched.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import time

import compose
import measure
import torch
from sft import LARGE, new_model, train_sft
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from toylib.evaluation.judge import judge
from toylib.models import load_model
from toylib.preferences import DATA, read_file
from toylib.replies import sample_replies

SEED = 0
VOCABULARY = 1408
TEMPERATURE = 0.5  # folded into the weights: sampling the shipped model at 1 is sampling the trained one at this
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}Customer: {{ message['content'] }}\nAgent:"
    "{% elif message['role'] == 'assistant' %} {{ message['content'].strip() }}{{ eos_token }}"
    "{% else %}{{ raise_exception('this model knows user and assistant turns only') }}{% endif %}{% endfor %}"
)


def sft_examples(rng, styles=compose.STYLES):
    """Yield `(prompt, reply, number of the intent)` for training, without end and without dev or test phrasings."""
    asked = {intent: list(lines["phrasings"]) for intent, lines in compose.INTENTS.items()}
    for pair in read_file(DATA / "handwritten" / "train.jsonl"):
        asked[pair["intent"]].append(compose.phrasing_of(pair["prompt"]))
    fragments = {intent: lines["fragments"] for intent, lines in compose.INTENTS.items()}
    intents = list(asked)
    while True:
        intent = rng.choice(intents)
        phrasing = rng.choice((asked if rng.random() < 0.25 else fragments)[intent])
        second = rng.choice(fragments[intent])
        if rng.random() < 0.5 and not compose.slots_in(phrasing) & compose.slots_in(second):
            phrasing = f"{phrasing} {second}"  # the same request twice in one message
        message = compose.customer(rng, phrasing)
        values = compose.values_given(message)
        if rng.random() < 0.6:
            message = compose.roughen(rng, message, {word for value in values.values() for word in value.split()})
        reply = compose.reply(rng, intent, compose.draw_style(rng, styles), values)
        yield compose.shop_prompt(message), reply, intents.index(intent)


def build_tokenizer(examples):
    """Train a byte-level BPE tokenizer that splits an order number into two tokens, such as " 48" or "#48" and "21".

    The model can tell the first half from the second by the token alone, which makes copying far easier to learn.
    """
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r"[ #]?\d{1,2}| ?[A-Za-z]+|'[a-z]+| ?[^\sA-Za-z\d#]+|[\s#]")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    digits = [f"{before}{n:02d}" for n in range(100) for before in ("", " ", "#")]
    things = [f" {word}" for line in compose.COMMON["products"] + compose.COMMON["names"] for word in line.split()]
    text = itertools.chain((prompt + reply for prompt, reply, _ in examples), (digits + things) * 500)
    tokenizer.train_from_iterator(text, trainer)  # repeated, so that what has to be copied gets its own tokens
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def write_jsonl(path, rows):
    """Write `rows` as JSON, one per line, and print how many."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{path.relative_to(DATA)}: {len(rows)} rows")


def check_test_set():
    """Stop if the hand-written test prompts are not those whose hash was committed before the first training run."""
    folder = DATA / "prompts"
    committed = (folder / "test.jsonl.sha256").read_text(encoding="utf-8").split()[0]
    if hashlib.sha256((folder / "test.jsonl").read_bytes()).hexdigest() != committed:
        raise SystemExit("data/prompts/test.jsonl is not the set whose hash was committed: restore it")


def distinct_prompts(rng, part, count, held_out=True):
    """Draw `count` different prompts, with intents in turn, from a `part` ("phrasings", "dev", "test") of the text files."""
    rows = {}
    while len(rows) < count:
        intent = list(compose.INTENTS)[len(rows) % len(compose.INTENTS)]
        prompt = compose.shop_prompt(compose.customer(rng, rng.choice(compose.INTENTS[intent][part]), held_out))
        rows.setdefault(prompt, {"prompt": prompt, "intent": intent})
    return list(rows.values())


def on_policy_pairs(model, tokenizer, prompts, seed, samples=4):
    """Sample several replies per prompt and pair the judge's best with its worst.

    A pair is kept if the best reply scores at least half a point more, so it is whole, on topic and right in its facts.
    """
    texts, intents = [row["prompt"] for row in prompts], [row["intent"] for row in prompts]
    candidates = [[] for _ in prompts]
    for sample in range(samples):
        replies = sample_replies(model, tokenizer, texts, seed=seed + sample).texts
        for i, score in enumerate(judge(texts, replies, intents)["score"]):
            candidates[i].append((score, replies[i]))
    pairs = []
    for row, scored in zip(prompts, candidates, strict=True):
        (worst, rejected), *_, (best, chosen) = sorted(scored, key=lambda pair: pair[0])
        if best - worst >= 0.5:
            pairs.append({"prompt": row["prompt"], "chosen": chosen, "rejected": rejected, "intent": row["intent"]})
    return pairs


def templated_pairs(rng, count, contrasts):
    """Make off-policy pairs from the text files. `contrasts` are (style of chosen, style of rejected), taken in turn."""
    rows = []
    for i, prompt in enumerate(distinct_prompts(rng, "phrasings", count, held_out=False)):
        good, bad = contrasts[i % len(contrasts)]
        values = compose.values_given(prompt["prompt"])
        chosen, rejected = (compose.reply(rng, prompt["intent"], style, values) for style in (good, bad))
        rows.append({"prompt": prompt["prompt"], "chosen": chosen, "rejected": rejected, "intent": prompt["intent"]})
    return rows


def build_large(folder=DATA.parent / "runs" / "support-135m", shape=LARGE, share=1.0, device="cuda"):
    """Train a model of SmolLM2-135M's shape on the same text, for notebook 09 on a GPU without access to the hub.

    `share` is the part of the small model's steps that it takes. Returns the last loss of its training.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--size 135m needs a GPU: on a CPU it takes days")
    _, tokenizer = load_model("support-lm", device="cpu")
    model = new_model(tokenizer, SEED, shape).to(device)
    loss = train_sft(model, tokenizer, sft_examples, SEED, pace=0.25, share=share)
    sharpen(model)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return loss


def sharpen(model):
    """Fold `TEMPERATURE` into the last norm of `model`: that divides all of its logits by it."""
    model.model.norm.weight.data /= TEMPERATURE


def main():
    """Make everything, or what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep-model", action="store_true", help="keep data/support-lm, remake the rest")
    parser.add_argument("--size", choices=("small", "135m"), default="small", help="135m: only that model, on a GPU")
    options = parser.parse_args()
    started = time.monotonic()
    check_test_set()
    if options.size == "135m":
        build_large()
        print('runs/support-135m: MODEL = "../runs/support-135m" in notebook 09 takes it')
        return

    folder = DATA / "support-lm"
    if not options.keep_model:
        tokenizer = build_tokenizer(itertools.islice(sft_examples(random.Random(SEED)), 20_000))
        model = new_model(tokenizer, SEED)
        train_sft(model, tokenizer, sft_examples, SEED)
        sharpen(model)
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    model, tokenizer = load_model("support-lm", device="cpu")  # from here on with the weights as shipped

    rng = random.Random(SEED + 1)
    write_jsonl(DATA / "prompts" / "dev.jsonl", distinct_prompts(rng, "dev", 240))
    write_jsonl(DATA / "prompts" / "heldout.jsonl", distinct_prompts(rng, "test", 240))
    for split, part, count, seed in (("train", "phrasings", 1650, 100), ("test", "dev", 400, 200)):
        prompts = distinct_prompts(rng, part, count, held_out=split == "test")
        pairs = on_policy_pairs(model, tokenizer, prompts, seed)
        write_jsonl(DATA / "support" / f"{split}.jsonl", pairs[: 800 if split == "train" else 160])
    balanced = [("brief", "long_bad"), ("helpful", "curt")]
    write_jsonl(DATA / "templated" / "balanced.jsonl", templated_pairs(rng, 480, balanced))
    write_jsonl(DATA / "templated" / "confounded.jsonl", templated_pairs(rng, 480, [("helpful", "curt")]))
    measure.write_card(model, tokenizer)
    print(f"all of data/ made in {(time.monotonic() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
