"""Be the labeller: which reply is better, A, B or a tie? The page keeps the labels and counts how far they agree.

It needs no kernel. The labels come out as a text, which the reader pastes into a cell.
"""

from __future__ import annotations

import io

from toylib import plots
from toylib.plots.failures import pairs_to_label
from toylib.widgets.beta_lab import message_of
from toylib.widgets.live import LOOK, escaped, show_live, still

BUTTONS = {"A": "A is better", "T": "Tie", "B": "B is better", "undo": "Undo"}


def labeller(shown, judged) -> None:
    """Show pairs one by one, with buttons, and at the end how far the reader's labels agree.

    Args:
        shown: the pairs, each with `prompt`, `a`, `b`, `longer` and `first` (`labs.labelling.Shown`).
        judged: the judge's labels, a letter per pair: A, B or T.
    """
    from PIL import Image

    count, few = len(shown), [(message_of(pair.prompt), pair.a.strip(), pair.b.strip()) for pair in shown[:3]]
    picture = plots.png(pairs_to_label(few, f"Which reply is better? The first three of {count} pairs"))
    words = " ".join(f"“{prompt}” A: “{a}” B: “{b}”" for prompt, a, b in few)
    alt = f"{count} pairs of replies to label. The first three: {words}"
    whole = Image.open(io.BytesIO(picture)).convert("RGBA")
    pieces = [pair_html(pair, f"Pair {at} of {count}") for at, pair in enumerate(shown, start=1)]
    stack = "".join(f"<div>{piece}</div>" for piece in [*pieces, result_html(shown, judged)])
    data = {"labels": "", "judge": judged, "longer": "".join(pair.longer for pair in shown)}
    data["first"] = " ".join(str(pair.first) for pair in shown)
    attributes = " ".join(f'data-{name}="{value}"' for name, value in data.items())
    buttons = "".join(
        f'<button type="button" value="{value}" {"disabled" * (value == "undo")}>{words}</button>'
        for value, words in BUTTONS.items()
    )
    pad = (
        f'<div class="toylib-moving toylib-labels" style="display: none" {attributes} onclick="{escaped(LABEL)}" '
        'onkeydown="event.stopPropagation()">'
        f'<div class="toylib-stack" aria-live="polite">{stack}</div>'
        f'<div role="group" aria-label="Your label">{buttons}</div></div>'
    )
    box = f'<div class="toylib-picture" style="overflow: auto hidden">{still(whole, alt)}</div>'
    width = f'style="max-width: {whole.width}px"'
    show_live(f'<div class="toylib-live" {width}>{LOOK}{STYLE}{box}{pad}</div>', picture, alt)


def pair_html(pair, progress) -> str:
    """Return one pair as HTML."""
    replies = "".join(f"<p><b>{name}</b> {escaped(text)}</p>" for name, text in (("A", pair.a), ("B", pair.b)))
    return f"<p><small>{progress}</small><br><b>Customer</b> {escaped(message_of(pair.prompt))}</p><div>{replies}</div>"


def result_html(shown, judged) -> str:
    """Return what stands after the last pair, with places for the numbers that LABEL counts."""
    once = [(pair.longer, label) for pair, label in zip(shown, judged, strict=True) if pair.first < 0 and label != "T"]
    place = '<b class="toylib-{}"></b>'.format
    return (
        f"<p><b>Your {len(shown)} labels.</b></p><ul>"
        f"<li>With yourself: {place('self')} pairs that came twice got the same label.</li>"
        f"<li>With the judge: {place('judge')} labels are the same, where neither of you sees a tie.</li>"
        f"<li>By length: you chose the longer reply in {place('longer')} pairs, the judge in "
        f"{sum(longer == label for longer, label in once)} of {len(once)}.</li></ul>"
        '<p class="toylib-kernel">To train on them in the notebook, copy this line into the next cell and run it:<br>'
        f'<code>LABELS = "<span class="toylib-text"></span>"</code></p>'
    )


# In the page: note the label, or take the last one back; show the next pair; count at the end, as `labs.labelling` does.
LABEL = """
const button = event.target.closest('button'), {judge, longer} = this.dataset, count = judge.length;
if (!button) return;
const given = this.dataset.labels, labels = button.value == 'undo' ? given.slice(0, -1) : (given + button.value).slice(0, count);
const at = labels.length, first = this.dataset.first.split(' '), other = {A: 'B', B: 'A', T: 'T'};
this.dataset.labels = labels;
[...this.querySelector('.toylib-stack').children].forEach((one, number) => one.style.visibility = number == at ? 'visible' : 'hidden');
for (const one of this.querySelectorAll('button')) one.disabled = one.value == 'undo' ? at == 0 : at == count;
if (button.disabled) this.querySelector('button:not([disabled])').focus();
if (at < count) return;
const set = (name, text) => this.querySelector('.toylib-' + name).textContent = text;
const share = (name, among, same) => {
    const all = [...labels].map((label, place) => place).filter(among);
    set(name, `${all.filter(same).length} of ${all.length}`);
};
const once = place => first[place] == -1 && labels[place] != 'T';
share('self', place => first[place] != -1, place => labels[place] == other[labels[first[place]]]);
share('judge', place => once(place) && judge[place] != 'T', place => labels[place] == judge[place]);
share('longer', once, place => labels[place] == longer[place]);
set('text', labels);
"""
STYLE = """<style>
.toylib-labels p { margin: 0 0 8px }
.toylib-labels .toylib-stack > div > div { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 260px), 1fr)); gap: 8px }
.toylib-labels .toylib-stack > div > div > p { border: 1px solid #888; border-radius: 6px; padding: 8px 12px }
.toylib-labels [role=group] { display: flex; flex-wrap: wrap; gap: 8px }
.toylib-labels button { font: inherit; color: inherit; background: #8882; border: 1px solid #888; border-radius: 6px; padding: 4px 16px; min-height: 36px; cursor: pointer }
.toylib-labels button:disabled { opacity: .5; cursor: default }
.toylib-labels code { user-select: all }
.live .toylib-kernel { display: none }
</style>"""
