"""DPO and fine-tuning on the chosen replies, on the same pairs: `python data/sft_arm.py`, about 15 minutes on one core.

For notebook 04, whose settings these are. It writes data/results/sft_arm.csv: five seeds, a row per checkpoint with the
log-ratios of the held-out pairs and the judged replies. Runs that the file has are skipped.
"""

import time

import results

from toylib import load_model, load_preferences
from toylib.evaluation.held_out import HeldOut, held_out_prompts
from toylib.labs.relatives import train_relative
from toylib.loss import LossSettings
from toylib.tokens import tokenize_pairs
from toylib.train import evaluate_dpo

SETTINGS = {"learning_rate": 1e-4, "batch_size": 24}
RUNS = {"dpo": {"beta": 0.1}, "sft": {}}
CHECKPOINTS = {"dpo": (10, 15, 20, 25, 30, 35, 40, 80), "sft": (10, 20, 40, 80, 160)}
SEEDS = (0, 1, 2, 3, 4)  # five, because the two are close
PROMPTS = 144  # twelve of each intent


def main():
    """Train and measure every method and seed that the table does not have yet."""
    model, tokenizer = load_model("support-lm", device="cpu")
    pairs = load_preferences("support")
    held_out = HeldOut(model, tokenizer, *held_out_prompts(count=PROMPTS))
    kept_back = tokenize_pairs(load_preferences("support", "test"), tokenizer)
    for seed in SEEDS:
        for method, settings in RUNS.items():
            if (method, seed) in results.done("sft_arm", ("method", "seed")):
                continue
            started, rows = time.monotonic(), []

            def on_step(step, metrics, policy, method=method, seed=seed, rows=rows):
                if step in CHECKPOINTS[method]:
                    ratios = evaluate_dpo(policy, model, tokenizer, kept_back, LossSettings(beta=1.0))
                    row = {"method": method, "seed": seed, "step": step}
                    row |= {side: ratios[f"eval_rewards/{side}"] for side in ("chosen", "rejected")}
                    rows.append(row | held_out.marked(policy, seed))

            how = SETTINGS | settings | {"steps": CHECKPOINTS[method][-1], "seed": seed, "on_step": on_step}
            train_relative(model, tokenizer, pairs, method, **how)
            results.append("sft_arm", rows)
            print(f"\n{method}, seed {seed}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
