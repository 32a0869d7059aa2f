// PixelProbe: point at an output pixel, and what it depends on lights up in the input.

/** Makes the canvas as fine as the screen; what is drawn is in CSS pixels. */
function sharpen(canvas) {
  const scale = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  return { context, width, height };
}

/** Where a picture of so many pixels lies under the label; its pixels are whole ones of the screen
 * where there is room for that. */
function place(width, height, label, tall, wide) {
  const screen = window.devicePixelRatio || 1;
  const free = Math.min(width / wide, (height - label) / tall) * screen;
  const cell = (free >= 1 ? Math.floor(free) : free) / screen;
  const left = Math.round(((width - cell * wide) / 2) * screen) / screen;
  const top = Math.round((label + (height - label - cell * tall) / 2) * screen) / screen;
  return { left, top, cell, width: cell * wide, height: cell * tall };
}

/** The input in light greys, so that what is lit stands out. */
function greyed(canvas) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < image.data.length; i += 4) {
    const [r, g, b] = image.data.subarray(i, i + 3);
    image.data.fill(96 + 0.55 * (0.299 * r + 0.587 * g + 0.114 * b), i, i + 3);
  }
  context.putImageData(image, 0, 0);
}

function probe(frame) {
  const { model, spec } = frame;
  const { size, stride, layers, names, marked } = spec;
  const counts = size.map((n) => Math.ceil(n / stride));
  const ends = counts.map((n) => (n - 1) * stride);
  const output = h("canvas", { "aria-hidden": "true" });
  const input = h("canvas", { role: "img" });
  const pad = h(
    "div",
    {
      class: "gdm-pad",
      "data-gdm-pad": true,
      tabindex: "0",
      role: "group",
      "aria-roledescription": "picture to point at",
      "aria-label": `The ${names[0]}: point at a pixel, tap it, or use the arrow keys`,
    },
    output,
  );
  frame.stage.append(pad, h("div", { class: "gdm-pad" }, input));
  frame.slider("row", { label: "row", min: 0, max: ends[0], step: stride, places: 0 });
  frame.slider("column", { label: "column", min: 0, max: ends[1], step: stride, places: 0 });
  if (layers.length > 1) frame.choice("layer", { label: "layer", options: layers });

  const sheets = {};
  const copies = {}; // of the two images, at the size of their pixels
  const load = async () => {
    [sheets.maps, sheets.output, sheets.input] = await Promise.all([
      unpack(model.get("sheet"), spec.maps),
      unpack(model.get("output"), spec.output),
      unpack(model.get("input"), spec.input),
    ]);
    for (const name of ["output", "input"]) {
      copies[name] = h("canvas", { width: spec[name].width, height: spec[name].height });
      sheets[name].show(copies[name], 0);
    }
    greyed(copies.input);
  };

  /** The pixel that has a map: the last one at or before a number that a reader typed. */
  const chosen = () =>
    ["row", "column"].map((name, k) => Math.floor(Math.min(ends[k], frame.values[name]) / stride) * stride);

  const backdrop = (canvas, name) => {
    const { context, width, height } = sharpen(canvas);
    const { ink } = spec.colours;
    context.fillStyle = ink;
    context.font = "13px sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(names[name === "input" ? 1 : 0], width / 2, spec.label / 2);
    const at = place(width, height, spec.label, copies[name].height, copies[name].width);
    context.imageSmoothingEnabled = false;
    context.drawImage(copies[name], at.left, at.top, at.width, at.height);
    return { context, at };
  };

  const outline = ({ context, at }, [row, column], colour) => {
    const corner = [at.left + column * at.cell, at.top + row * at.cell, at.cell, at.cell];
    context.lineWidth = 4; // pale beneath, so that it shows on any picture
    context.strokeStyle = spec.colours.paper;
    context.strokeRect(...corner);
    context.lineWidth = 2;
    context.strokeStyle = colour;
    context.strokeRect(...corner);
  };

  /** The weights in colour, and a line around all that are not zero. */
  const light = ({ context, at }, levels) => {
    const { height, width } = spec.maps;
    const x = (j) => at.left + (j * at.width) / width;
    const y = (i) => at.top + (i * at.height) / height;
    const lit = (i, j) => i >= 0 && j >= 0 && i < height && j < width && levels[i * width + j] > 0;
    context.fillStyle = spec.colours.bound;
    context.strokeStyle = spec.colours.bound;
    context.lineWidth = 1.5;
    context.beginPath();
    for (let i = 0; i < height; i++)
      for (let j = 0; j < width; j++) {
        if (!lit(i, j)) continue;
        context.globalAlpha = spec.faint + ((1 - spec.faint) * levels[i * width + j]) / 255;
        context.fillRect(x(j), y(i), x(j + 1) - x(j), y(i + 1) - y(i));
        for (const [di, dj, from, to] of [
          [-1, 0, [x(j), y(i)], [x(j + 1), y(i)]],
          [1, 0, [x(j), y(i + 1)], [x(j + 1), y(i + 1)]],
          [0, -1, [x(j), y(i)], [x(j), y(i + 1)]],
          [0, 1, [x(j + 1), y(i)], [x(j + 1), y(i + 1)]],
        ]) {
          if (lit(i + di, j + dj)) continue;
          context.moveTo(...from);
          context.lineTo(...to);
        }
      }
    context.globalAlpha = 1;
    context.stroke();
  };

  const describe = (levels, [row, column]) => {
    const lit = levels.filter((level) => level > 0);
    const name = layers.length > 1 ? `${layers[frame.values.layer]}: ` : "";
    let text =
      `${name}${names[0]} pixel (row ${row}, column ${column}) depends on ` +
      `${lit.length} of ${levels.length} ${names[1]} pixels`;
    const best = levels.indexOf(Math.max(...levels));
    if (lit.length && levels[best] > Math.min(...lit))
      text += `, most on (row ${Math.floor(best / spec.maps.width)}, column ${best % spec.maps.width})`;
    return `${text[0].toUpperCase()}${text.slice(1)}.`;
  };

  let box; // of the output, to tell at which pixel the reader points
  const draw = frame.steady(async () => {
    if (!copies.input) await load();
    const pixel = chosen();
    const [row, column] = pixel.map((index) => index / stride);
    const levels = sheets.maps.levels((frame.values.layer * counts[0] + row) * counts[1] + column);
    const left = backdrop(output, "output");
    outline(left, pixel, spec.colours.bound);
    box = left.at;
    const right = backdrop(input, "input");
    light(right, levels);
    if (marked) outline(right, pixel, spec.colours.ink);
    frame.say(describe(levels, pixel));
    frame.painted();
  });
  frame.changed = draw;

  const move = (...to) => {
    to.forEach((index, k) => {
      const held = Math.min(ends[k], Math.max(0, index));
      const name = ["row", "column"][k];
      frame.controls[name](held);
      frame.values[name] = held;
    });
    frame.set("row", frame.values.row);
  };
  const point = (event) => {
    if (!box) return;
    const edge = output.getBoundingClientRect();
    const at = [event.clientY - edge.top - box.top, event.clientX - edge.left - box.left];
    const to = at.map((d, k) => Math.floor(d / box.cell / stride) * stride);
    if (at[0] < 0 || at[1] < 0 || at[0] >= box.height || at[1] >= box.width) return;
    const now = chosen();
    if (to[0] !== now[0] || to[1] !== now[1]) move(...to);
  };
  let still = "";
  pad.addEventListener("pointerdown", point);
  pad.addEventListener("pointermove", (event) => {
    // A browser reports a move too when the page scrolls beneath a resting mouse.
    const here = `${event.screenX},${event.screenY}`;
    if (here !== still && event.pointerType !== "touch") point(event);
    still = here;
  });
  pad.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (!way[event.key]) return;
    const now = chosen();
    move(...way[event.key].map((by, k) => now[k] + by * stride));
    event.preventDefault();
  });
  const watcher = new ResizeObserver(() => copies.input && draw());
  watcher.observe(frame.stage);
  frame.undo.push(() => watcher.disconnect());
}

export default {
  render({ model, el }) {
    const frame = new Frame(model, el, "pixel_probe");
    probe(frame);
    frame.showStill();
    frame.changed();
    return () => frame.close();
  },
};
