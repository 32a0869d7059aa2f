// StepThrough: pictures or points that change step by step.

const GLIDE_MS = 700; // from one step to the next, points glide
const REST_MS = 300; // and rest there
const PACES_MS = [60, 800]; // a picture stays this long at least and at most
const WHOLE_MS = 12000; // and all of them about this long

/** Pictures: each step is there or not. */
function images(frame, model) {
  const { layout, width, says } = frame.spec;
  const canvas = picture(layout.width, layout.height);
  canvas.classList.toggle("gdm-pixels", layout.width < width);
  frame.stage.append(canvas);
  let sheet;
  return async (track, at) => {
    sheet ??= await unpack(model.get("sheet"), layout);
    sheet.show(canvas, track * says[0].length + at);
    return true;
  };
}

/** Points, at a step or between two. */
function particles(frame, model, redraw) {
  const { shape, extent, margin, radius, ticks, labels, hues, colours } = frame.spec;
  const [, steps, count] = shape;
  const [left, right, bottom, top] = extent;
  const places = new Int16Array(octets(model.get("places")).slice().buffer);
  const paints = octets(model.get("paint"));
  const axes = h("canvas");
  let box; // of the axes, in CSS pixels
  let scale;
  let dots;

  const canvas = fineCanvas(frame, frame.stage, (width, height, ratio) => {
    scale = ratio;
    box = { x: margin.left, y: margin.top };
    box.width = width - margin.left - margin.right;
    box.height = height - margin.top - margin.bottom;

    [axes.width, axes.height] = [canvas.width, canvas.height];
    const c = axes.getContext("2d");
    c.scale(ratio, ratio);
    c.fillStyle = colours.paper;
    c.fillRect(0, 0, width, height);
    c.strokeStyle = "#c9c6bc";
    c.strokeRect(box.x, box.y, box.width, box.height);
    c.fillStyle = colours.ink;
    c.font = "12px sans-serif";
    const write = (text, x, y, align, baseline) => {
      [c.textAlign, c.textBaseline] = [align, baseline];
      c.fillText(text, x, y);
    };
    const [end, foot] = [box.x + box.width, box.y + box.height];
    for (const [at, text] of ticks[0])
      write(text, box.x + ((at - left) / (right - left)) * box.width, foot + 7, "center", "top");
    for (const [at, text] of ticks[1])
      write(text, box.x - 7, foot - ((at - bottom) / (top - bottom)) * box.height, "right", "middle");
    write(labels[0], end - 6, foot - 5, "right", "bottom");
    write(labels[1], box.x + 6, box.y + 6, "left", "top");

    // A dot of each colour is drawn once: thousands of copies are quicker than of circles.
    const side = 2 * Math.ceil(radius * ratio + 1);
    dots = hues.map((hue) => {
      const dot = h("canvas", { width: side, height: side });
      const d = dot.getContext("2d");
      d.globalAlpha = 0.8;
      d.fillStyle = hue;
      d.arc(side / 2, side / 2, radius * ratio, 0, 2 * Math.PI);
      d.fill();
      return dot;
    });
    redraw();
  });

  return (track, at) => {
    if (!dots) return false;
    const c = canvas.getContext("2d");
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.drawImage(axes, 0, 0);
    c.save();
    c.beginPath();
    c.rect(box.x * scale, box.y * scale, box.width * scale, box.height * scale);
    c.clip();
    const from = Math.min(Math.floor(at), steps - 2);
    const t = at - from;
    const [across, up] = [(box.width * scale) / 32767, (box.height * scale) / 32767];
    const x = (box.x + box.width / 2) * scale - dots[0].width / 2;
    const y = (box.y + box.height / 2) * scale - dots[0].width / 2;
    let k = (track * steps + from) * count * 2;
    for (let i = 0; i < count; i++, k += 2) {
      const u = (1 - t) * places[k] + t * places[k + 2 * count];
      const v = (1 - t) * places[k + 1] + t * places[k + 1 + 2 * count];
      c.drawImage(dots[paints[i]], x + across * u, y - up * v);
    }
    c.restore();
    return true;
  };
}

export default {
  render({ model, el }) {
    const frame = new Frame(model, el, "steps");
    const { mode, tracks, says } = frame.spec;
    const count = says[0].length;
    const glides = mode === "points" && !matchMedia("(prefers-reduced-motion: reduce)").matches;
    const pace = Math.min(PACES_MS[1], Math.max(PACES_MS[0], WHOLE_MS / count));
    const dwell = mode === "points" ? GLIDE_MS + REST_MS : pace;

    let at = frame.values.step; // what is shown; between two steps while points glide
    let request = 0; // of an animation frame
    let timer = 0; // of the next step, while it plays
    let own = false; // whether it is the player that moves the slider

    if (tracks.length > 1) frame.choice("track", { label: "direction", options: tracks });
    const items = says[0].map((_, i) => i);
    const texts = items.map((i) => `${i} of ${count - 1}`);
    const range = frame.steps("step", { label: "step", items, texts });

    const go = (step) => {
      own = true;
      frame.controls.step(step);
      frame.set("step", step);
      own = false;
    };
    /** To the step after or before; from the end to the other end, at once. */
    const walk = (by) => {
      const step = (frame.values.step + by + count) % count;
      if (Math.abs(step - frame.values.step) > 1) at = step;
      go(step);
    };
    const pause = () => {
      clearTimeout(timer);
      timer = 0;
      play.textContent = "Play";
      frame.status.setAttribute("aria-live", "polite");
    };
    const advance = () => {
      walk(1);
      if (frame.values.step === count - 1) pause();
      else timer = setTimeout(advance, dwell);
    };
    const [, play] = frame.buttons([
      ["Back", () => (pause(), walk(-1))],
      ["Play", () => (timer ? pause() : begin())],
      ["Next", () => (pause(), walk(1))],
    ]);
    const begin = () => {
      play.textContent = "Pause";
      frame.status.setAttribute("aria-live", "off"); // a screen reader could not keep up
      advance();
    };

    const draw = frame.steady(async () => {
      if (await put(frame.values.track || 0, at)) frame.painted();
    });
    const put = mode === "points" ? particles(frame, model, draw) : images(frame, model);
    let before = 0;
    const glide = (now) => {
      const way = frame.values.step - at;
      // A long way takes no longer than four steps do.
      const by = ((now - before) / GLIDE_MS) * Math.max(1, Math.abs(way) / 4);
      at = Math.abs(way) <= by ? frame.values.step : at + Math.sign(way) * by;
      before = now;
      request = at === frame.values.step ? 0 : requestAnimationFrame(glide);
      draw();
    };
    frame.changed = (key) => {
      if (!own) pause();
      const { step } = frame.values;
      const text = says[frame.values.track || 0][step];
      range.setAttribute("aria-valuetext", text);
      frame.say(text);
      if (!glides || key !== "step") at = step;
      if (at === step) draw();
      else if (!request) {
        before = performance.now();
        request = requestAnimationFrame(glide);
      }
    };
    frame.undo.push(() => {
      clearTimeout(timer);
      cancelAnimationFrame(request);
    });
    frame.showStill();
    frame.changed();
    return () => frame.close();
  },
};
