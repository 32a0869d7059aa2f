// PixelProbe: point at an output pixel, and what it depends on lights up in the input.

/** Where a picture of so many pixels lies under the label; its pixels are whole ones of the screen
 * where there is room for that. */
function within(width, height, ratio, label, tall, wide) {
  const free = Math.min(width / wide, (height - label) / tall) * ratio;
  const cell = (free >= 1 ? Math.floor(free) : free) / ratio;
  const left = Math.round(((width - cell * wide) / 2) * ratio) / ratio;
  const top = Math.round((label + (height - label - cell * tall) / 2) * ratio) / ratio;
  return { left, top, cell, width: cell * wide, height: cell * tall };
}

/** Makes the input light grey, so that what is lit stands out. */
function greyed(canvas) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < image.data.length; i += 4) {
    const [r, g, b] = image.data.subarray(i, i + 3);
    image.data.fill(160 + 0.35 * (0.299 * r + 0.587 * g + 0.114 * b), i, i + 3);
  }
  context.putImageData(image, 0, 0);
}

/** The sheets, and copies of the two images at the size of their pixels. */
async function loaded({ model, spec }) {
  const [maps, ...sheets] = await Promise.all([
    unpack(model.get("sheet"), spec.maps),
    unpack(model.get("output"), spec.output),
    unpack(model.get("input"), spec.input),
  ]);
  const [output, input] = sheets.map((sheet) => {
    const canvas = h("canvas", { width: sheet.width, height: sheet.height });
    sheet.show(canvas, 0);
    return canvas;
  });
  greyed(input);
  return { maps, output, input };
}

/** A panel: its canvas, and a way to begin a picture on it, of an image under its name. */
function panel(frame, place, name, redraw) {
  const { spec } = frame;
  let size;
  const canvas = fineCanvas(frame, place, (...now) => {
    size = now;
    redraw();
  });
  const begin = (image) => {
    const [width, height, ratio] = size;
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.fillStyle = spec.colours.ink;
    context.font = "13px sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(name, width / 2, spec.label / 2);
    const at = within(width, height, ratio, spec.label, image.height, image.width);
    context.imageSmoothingEnabled = false;
    context.drawImage(image, at.left, at.top, at.width, at.height);
    return { context, at };
  };
  return { canvas, begin, ready: () => Boolean(size) };
}

/** A line around a pixel, pale beneath, so that it shows on any picture. */
function outline({ context, at }, [row, column], colour, paper) {
  const corner = [at.left + column * at.cell, at.top + row * at.cell, at.cell, at.cell];
  for (const [style, width] of [[paper, 4], [colour, 2]]) {
    context.strokeStyle = style;
    context.lineWidth = width;
    context.strokeRect(...corner);
  }
}

/** The weights in colour, and a line around all that are not zero. */
function light({ context, at }, levels, { height, width }, colour, [faint, strong]) {
  const x = (j) => at.left + (j * at.width) / width;
  const y = (i) => at.top + (i * at.height) / height;
  const lit = (i, j) => i >= 0 && j >= 0 && i < height && j < width && levels[i * width + j] > 0;
  context.fillStyle = colour;
  context.strokeStyle = colour;
  context.lineWidth = 1.5;
  context.beginPath();
  for (let i = 0; i <= height; i++)
    for (let j = 0; j <= width; j++) {
      if (lit(i, j)) {
        context.globalAlpha = faint + ((strong - faint) * levels[i * width + j]) / 255;
        context.fillRect(x(j), y(i), x(j + 1) - x(j), y(i + 1) - y(i));
      }
      for (const [di, dj] of [[0, 1], [1, 0]]) {
        if (lit(i, j) === lit(i - di, j - dj)) continue;
        context.moveTo(x(j), y(i));
        context.lineTo(x(j + di), y(i + dj));
      }
    }
  context.globalAlpha = 1;
  context.stroke();
}

