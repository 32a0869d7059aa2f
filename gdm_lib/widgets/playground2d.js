// Playground2D: training in the plane, recorded or live.

const PICTURE_MS = 90; // from one recorded picture to the next
const FULL = 32767; // of a 16-bit place, 1.05 times the extent

/** The recorded pictures: `{step, loss, levels, rest}` each. */
async function recording(frame, model) {
  const { layout, steps, losses, counts } = frame.spec;
  const sheet = await unpack(model.get("sheet"), layout);
  const track = new Int16Array(octets(model.get("track")).slice().buffer);
  const length = 2 * (counts[0] + counts[1]);
  return steps.map((step, i) => ({
    step,
    loss: losses[i],
    levels: sheet.levels(i),
    rest: track.subarray(i * length, (i + 1) * length),
  }));
}

/** A place on the stage for a canvas as fine as the screen. */
const cell = (frame) => {
  const place = h("div", { class: "gdm-cell" });
  frame.stage.append(place);
  return place;
};

/** The plane, as large as its place: density, samples or field over the data. */
function plane(frame, model, redraw) {
  const { colours, shades, counts, arrows, layout } = frame.spec;
  const data = new Int16Array(octets(model.get("points")).slice().buffer);
  const small = h("canvas", { width: layout.width, height: layout.height });
  let size;
  const canvas = fineCanvas(frame, cell(frame), (width, height, ratio) => {
    size = { width, height, ratio };
    redraw();
  });

  return (shot, view) => {
    if (!size) return false;
    const { width, height, ratio } = size;
    const c = canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.fillStyle = colours.paper;
    c.fillRect(0, 0, width, height);
    if (view === "density") {
      const image = small.getContext("2d").createImageData(layout.width, layout.height);
      shot.levels.forEach((level, i) => {
        for (let k = 0; k < 3; k++) image.data[4 * i + k] = shades[3 * level + k];
        image.data[4 * i + 3] = 255;
      });
      small.getContext("2d").putImageData(image, 0, 0);
      c.imageSmoothingEnabled = true;
      c.drawImage(small, 0, 0, width, height);
    }
    const across = (x) => (1 + (1.05 * x) / FULL) * (width / 2);
    const down = (y) => (1 - (1.05 * y) / FULL) * (height / 2);
    const dots = (places, colour, radius) => {
      c.fillStyle = colour;
      c.beginPath();
      for (let i = 0; i < places.length; i += 2) {
        const [x, y] = [across(places[i]), down(places[i + 1])];
        c.moveTo(x + radius, y);
        c.arc(x, y, radius, 0, 2 * Math.PI);
      }
      c.fill();
    };
    c.globalAlpha = view === "density" ? 0.55 : 0.35;
    dots(data, colours.ink, 1.3);
    c.globalAlpha = 1;
    if (view === "samples") dots(shot.rest.subarray(0, 2 * counts[0]), colours.model, 1.9);
    if (view === "field") {
      const vectors = shot.rest.subarray(2 * counts[0]);
      const cell = width / arrows;
      let longest = 1;
      for (let i = 0; i < vectors.length; i += 2)
        longest = Math.max(longest, Math.hypot(vectors[i], vectors[i + 1]));
      [c.strokeStyle, c.lineWidth, c.lineCap] = [colours.model, 1.4, "round"];
      for (let i = 0; i < arrows * arrows; i++) {
        const [u, v] = [vectors[2 * i] / longest, vectors[2 * i + 1] / longest];
        const [x, y] = [((i % arrows) + 0.5) * cell, (Math.floor(i / arrows) + 0.5) * cell];
        const [ex, ey] = [x + 0.9 * cell * u, y - 0.9 * cell * v];
        const [way, head] = [Math.atan2(ey - y, ex - x), 0.4 * Math.hypot(ex - x, ey - y)];
        const barb = (turn) => c.lineTo(ex - head * Math.cos(way + turn), ey - head * Math.sin(way + turn));
        c.beginPath();
        c.moveTo(x, y);
        c.lineTo(ex, ey);
        barb(0.5);
        c.moveTo(ex, ey);
        barb(-0.5);
        c.stroke();
      }
    }
    return true;
  };
}

/** The loss of all pictures so far, with a mark at the one shown. */
function curve(frame, redraw) {
  const { colours } = frame.spec;
  let size;
  const canvas = fineCanvas(frame, cell(frame), (width, height, ratio) => {
    size = { width, height, ratio };
    redraw();
  });
  canvas.setAttribute("aria-hidden", "true");

  return (history, at) => {
    if (!size) return false;
    const { width, height, ratio } = size;
    const c = canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.fillStyle = colours.paper;
    c.fillRect(0, 0, width, height);
    const losses = history.map(({ loss }) => loss).filter((loss) => loss !== null);
    const [low, high] = [Math.min(...losses), Math.max(...losses)];
    const last = history.at(-1).step || 1;
    const x = (step) => 10 + ((width - 20) * step) / last;
    const y = (loss) => 20 + ((height - 30) * (high - loss)) / (high - low || 1);
    c.fillStyle = colours.ink;
    c.font = "11px sans-serif";
    c.fillText("loss", 10, 13);
    c.textAlign = "right";
    c.fillText(`step ${history[at].step}`, width - 10, 13);
    c.textAlign = "left";
    c.strokeStyle = colours.bound;
    c.lineWidth = 1.8;
    c.beginPath();
    for (const { step, loss } of history) if (loss !== null) c.lineTo(x(step), y(loss));
    c.stroke();
    c.strokeStyle = colours.ink;
    c.lineWidth = 1;
    c.beginPath();
    c.moveTo(x(history[at].step), 18);
    c.lineTo(x(history[at].step), height - 6);
    c.stroke();
    return true;
  };
}

