// LatentExplorer: a plane to drag in, a path between latents, samples that follow sliders.

const GRID = 11; // pictures along each side of the plane's backdrop

/** One argument of `decode` for each of the widget's own sliders, the same for a whole batch. */
const extras = (frame, batch) =>
  frame.spec.sliders.map(({ name }) => ({
    data: new Float32Array(batch).fill(frame.values[name]),
    shape: [batch],
  }));

const addSliders = (frame) => {
  for (const { name, low, high, step, places } of frame.spec.sliders)
    frame.slider(name, { label: name, min: low, max: high, step, places });
};

const sayExtras = (frame) =>
  frame.spec.sliders.map(({ name, places }) => `, ${name} ${digits(frame.values[name], places)}`).join("");

const decode = (frame, z, batch) =>
  frame.ask("decode", [{ data: z, shape: [batch, frame.spec.latent] }, ...extras(frame, batch)]);

/** `origin + sum_k c_k direction_k`. */
function combine(frame, coordinates) {
  const { latent, names } = frame.spec;
  const base = floats(frame.model.get("latents"));
  const z = base.slice(0, latent);
  for (let k = 0; k < names.length; k++)
    for (let d = 0; d < latent; d++) z[d] += coordinates[k] * base[(k + 1) * latent + d];
  return z;
}

function plane(frame) {
  const { names, reach, image, latent, step } = frame.spec;
  const [, height, width] = image;
  const [across, up] = names;
  const backdrop = picture(GRID * width, GRID * height);
  backdrop.setAttribute("aria-hidden", "true");
  const marker = h("div", { class: "gdm-marker" });
  const pad = h(
    "div",
    {
      class: "gdm-pad",
      "data-gdm-pad": true,
      tabindex: "0",
      role: "group",
      "aria-roledescription": "plane",
      "aria-label": `Plane, ${across} across and ${up} up: drag, or use the arrow keys`,
    },
    backdrop,
    marker,
  );
  const canvas = picture(width, height);
  frame.stage.append(pad, canvas);
  for (const name of names)
    frame.slider(name, { label: name, min: -reach, max: reach, step, places: 2 });
  addSliders(frame);

  const place = () => {
    marker.style.left = `${50 + (50 * frame.values[across]) / reach}%`;
    marker.style.top = `${50 - (50 * frame.values[up]) / reach}%`;
  };
  const move = (x, y) => {
    for (const [name, value] of [[across, x], [up, y]]) {
      const held = Math.min(reach, Math.max(-reach, value));
      frame.controls[name](held);
      frame.values[name] = held;
    }
    frame.set(across, frame.values[across]);
  };
  const drag = (event) => {
    const box = pad.getBoundingClientRect();
    move(
      (2 * (event.clientX - box.left) / box.width - 1) * reach,
      (1 - 2 * (event.clientY - box.top) / box.height) * reach,
    );
  };
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    drag(event);
  });
  pad.addEventListener("pointermove", (event) => {
    if (pad.hasPointerCapture(event.pointerId)) drag(event);
  });
  pad.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };
    if (event.key === "Home") move(0, 0);
    else if (way[event.key]) {
      const by = (event.shiftKey ? 10 : 2) * step;
      const [dx, dy] = way[event.key];
      move(frame.values[across] + dx * by, frame.values[up] + dy * by);
    } else return;
    event.preventDefault();
  });

  let surroundings = ""; // what the backdrop was painted for
  const draw = frame.steady(async () => {
    const answer = await decode(frame, combine(frame, names.map((n) => frame.values[n])), 1);
    paint(canvas, answer.data, answer.shape);
    const where = names.map((name) => `${name} ${digits(frame.values[name])}`).join(", ");
    frame.say(`The picture at ${where}${sayExtras(frame)}.`);
    frame.painted(answer);
  });
  const drawBackdrop = frame.steady(async () => {
    const rest = [...names.slice(2), ...frame.spec.sliders.map(({ name }) => name)];
    const now = JSON.stringify(rest.map((name) => frame.values[name]));
    if (now === surroundings) return;
    for (let row = 0; row < GRID; row++) {
      const z = new Float32Array(GRID * latent);
      for (let column = 0; column < GRID; column++) {
        const at = (i) => ((2 * i + 1) / GRID - 1) * reach;
        const rest = names.slice(2).map((name) => frame.values[name]);
        z.set(combine(frame, [at(column), -at(row), ...rest]), column * latent);
      }
      const { data, shape } = await decode(frame, z, GRID);
      for (let i = 0; i < GRID; i++) paint(backdrop, data, shape, i, i * width, row * height);
    }
    surroundings = now;
  });
  frame.changed = async () => {
    place();
    await draw();
    if (!frame.failed) await drawBackdrop(); // what answers no point answers no background
  };
  place();
}

