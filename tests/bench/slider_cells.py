"""Who stands against whom: the same figure behind a slider, made to follow it in different ways, each as a notebook cell."""

SETUP = """
%matplotlib inline
import io, json
import ipywidgets
from IPython.display import HTML, display
from PIL import Image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from toylib.plots import pair as plots_pair
from toylib.widgets.beta_explorer import beta_explorer

SLIDER = {"base": 10, "min": -2, "max": 1, "step": 0.05, "value": 0.1, "description": "β",
          "layout": {"width": "100%", "max_width": "860px"}}

def draw_anew(beta):
    figure, panels = plots_pair.beta_panels(2.2)
    for panel in panels:
        plots_pair.move_to_beta(panel, beta)
    display(figure)

def from_the_kernel(encode):
    '''A figure that stays, drawn on its saved background and sent as one Image at each move.'''
    figure, panels = plots_pair.beta_panels(2.2)
    artists = [artist for panel in panels for artist in panel["artists"]]
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for artist in artists:
        artist.set_animated(True)
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    slider, image = ipywidgets.FloatLogSlider(**SLIDER), ipywidgets.Image()

    def redraw(change=None):
        for panel in panels:
            plots_pair.move_to_beta(panel, slider.value)
        canvas.restore_region(background)
        for artist in artists:
            artist.draw(canvas.renderer)
        pixels = Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert("RGB")
        image.value = encoded(pixels, encode)

    redraw()
    slider.observe(redraw, names="value")
    display(ipywidgets.VBox([slider, image]))

PALETTE = []

def encoded(pixels, how):
    file = io.BytesIO()
    if how == "palette":
        PALETTE[:] = PALETTE or [pixels.quantize(128)]
        pixels.quantize(palette=PALETTE[0], dither=0).save(file, "PNG", compress_level=1)
    elif how == "jpeg":
        pixels.save(file, "JPEG", quality=85)
    else:
        pixels.save(file, "PNG", compress_level=1)
    return file.getvalue()
"""

INTERACT = "ipywidgets.interact(draw_anew, beta=ipywidgets.FloatLogSlider(**SLIDER));"

OUTPUT = """
slider, output = ipywidgets.FloatLogSlider(**SLIDER), ipywidgets.Output()

def redraw(change=None):
    with output:
        output.clear_output(wait=True)
        draw_anew(slider.value)

redraw()
slider.observe(redraw, names="value")
display(ipywidgets.VBox([slider, output]))
"""

AHEAD_IN_THE_KERNEL = """
figure, panels = plots_pair.beta_panels(2.2)
canvas, ready = FigureCanvasAgg(figure), []
for position in range(61):
    for panel in panels:
        plots_pair.move_to_beta(panel, 10 ** (position / 20 - 2))
    canvas.draw()
    figure.set_layout_engine("none")
    ready.append(encoded(Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert("RGB"),
                         "palette"))
slider_ahead = ipywidgets.IntSlider(20, 0, 60, description="β", layout=SLIDER["layout"])
image_ahead = ipywidgets.Image(value=ready[20])
slider_ahead.observe(lambda change: setattr(image_ahead, "value", ready[change["new"]]), names="value")
display(ipywidgets.VBox([slider_ahead, image_ahead]))
"""

OURS = "beta_explorer()"

# The least that can be done: no kernel, no widget, a few lines of JavaScript that redraw two curves in an SVG.
IN_THE_PAGE = """
figure, panels = plots_pair.beta_panels(2.2)
figure.set_dpi(72)
for panel in panels:
    for artist in panel["artists"]:
        artist.set_visible(False)
svg = io.StringIO()
figure.savefig(svg, format="svg")
ends = [panel["artists"][0].axes.transData.transform([(0, 0), (1, 1)]).tolist() for panel in panels]
display(HTML('<div class="reference"><input type="range" min="-2" max="1" step="0.05" value="-1" style="width: 840px">'
    '<div></div>' + svg.getvalue()[svg.getvalue().index("<svg"):] + '''</div><script>(() => {
const root = [...document.querySelectorAll('.reference')].pop(), svg = root.querySelector('svg');
const [input, numbers] = root.children, ends = ''' + json.dumps(ends) + ''', high = svg.viewBox.baseVal.height;
svg.style.width = '860px'; svg.style.height = 'auto';
const add = (name, look) => {
    const made = svg.appendChild(document.createElementNS('http://www.w3.org/2000/svg', name));
    for (const key in look) made.setAttribute(key, look[key]);
    return made;
};
const parts = ends.map(() => [add('path', {fill: 'none', stroke: '#333', 'stroke-width': 1.5, class: 'live'}),
    add('circle', {r: 4, fill: '#D55E00'})]);
const draw = () => {
    const beta = 10 ** input.value, heights = [d => 1 / (1 + Math.exp(-beta * d)), d => Math.log1p(Math.exp(-beta * d))];
    ends.forEach(([[x0, y0], [x1, y1]], at) => {
        const place = d => [x0 + (x1 - x0) * d, high - y0 - (y1 - y0) * Math.min(2.1, heights[at](d))];
        let path = 'M';
        for (let step = 0; step <= 400; step++) path += place(-6 + step * 0.03).join(',') + ' ';
        parts[at][0].setAttribute('d', path);
        const [x, y] = place(2.2);
        parts[at][1].setAttribute('cx', x); parts[at][1].setAttribute('cy', y);
    });
    numbers.textContent = `β = ${beta.toPrecision(2)}  ${heights[0](2.2).toFixed(4)}  ${heights[1](2.2).toFixed(4)}`;
};
input.addEventListener('input', draw); draw();
})()</script>'''))
"""

CELLS = {
    "interact": INTERACT,
    "Output, clear_output": OUTPUT,
    "toylib": OURS,
    "SVG in the page": IN_THE_PAGE,
}
VARIANTS = {  # what else was tried; with --variants
    "kernel, PNG level 1": "from_the_kernel('png')",
    "kernel, JPEG": "from_the_kernel('jpeg')",
    "kernel, palette PNG": "from_the_kernel('palette')",
    "kernel, drawn ahead": AHEAD_IN_THE_KERNEL,
}

# In the page: when the pointer moved, and when, after that, a frame with a new picture was painted.
PROBE = """() => {
    const probe = window.probe = {moved: [], painted: [], waiting: false};
    const changed = () => {
        if (probe.waiting) return;
        probe.waiting = true;
        requestAnimationFrame(() => {  // then a message: it is handled once the frame is laid out and painted
            const channel = new MessageChannel();
            channel.port1.onmessage = () => { probe.waiting = false; probe.painted.push(performance.now()); };
            channel.port2.postMessage(0);
        });
    };
    document.addEventListener('pointermove', () => probe.moved.push(performance.now()), true);
    document.addEventListener('load', event => { if (event.target.tagName === 'IMG') changed(); }, true);
    const mine = node => node.matches('path.live') || node.closest('.toylib-picture, .widget-tab-contents');
    new MutationObserver(list => { if (list.some(one => mine(one.target))) changed(); })
        .observe(document.body, {subtree: true, attributes: true, attributeFilter: ['d', 'class', 'style']});
}"""