function playground(frame, model) {
  const { views, seed, layout, counts } = frame.spec;
  const alone = model.get("in_page");
  let history = [];
  let run = seed;
  let playing = 0; // the press of Play that goes on
  let presses = 0;
  let timer;

  const draw = () => {
    if (!history.length) return;
    frame.values.picture = Math.min(Math.max(0, frame.values.picture), history.length - 1);
    const at = frame.values.picture;
    const view = views[frame.values.show || 0];
    if (!(paintPlane(history[at], view) && paintCurve(history, at))) return;
    range.max = history.length - 1;
    range.value = at;
    const { step, loss } = history[at];
    const steps = `${step} training step${step === 1 ? "" : "s"}`;
    range.setAttribute("aria-valuetext", steps);
    said.textContent = step;
    const lost = loss === null ? "" : `, loss ${digits(loss, 3)}`;
    const how = alone ? "Recorded; in JupyterLab your kernel trains it." : `Seed ${run}.`;
    const name = view[0].toUpperCase() + view.slice(1);
    frame.say(`${name} and data after ${steps}${lost}. ${how}`);
    frame.painted();
  };
  const paintPlane = plane(frame, model, draw);
  const paintCurve = curve(frame, draw);
  frame.changed = draw;

  if (views.length > 1) frame.choice("show", { label: "show", options: views });
  const id = unique();
  const range = h("input", { type: "range", id, min: 0, max: 1, step: 1 });
  const said = h("span", { class: "gdm-said", "aria-hidden": "true" });
  range.addEventListener("input", () => {
    pause();
    frame.set("picture", Number(range.value));
  });
  frame.holds.picture = (value) => {
    const held = Math.min(history.length - 1, Math.max(0, Math.round(value)));
    frame.set("picture", held);
    const last = history.length - 1;
    if (held !== value) frame.notice(`There are pictures 0 to ${last}: ${value} is held to ${held}.`);
  };
  frame.row("training", id, range, said);

  /** The next picture: the one recorded or seen, else the kernel trains on. */
  const next = async () => {
    if (frame.values.picture < history.length - 1) return frame.set("picture", frame.values.picture + 1);
    if (alone) return frame.set("picture", 0);
    history.push(await trained(run, history.at(-1).step));
    return frame.set("picture", history.length - 1);
  };
  /** A picture of the kernel's: a step below 0 begins a run. */
  const trained = async (seed, step) => {
    const { data } = await frame.ask("advance", [{ data: [seed, step], shape: [2] }]);
    const area = layout.width * layout.height;
    return {
      step: data[0],
      loss: Number.isNaN(data[1]) ? null : data[1],
      levels: Uint8Array.from(data.subarray(2, 2 + area)),
      rest: Int16Array.from(data.subarray(2 + area)),
    };
  };
  /** To the start: on a page of the recording, in JupyterLab of a new run. */
  const reset = async () => {
    if (!alone) {
      history = [await trained(run + 1, -1)];
      run += 1;
    }
    frame.set("picture", 0);
  };
  const pause = () => {
    playing = 0;
    clearTimeout(timer);
    play.textContent = "Play";
  };
  const go = async (press) => {
    const start = performance.now();
    await once(next);
    if (press !== playing) return;
    if (frame.failed || (alone && frame.values.picture === history.length - 1)) pause();
    else timer = setTimeout(() => go(press), Math.max(0, PICTURE_MS - (performance.now() - start)));
  };
  let turn = Promise.resolve();
  /** One task at a time, in the order of what was pressed. */
  const once = (task) => {
    if (frame.silent) frame.giveUp();
    turn = turn.then(async () => {
      frame.failed = "";
      frame.silent = false;
      try {
        await task();
      } catch (error) {
        frame.fault(error);
      }
    });
    return turn;
  };
  // A picture that comes late is shown nevertheless: what was pressed is not lost. Only the next
  // press gives it up, and asks anew.
  frame.unheard = () => {
    pause();
    frame.fault(new Silence());
  };
  const toggle = () => {
    if (playing) return pause();
    playing = ++presses;
    play.textContent = "Pause";
    return go(playing);
  };
  const [play] = frame.buttons([
    ["Play", toggle],
    ["Step", () => (pause(), once(next))],
    ["Reset", () => (pause(), once(reset))],
  ]);
  frame.undo.push(pause);
  recording(frame, model)
    .then((shots) => {
      history = shots;
      draw();
    })
    .catch((error) => frame.fault(error));
}

export default {
  render({ model, el }) {
    const frame = new Frame(model, el, "playground");
    playground(frame, model);
    frame.showStill();
    return () => frame.close();
  },
};