function probe(frame) {
  const { size, stride, layers, names, marked, maps, colours, opacity, input } = frame.spec;
  const unit =
    maps.height === input.height && maps.width === input.width
      ? "input pixels"
      : "cells of the input";
  const ends = size.map((n) => Math.floor((n - 1) / stride) * stride);
  const columns = ends[1] / stride + 1;
  const rows = ends[0] / stride + 1;
  const pad = h("div", {
    class: "gdm-pad",
    "data-gdm-pad": true,
    tabindex: "0",
    role: "group",
    "aria-roledescription": "picture to point at",
    "aria-label": `The ${names[0]}: point at a pixel, tap it, or use the arrow keys`,
  });
  const beside = h("div", { class: "gdm-pad" });
  frame.stage.append(pad, beside);

  let box; // of the output, to tell at which pixel the reader points
  let data;
  const draw = frame.steady(async () => {
    if (!(left.ready() && right.ready())) return;
    data ??= await loaded(frame);
    const { row, column, layer } = frame.values;
    const levels = data.maps.levels((layer * rows + row / stride) * columns + column / stride);
    const shown = left.begin(data.output);
    box = shown.at;
    outline(shown, [row, column], colours.bound, colours.paper);
    const under = right.begin(data.input);
    light(under, levels, maps, colours.bound, opacity);
    if (marked) outline(under, [row, column], colours.ink, colours.paper);
    frame.say(says(levels));
    frame.painted();
  });
  const left = panel(frame, pad, names[0], draw);
  left.canvas.setAttribute("aria-hidden", "true");
  const right = panel(frame, beside, names[1], draw);
  frame.changed = draw;

  const says = (levels) => {
    const { row, column, layer } = frame.values;
    const lit = levels.filter((level) => level > 0);
    const name = layers.length > 1 ? `${layers[layer]}: ` : "";
    let text =
      `${name}output pixel (row ${row}, column ${column}) depends on ` +
      `${lit.length} of ${levels.length} ${unit}`;
    const best = levels.indexOf(Math.max(...levels));
    if (lit.length && levels[best] > Math.min(...lit))
      text += `, most on (row ${Math.floor(best / maps.width)}, column ${best % maps.width})`;
    return `${text[0].toUpperCase()}${text.slice(1)}.`;
  };

  for (const [k, key] of ["row", "column"].entries()) {
    const items = Array.from({ length: ends[k] / stride + 1 }, (_, i) => i * stride);
    frame.steps(key, { label: key, items, texts: items.map(String) });
  }
  if (layers.length > 1) frame.choice("layer", { label: "layer", options: layers });

  const move = (row, column) => {
    const to = [row, column].map((index, k) => Math.min(ends[k], Math.max(0, index)));
    if (to[0] === frame.values.row && to[1] === frame.values.column) return;
    for (const [k, key] of ["row", "column"].entries()) {
      frame.controls[key](to[k]);
      frame.values[key] = to[k];
    }
    frame.set("row", to[0]);
  };
  const point = (event) => {
    if (!box) return;
    const edge = left.canvas.getBoundingClientRect();
    const down = event.clientY - edge.top - box.top;
    const across = event.clientX - edge.left - box.left;
    if (down < 0 || across < 0 || down >= box.height || across >= box.width) return;
    move(...[down, across].map((d) => Math.floor(d / box.cell / stride) * stride));
  };
  let rest = "";
  pad.addEventListener("pointerdown", point);
  pad.addEventListener("pointermove", (event) => {
    // A browser reports a move too when the page scrolls beneath a resting mouse.
    const here = `${event.screenX},${event.screenY}`;
    if (here !== rest && event.pointerType !== "touch") point(event);
    rest = here;
  });
  pad.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const [down, across] = way[event.key] || [];
    if (down === undefined) return;
    move(frame.values.row + down * stride, frame.values.column + across * stride);
    event.preventDefault();
  });
}

export default {
  render({ model, el }) {
    const frame = new Frame(model, el, "pixel_probe");
    probe(frame);
    frame.showStill();
    return () => frame.close();
  },
};