function path(frame) {
  const { image, latent, names, strip } = frame.spec;
  const [, height, width] = image;
  const gap = Math.max(1, Math.round(width / 14));
  const top = picture(3 * width + 2 * gap, height);
  const film = picture(strip * width + (strip - 1) * gap, height);
  film.setAttribute("aria-hidden", "true");
  frame.stage.append(top, film);
  frame.menu("from", { label: "from", options: names });
  const to = frame.menu("to", { label: "to", options: names });
  frame.choice("along", { label: "along", options: ["straight line", "great circle"] });
  frame.slider("t", { label: "t", min: 0, max: 1, step: 0.01 });
  addSliders(frame);

  const given = floats(frame.model.get("latents"));
  const drawn = new Map(); // ends that the reader drew
  const end = (index) =>
    drawn.get(index) || given.slice(index * latent, (index + 1) * latent);
  let draws = 0;
  frame.buttons([
    [
      "Draw a new end from N(0, I)",
      () => {
        const index = names.length + draws++;
        drawn.set(index, normals(index, latent));
        to.append(h("option", { value: index }, `draw ${draws}`));
        frame.controls.to(index);
        frame.set("to", index);
      },
    ],
  ]);

  let filmed = "";
  const draw = frame.steady(async () => {
    const { from, to, along, t } = frame.values;
    const way = along ? slerp : lerp;
    const points = [t, ...Array.from({ length: strip }, (_, i) => i / (strip - 1))];
    const now = JSON.stringify([from, to, along, frame.spec.sliders.map(({ name }) => frame.values[name])]);
    const batch = now === filmed ? 1 : points.length;
    const z = new Float32Array(batch * latent);
    for (let i = 0; i < batch; i++) z.set(way(end(from), end(to), points[i]), i * latent);
    const answer = await decode(frame, z, batch);
    const { data, shape } = answer;
    paint(top, data, shape, 0, width + gap);
    if (batch > 1) {
      paint(top, data, shape, 1);
      paint(top, data, shape, strip, 2 * (width + gap));
      for (let i = 0; i < strip; i++) paint(film, data, shape, i + 1, i * (width + gap));
      filmed = now;
    }
    const name = (index) => names[index] || `draw ${index - names.length + 1}`;
    frame.say(
      `From ${name(from)} to ${name(to)}: the start, ${Math.round(100 * t)} % of the way along the ` +
        `${along ? "great circle" : "straight line"}, the end${sayExtras(frame)}; below, the whole way.`,
    );
    frame.painted(answer);
  });
  frame.changed = draw;
}

/** The point at `t` of the straight line from `a` to `b`. */
const lerp = (a, b, t) => a.map((value, i) => (1 - t) * value + t * b[i]);

/** The point at `t` of the great circle; the line where there is no circle (White 2016). */
function slerp(a, b, t) {
  const dot = (u, v) => u.reduce((sum, value, i) => sum + value * v[i], 0);
  const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  if (!(Math.abs(cosine) < 1 - 1e-6)) return lerp(a, b, t);
  const angle = Math.acos(cosine);
  const [u, v] = [Math.sin((1 - t) * angle) / Math.sin(angle), Math.sin(t * angle) / Math.sin(angle)];
  return a.map((value, i) => u * value + v * b[i]);
}

function samples(frame) {
  const { image, latent, columns, count, spread } = frame.spec;
  const [, height, width] = image;
  const canvas = picture(columns * width, Math.ceil(count / columns) * height);
  frame.stage.append(canvas);
  if (spread) frame.slider("spread", { label: "spread", min: spread[0], max: spread[1], step: 0.01 });
  addSliders(frame);
  let z = floats(frame.model.get("latents"));
  let draws = 0;
  frame.buttons([
    [
      "New draws",
      () => {
        z = normals(++draws, count * latent);
        frame.changed();
      },
    ],
  ]);
  const draw = frame.steady(async () => {
    const factor = spread ? frame.values.spread : 1;
    const answer = await decode(frame, z.map((value) => factor * value), count);
    const { data, shape } = answer;
    for (let i = 0; i < count; i++)
      paint(canvas, data, shape, i, (i % columns) * width, Math.floor(i / columns) * height);
    const scaled = spread ? `, spread ${digits(factor)}` : "";
    frame.say(`${count} sample${count === 1 ? "" : "s"}${draws ? ` (draw ${draws})` : ""}${scaled}${sayExtras(frame)}.`);
    frame.painted(answer);
  });
  frame.changed = draw;
}

export default {
  render({ model, el }) {
    const { mode } = model.get("spec");
    const frame = new Frame(model, el, mode);
    ({ plane, path, samples })[mode](frame);
    frame.showStill();
    frame.changed();
    return () => frame.close();
  },
};
