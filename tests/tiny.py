"""Things the tests make on the spot: models of a few hundred weights, word-level tokenizers, padded batches."""

import json

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

torch.set_num_threads(1)  # models this small gain nothing from more, and lose a lot where the cores are shared
WORDS = ["Customer:", "Agent:", "my", "order", "is", "late", "lost", "where", "sorry", "let", "me", "check", "the"]
WORDS += ["website", ".", "!", "yes", "no", "today"]
PAIRS = [
    {
        "prompt": "Customer: my order is late . Agent:",
        "chosen": " sorry ! let me check",
        "rejected": " check the website .",
    },
    {"prompt": "Customer: where is my order Agent:", "chosen": " let me check today !", "rejected": " lost"},
    {"prompt": "Customer: late Agent:", "chosen": " sorry", "rejected": " no . the order is late ."},
    {"prompt": "Customer: is my order lost Agent:", "chosen": " no ! sorry . let me check today", "rejected": " yes"},
]
CHAT = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% if m['role'] == 'assistant' %}{{ eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)


def tiny_model(seed=0, vocab_size=24, dtype=torch.float32, **changes):
    """A random Llama of two layers, its weights large enough that its predictions are far from uniform."""
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings = {"max_position_embeddings": 256, "initializer_range": 0.4, "bos_token_id": None, "eos_token_id": 1}
    settings |= {"pad_token_id": 0, "tie_word_embeddings": True}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **(shape | settings | changes)))
    return model.to(dtype).eval()


def experts(seed=0, **changes):
    """A random Mixtral of two layers and four experts that returns its router's auxiliary loss, at a weight of ½."""
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "num_local_experts": 4, "router_jitter_noise": 0.5}
    settings = {"vocab_size": 24, "output_router_logits": True, "router_aux_loss_coef": 0.5}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MixtralForCausalLM(MixtralConfig(**(shape | settings | changes)))


def tiny_tokenizer(words=WORDS, pad="<pad>", eos="<eos>", **special):
    """A tokenizer of whole words: `<pad>` is 0, `<eos>` 1, `<unk>` 2, `<bos>` 3, then `words`."""
    words = ["<pad>", "<eos>", "<unk>", "<bos>", *words]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=pad, eos_token=eos, unk_token="<unk>", **special)


def random_sequences(count, seed=0, vocab_size=24):
    """`count` pairs `(prompt, reply)` of lists of ids above the special ones, of all lengths from 1 to 9."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 10, (count, 2), generator=generator).tolist()
    drawn = [[torch.randint(4, vocab_size, (n,), generator=generator).tolist() for n in pair] for pair in lengths]
    return [(prompt, reply) for prompt, reply in drawn]


def padded(sequences, side="right", pad=0, extra=0):
    """`input_ids`, `attention_mask` and `completion_mask` of `(prompt, reply)` lists, padded on one side."""
    width = max(len(prompt) + len(reply) for prompt, reply in sequences) + extra
    rows = {"input_ids": [], "attention_mask": [], "completion_mask": []}
    for prompt, reply in sequences:
        gap = width - len(prompt) - len(reply)
        parts = {
            "input_ids": (prompt + reply, [pad] * gap),
            "attention_mask": ([1] * (width - gap), [0] * gap),
            "completion_mask": ([0] * len(prompt) + [1] * len(reply), [0] * gap),
        }
        for name, (row, filling) in parts.items():
            rows[name].append(filling + row if side == "left" else row + filling)
    return {name: torch.tensor(values) for name, values in rows.items()}


@torch.no_grad()
def slow_logp(model, prompt, reply):
    """log π(reply | prompt) the slowest way: the model is run again for every token, on all that stands before it."""
    total = 0.0
    for t in range(len(reply)):
        logits = model(input_ids=torch.tensor([prompt + reply[:t]]), use_cache=False).logits[0, -1].double()
        total += (logits[reply[t]] - logits.logsumexp(dim=0)).item()
    return total


def says_sorry(prompts, replies):
    """A scorer that wants one first word and nothing else: the bandit."""
    return [float(text.split()[:1] == ["sorry"]) for text in replies.texts]


def counts_words(prompts, replies):
    """A scorer that wants long replies."""
    return [float(len(text.split())) for text in replies.texts]


def write_lines(path, *rows):
    """Write rows, or texts as they are, to a .jsonl file, and return its path."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def one_sentence(caught):
    """The message of a caught error, which must be one line of readable length."""
    said = str(caught.value)
    assert said and "\n" not in said and len(said) < 500, said
    return said


def pairs_of_tokens(count, vocabulary=97, seed=0):
    """Tokenised pairs of mixed lengths, as from `tokenize_pairs`: ids above the special ones, each reply ending in 2."""
    drawn = zip(random_sequences(count, seed, vocabulary), random_sequences(count, seed + 1, vocabulary), strict=True)
    return [
        {"number": i, "prompt": prompt, "chosen": [*chosen, 2], "rejected": [*rejected, 2]}
        for i, ((prompt, chosen), (_, rejected)) in enumerate(drawn, start=1)
    ]
