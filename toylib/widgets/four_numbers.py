"""The four numbers of notebook 01 under five sliders. The page computes and draws them, in a few lines of JavaScript."""

from __future__ import annotations

import io
import math

from toylib import plots
from toylib.plots import COLORS, WORDS
from toylib.plots import pair as plots_pair
from toylib.widgets.live import escaped, live_html, readout, show_live, slider

LOWEST = -8.0  # nats, where the axes of the log-probs begin
NAMES = ("policy, chosen", "policy, rejected", "reference, chosen", "reference, rejected")


def four_numbers(policy_chosen=-2.1, policy_rejected=-4.5, ref_chosen=-3.0, ref_rejected=-3.2, beta=0.1) -> None:
    """Show a slider for each of a pair's four log-probs (nats) and for β. Arrows, Δ, probability, loss and push follow.

    The push is β·σ(−βΔ), what gradient descent adds to chosen and takes from rejected (DPO paper, section 4). Raises
    `ValueError` for a log-prob that is not from −8 to 0 or a `beta` that is not from 0.01 to 10. Where no script runs, the
    picture shows the opposite moves, because the notebook draws the pair itself just before.
    """
    from PIL import Image

    four = (policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    if not all(LOWEST <= number <= 0 for number in four):
        raise ValueError(f"log-probs must be from {LOWEST:g} to 0, got {four}")
    if not 0.01 <= beta <= 10:
        raise ValueError(f"beta must be from 0.01 to 10, got {beta!r}")
    log_probs = sorted({round(LOWEST + step / 10, 1) for step in range(81)} | set(four))
    betas = sorted({float(f"{10 ** (step / 20):.2g}") for step in range(-40, 21)} | {beta})
    value = '<span class="toylib-value" aria-hidden="true"></span>'
    nats = [f"{number:.1f} nats" if number == round(number, 1) else f"{number:.4g} nats" for number in log_probs]
    sliders = [slider(name, nats, log_probs.index(one), value) for name, one in zip(NAMES, four, strict=True)]
    sliders.append(slider("β", [f"β = {one:g}" for one in betas], betas.index(beta), value))
    control = f'<div class="toylib-controls" oninput="{escaped(DRAW)}">{"".join(sliders)}</div>'
    other = (min(2 * ref_chosen - policy_chosen, 0), min(2 * ref_rejected - policy_rejected, 0), *four[2:])
    delta = other[0] - ref_chosen - other[1] + ref_rejected
    probability, loss, push = plots_pair.pair_values(delta, beta)
    numbers = (
        f"Δ = {delta:.4f}|βΔ = {beta * delta:.4f}|probability = {probability:.4f}|loss = {loss:.4f}|push = {push:.4f}"
    )
    alt = (
        f"The same pair moved the other way: chosen from {ref_chosen:g} under the reference to {other[0]:g} under the "
        f"policy, rejected from {ref_rejected:g} to {other[1]:g}. At β = {beta:g}: {numbers.replace('|', ', ')}."
    )
    side = "above" if delta < 0 else "below"
    titles = ("For example, dragged the other way", f"At β = {beta:g} the loss is {loss:.4f}, {side} ln 2")
    picture = plots.png(plots_pair.four_numbers(*other, titles))
    whole = Image.open(io.BytesIO(picture)).convert("RGBA")
    under = f'<div class="toylib-numbers" aria-live="polite">{readout(*numbers.split("|"))}</div>'
    show_live(live_html(control, drawing(), whole, alt, under), picture, alt)


def drawing() -> str:
    """Return the figure as SVG: what stands still, and by its class what `DRAW` moves."""
    ticks = [_tick(_log_prob(number), 182, f"{number:g}") for number in range(-8, 1, 2)]
    ticks += [_tick(_log_ratio(number), 182, f"{number:+g}" if number else "0") for number in range(-6, 7, 3)]
    lines = [_line(90, 162, 460, 162), _line(530, 162, 840, 162), _line(685, 40, 685, 162, 1)]
    texts = [
        _text(x, 20, title, "start", "title") for x, title in ((90, "log-prob, nats"), (530, "log-ratio and Δ, nats"))
    ]
    texts += [_text(80, 72, "chosen", "end", "chosen"), _text(80, 126, "rejected", "end", "rejected")]
    texts.append(_text(460, 20, "orange: where the loss pushes", "end", "push-name"))
    bars = ""
    for number, (name, high, level) in enumerate(
        (("probability", 1, 0.5), ("loss", 2, math.log(2)), ("push", 1, None))
    ):
        x = 90 + 260 * number
        bars += f'<rect x="{x}" y="232" width="230" height="14" fill="#DDDAD0"/>'
        bars += f'<rect class="{name}-bar" x="{x}" y="232" width="0" height="14" fill="{COLORS["example"]}"/>'
        bars += _text(x, 224, "", "start", f"{name}-text")
        if level:
            bars += _line(x + 230 * level / high, 228, x + 230 * level / high, 250)
            bars += _text(x + 230 * level / high, 264, "½: no opinion" if high == 1 else "ln 2: no opinion", "middle")
        else:
            bars += _text(x + 230, 264, "the most, β", "end")
    moving = "".join(
        f'<path class="{name}" fill="none" stroke="{COLORS[role]}" stroke-width="2.2" stroke-dasharray="{dashes}"/>'
        for name, role, dashes in (
            ("chosen-move", "chosen", "none"), ("rejected-move", "rejected", "7 3"), ("chosen-ratio", "chosen", "none"),
            ("rejected-ratio", "rejected", "7 3"), ("margin-path", "margin", "9 3 2 3"),
            ("chosen-push", "example", "none"), ("rejected-push", "example", "none"),
        )
    )  # fmt: skip
    for role, y in (("chosen", 68), ("rejected", 122)):
        moving += f'<circle class="{role}-ref" cy="{y}" r="4.5" fill="{COLORS["ground"]}" stroke="{COLORS["ink"]}"/>'
        moving += _text(0, y - 12, "", "middle", f"{role}-text")
    moving += _text(0, 152, "", "middle", "margin-text")
    shapes = "".join([*ticks, *lines, *texts, bars, moving])
    words = "".join(f".toylib-pair .{role}-text {{ fill: {WORDS[role]} }}" for role in ("chosen", "rejected", "margin"))
    words += f".toylib-pair .push-name {{ fill: {WORDS['example']} }}"
    halo = f"paint-order: stroke; stroke: {COLORS['ground']}; stroke-width: 4px; stroke-linejoin: round"  # over lines
    font = f"fill: {COLORS['ink']}; font: 13px DejaVu Sans, sans-serif"
    style = f"<style>.toylib-pair text {{ {font}; {halo} }} {words}</style>"
    ground = f'<rect width="860" height="275" fill="{COLORS["ground"]}"/>'
    svg = f'<svg class="toylib-pair" viewBox="0 0 860 275" width="100%" style="display: block">{ground}{shapes}</svg>'
    return f'<div class="toylib-moving" style="display: none">{style}{svg}</div>'


def _log_prob(number):
    return 90 + 370 * (number - LOWEST) / -LOWEST


def _log_ratio(number):
    return 685 + 155 * number / 6


def _line(x1, y1, x2, y2, width=1):
    return f'<path d="M{x1:.1f} {y1}L{x2:.1f} {y2}" stroke="{COLORS["ink"]}" stroke-width="{width}"/>'


def _text(x, y, text, anchor, name=""):
    return f'<text class="{name}" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{text}</text>'


def _tick(x, y, text):
    return _line(x, y - 20, x, y - 15) + _text(x, y, text.replace("-", "−"), "middle")


# In the page: read the sliders, compute as `toylib.loss` does, move the shapes. An arrow is a line with two strokes.
DRAW = """
const sliders = [...this.querySelectorAll('input')], box = this.closest('.toylib-live');
const texts = sliders.map(one => one.dataset.texts.split('|')[one.value]);
const [pc, pr, rc, rr, beta] = texts.map(text => parseFloat(text.replace('β = ', '')));
const c = pc - rc, r = pr - rr, delta = c - r, z = beta * delta;
const loss = Math.log1p(Math.exp(-Math.abs(z))) + Math.max(0, -z), share = 1 / (1 + Math.exp(z)), push = beta * share;
sliders.forEach((one, at) => one.nextElementSibling.textContent = texts[at].replace('-', '−'));
const set = (name, looks) => {
    const one = box.querySelector('.' + name);
    for (const look in looks) look == 'text' ? one.textContent = looks.text.replace('-', '−') : one.setAttribute(look, looks[look]);
};
const left = x => 90 + 370 * (x + 8) / 8, right = x => 685 + 155 * Math.max(-6.2, Math.min(6.2, x)) / 6;
const head = (x, y, way) => `M${x - 7 * way} ${y - 4}L${x} ${y}L${x - 7 * way} ${y + 4}`;
const arrow = (from, to, y) => `M${from} ${y}H${to}` + (Math.abs(to - from) < 2 ? '' : head(to, y, Math.sign(to - from)));
const rows = [['chosen', 68, rc, pc, c, 1], ['rejected', 122, rr, pr, r, -1]];
for (const [name, y, from, to, ratio, way] of rows) {
    set(name + '-ref', {cx: left(from)});
    set(name + '-move', {d: arrow(left(from), left(to), y)});
    set(name + '-ratio', {d: arrow(685, right(ratio), y)});
    set(name + '-push', {d: arrow(left(to), left(to) + way * 60 * share, y + 14)});
    set(name + '-text', {x: right(ratio / 2), text: (ratio > 0 ? '+' : '') + ratio.toFixed(1)});
}
set('margin-path', {d: arrow(right(r), right(c), 148)});
set('margin-text', {x: right((c + r) / 2), y: 142, text: `Δ = ${delta.toFixed(1)}`});
const bars = [['probability', Math.exp(-loss), 1], ['loss', loss, 2], ['push', push, beta]];
for (const [name, value, most] of bars) {
    set(name + '-bar', {width: 230 * Math.min(1, value / most)});
    set(name + '-text', {text: `${name} ${value.toFixed(4)}` + (name == 'push' ? `, ${Math.round(100 * share)} % of β` : '')});
}
const numbers = [['Δ', delta], ['βΔ', z], ...bars];
numbers.forEach(([name, value], at) => {
    box.querySelectorAll('.toylib-numbers span')[at].textContent = `${name} = ${value.toFixed(4)}`;
});
const moves = `Chosen moves from ${rc} under the reference to ${pc} under the policy, rejected from ${rr} to ${pr}. `;
box.querySelector('[role=img]').setAttribute('aria-label', moves + box.querySelector('.toylib-numbers').textContent);
"""
