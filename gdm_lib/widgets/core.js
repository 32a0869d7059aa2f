// Shared by the scripts of all widgets, which follow this text in one module.
//
// A script paints numbers that it asks for: of the kernel in JupyterLab, of a model in the page on
// the published site. Which of the two answers, it can't tell and need not.

const PATIENCE_MS = 4000; // after this long without an answer, the reader is told
const SETTLE_MS = 120; // values are sent to the kernel once the hand rests this long

/** An element: `h("p", {class: "x", onclick: f}, "text", child)`. */
function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  // In JupyterLab an arrow key would fold the cell, or leave it.
  if (["input", "select", "button"].includes(tag) || "tabindex" in props)
    element.dataset.lmSuppressShortcuts = "true";
  element.append(...children);
  return element;
}

/** An id for a label, unlike those of other modules on the page too. */
const unique = () => `gdm-${Math.random().toString(36).slice(2)}`;

/** A number with a true minus sign. */
const digits = (value, places = 2) => value.toFixed(places).replace("-", "−");

/** What comes over the wire as 32-bit floats, whatever view of memory it comes in. */
const floats = (view) =>
  view instanceof ArrayBuffer
    ? new Float32Array(view)
    : new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));

/** What comes over the wire as bytes. */
const octets = (view) =>
  view instanceof ArrayBuffer
    ? new Uint8Array(view)
    : new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

/** Runs `task` now, or once more after the run in progress; calls in between are dropped. */
function latest(task) {
  let running = false;
  let again = false;
  return async () => {
    again = true;
    if (running) return;
    running = true;
    try {
      while (again) {
        again = false;
        await task();
      }
    } finally {
      running = false;
    }
  };
}

/** Standard normal draws that repeat with the seed (mulberry32, Box and Muller). */
function normals(seed, count) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return Float32Array.from(
    { length: count },
    () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()),
  );
}

/** Paints one image of `(N, C, H, W)`, values in [0, 1], at the size of its pixels. */
function paint(canvas, data, [, channels, height, width], index = 0, left = 0, top = 0) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const area = height * width;
  const from = index * channels * area;
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) {
      const value = data[from + (channels === 1 ? 0 : c) * area + i];
      image.data[4 * i + c] = Math.round(255 * Math.min(1, Math.max(0, value)));
    }
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, left, top);
}

/** A canvas of so many pixels, enlarged by the page without blurring them. */
function picture(width, height, label = "") {
  return h("canvas", { width, height, role: "img", "aria-label": label, class: "gdm-pixels" });
}

/** A canvas as fine as the screen, over all of `place`; `sized` hears its size in CSS pixels, and how
 * many of its own there are to one, now and whenever that changes. */
function fineCanvas(frame, place, sized) {
  const canvas = h("canvas", { role: "img", class: "gdm-fine" });
  place.append(canvas);
  const watcher = new ResizeObserver(() => {
    const ratio = Math.max(1, window.devicePixelRatio || 1);
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!width || !height) return; // hidden
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    sized(width, height, ratio);
  });
  watcher.observe(canvas);
  frame.undo.push(() => watcher.disconnect());
  return canvas;
}

/** The frame of a widget: stage, controls, status line; its values; and the way to ask. */
class Frame {
  constructor(model, el, kind) {
    this.model = model;
    this.spec = model.get("spec");
    this.values = { ...model.get("values") };
    this.undo = []; // what to do when the widget leaves the page
    this.controls = Object.create(null); // by key: shows a value
    this.holds = Object.create(null); // by key: takes a value that may be out of range
    this.changed = () => {}; // the widget's own: a control has moved
    this.unheard = () => this.giveUp(); // the widget's own: the kernel does not answer
    this.waiting = new Map();

    this.stage = h("div", { class: "gdm-stage" });
    this.room = h("div", { class: "gdm-room" });
    this.status = h("p", { class: "gdm-status", role: "status" });
    const again = { type: "button", class: "gdm-again", onclick: () => this.retry() };
    this.again = h("button", again, "Try again");
    this.root = h("div", { class: `gdm gdm-${kind}`, "data-gdm-kind": kind }, this.stage);
    this.root.append(this.room, this.status);
    this.root.style.setProperty("--gdm-width", `${this.spec.width}px`);
    this.root.style.setProperty("--gdm-aspect", this.spec.aspect);
    for (const [name, colour] of Object.entries(this.spec.colours))
      if (typeof colour === "string") this.root.style.setProperty(`--gdm-${name}`, colour);
    el.append(this.root);

    this.listen("msg:custom", (content, buffers) => this.receive(content, buffers));
    this.listen("change:values", () => this.follow(model.get("values")));
  }

  listen(event, callback) {
    this.model.on(event, callback);
    this.undo.push(() => this.model.off(event, callback));
  }

  /** What `render` returns: takes the widget off the page. */
  close() {
    clearTimeout(this.settling);
    clearTimeout(this.impatient);
    for (const step of this.undo.splice(0)) step();
    for (const { reject } of this.waiting.values()) reject(new Closed());
    this.root.remove();
  }

  // -- what the status line says: what is wrong before what is shown

  /** Says what the picture shows, to the eye and to screen readers. */
  say(text) {
    this.text = text;
    this.root.querySelector("canvas:not([aria-hidden])")?.setAttribute("aria-label", text);
    this.refresh();
  }

  /** Says what the reader should know until the next picture. */
  notice(text) {
    this.noticed = text;
    this.refresh();
  }

  /** Says what the widget waits for; nothing ends the wait. */
  busy(text) {
    this.pending = text;
    this.refresh();
  }

  refresh() {
    const text = this.failed || this.noticed || this.pending || this.text || "";
    if (this.said !== text) this.status.replaceChildren(text, ...(this.failed ? [" ", this.again] : []));
    this.said = text;
    this.status.classList.toggle("gdm-fault", Boolean(this.failed));
    this.root.toggleAttribute("data-gdm-busy", Boolean(this.pending));
    this.root.toggleAttribute("data-gdm-failed", Boolean(this.failed));
  }

  /** Called after each live picture, with the answer that it shows, which tests look at. */
  painted(answer) {
    this.root.gdm = answer;
    this.failed = "";
    this.pending = "";
    this.still?.remove();
    this.root.dataset.gdmPictures = Number(this.root.dataset.gdmPictures || 0) + 1;
    this.refresh();
  }

  /** Shows the still picture over the stage until the first live one. */
  showStill() {
    const given = this.model.get("poster_address"); // a page has the picture already
    const png = this.model.get("poster");
    if (!given && !png?.byteLength) return;
    const address = given || URL.createObjectURL(new Blob([octets(png)], { type: "image/png" }));
    this.still = h("img", { src: address, alt: "", class: "gdm-still" });
    this.stage.append(this.still);
    if (!given) this.undo.push(() => URL.revokeObjectURL(address));
  }

  // -- asking

  /** What the named function makes of 32-bit arrays: `{data, shape}`. */
  ask(name, arrays) {
    const id = unique(); // views of one widget hear each other's answers
    const shapes = arrays.map(({ shape }) => shape);
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.wait();
      const copies = arrays.map(({ data }) => Float32Array.from(data).buffer);
      try {
        this.model.send({ kind: "ask", id, name, shapes }, undefined, copies);
      } catch {
        this.waiting.delete(id); // the kernel was shut down
        reject(new Silence());
      }
    }).then((answer) => ({ ...answer, arrays }));
  }

  /** A kernel that is busy or gone says nothing. The next move of the hand asks anew. */
  wait() {
    clearTimeout(this.impatient);
    if (this.model.get("in_page") || !this.waiting.size) return;
    this.impatient = setTimeout(() => this.unheard(), this.spec.patience || PATIENCE_MS);
  }

  /** Waits no longer for what was asked. */
  giveUp() {
    for (const { reject } of this.waiting.values()) reject(new Silence());
    this.waiting.clear();
  }

  receive(content, buffers) {
    if (content.kind === "wait") return this.busy(content.text);
    const asked = this.waiting.get(content.id);
    if (!asked) {
      // An answer that came late: the kernel is back, so ask for what the controls say now.
      if (content.kind === "answer" && this.silent) this.changed();
      return undefined;
    }
    this.waiting.delete(content.id);
    this.wait();
    this.silent = false;
    if (content.kind === "answer")
      return asked.resolve({ data: floats(buffers[0]), shape: content.shape });
    return asked.reject(new Error(content.reason));
  }

  /** `task`, at most one at a time, what goes wrong in it said on the status line. */
  steady(task) {
    return latest(async () => {
      try {
        await task();
      } catch (error) {
        this.fault(error);
      }
    });
  }

  fault(error) {
    if (error instanceof Closed) return;
    this.pending = "";
    this.silent = error instanceof Silence;
    this.failed = this.silent
      ? "The kernel does not answer: it may be busy, or gone. The last picture stays; run the " +
        "cell again, or move a control once the kernel is idle."
      : `This picture could not be made: ${error.message}`;
    this.refresh();
  }

  /** Asks once more for what failed. */
  retry() {
    this.failed = "";
    this.refresh();
    this.changed();
  }

  // -- controls

  /** A control has moved to `value`. */
  set(key, value) {
    this.values[key] = value;
    this.noticed = "";
    clearTimeout(this.settling);
    this.settling = setTimeout(() => {
      this.model.set("values", { ...this.values });
      this.model.save_changes();
    }, SETTLE_MS);
    this.changed(key);
  }

  /** The kernel has set values: move the controls there. */
  follow(values) {
    for (const [key, value] of Object.entries(values)) {
      if (Object.is(this.values[key], value)) continue;
      if (this.holds[key]) {
        this.holds[key](value);
        continue;
      }
      this.values[key] = value;
      this.controls[key]?.(value);
      this.changed(key);
    }
  }

  row(label, id, ...controls) {
    const row = h("div", { class: "gdm-row" }, h("label", { for: id }, label), ...controls);
    this.room.append(row);
    return row;
  }

  /** A slider with a field for its number. A value out of range is held to it, and said so. */
  slider(key, { label, min, max, step, places = 2 }) {
    const id = unique();
    const range = h("input", { type: "range", id, min, max, step: "any" });
    const field = h("input", { type: "number", min, max, step, "aria-label": `${label}, number` });
    range.step = step;
    const show = (value) => {
      range.value = value;
      range.setAttribute("aria-valuetext", digits(value, places));
      field.value = value.toFixed(places);
    };
    const hold = (value) => {
      const held = Math.min(max, Math.max(min, value));
      show(held);
      this.set(key, held);
      const [low, high, came, used] = [min, max, value, held].map((v) => digits(v, places));
      if (held !== value)
        this.notice(`${label} goes from ${low} to ${high}: ${came} is held to ${used}.`);
    };
    range.addEventListener("input", () => hold(Number(range.value)));
    const type = () => {
      if (field.value === this.values[key].toFixed(places)) return undefined; // said already
      if (field.value.trim() !== "") return hold(Number(field.value));
      show(this.values[key]);
      const [low, high] = [min, max].map((v) => digits(v, places));
      return this.notice(`${label}: a number from ${low} to ${high} is needed.`);
    };
    field.addEventListener("change", type);
    // JupyterLab keeps the Enter key from ending the input.
    field.addEventListener("keydown", (event) => event.key === "Enter" && type());
    show(this.values[key]);
    this.controls[key] = show;
    this.holds[key] = hold;
    this.row(label, id, range, field);
  }

  /** A slider over a list, or a menu of it; the value is the item, the nearest if there is none. */
  steps(key, { label, items, texts, menu = false }) {
    const id = unique();
    const options = menu ? texts.map((text, i) => h("option", { value: i }, text)) : [];
    const range = { type: "range", min: 0, max: items.length - 1, step: 1 };
    const control = h(menu ? "select" : "input", { id, ...(menu ? {} : range) }, ...options);
    const said = h("span", { class: "gdm-said", "aria-hidden": "true" });
    const show = (value) => {
      const i = items.indexOf(value);
      control.value = i;
      if (menu) return;
      control.setAttribute("aria-valuetext", texts[i]);
      said.textContent = texts[i];
    };
    const place = (value) => {
      if (items.includes(value)) return items.indexOf(value);
      const far = items.map((item) => Math.abs(item - value));
      return Math.max(0, far.indexOf(Math.min(...far)));
    };
    const hold = (value) => {
      const i = place(value);
      show(items[i]);
      this.set(key, items[i]);
      if (items[i] !== value) this.notice(`${label}: there is no ${value}, so ${texts[i]} is shown.`);
    };
    control.addEventListener(menu ? "change" : "input", () => hold(items[control.value]));
    this.values[key] = items[place(this.values[key])];
    show(this.values[key]);
    this.controls[key] = show;
    this.holds[key] = hold;
    this.row(label, id, control, ...(menu ? [] : [said]));
    return control;
  }

  /** A control whose value is the index of an option. */
  options(key, label, show, count) {
    show(this.values[key]);
    this.controls[key] = show;
    this.holds[key] = (value) => {
      const held = Math.min(count() - 1, Math.max(0, Math.round(value)));
      show(held);
      this.set(key, held);
      if (held !== value)
        this.notice(`${label} goes from 0 to ${count() - 1}: ${value} is held to ${held}.`);
    };
  }

  /** A menu; the value is the index of the option. */
  menu(key, { label, options }) {
    const id = unique();
    const select = h("select", { id }, ...options.map((name, i) => h("option", { value: i }, name)));
    select.addEventListener("change", () => this.set(key, Number(select.value)));
    this.options(key, label, (value) => (select.value = value), () => select.options.length);
    this.row(label, id, select);
    return select;
  }

  /** One of a few, side by side, or in a menu where there is no room for that; the value is the
   * index of the option. */
  choice(key, { label, options }) {
    const name = unique();
    const choose = (i) => {
      this.controls[key](i);
      this.set(key, i);
    };
    const group = h("div", { class: "gdm-choice", role: "radiogroup", "aria-label": label });
    const radios = options.map((text, i) => {
      const radio = h("input", { type: "radio", name, value: i });
      radio.addEventListener("change", () => choose(i));
      group.append(h("label", {}, radio, h("span", {}, text)));
      return radio;
    });
    const items = options.map((text, i) => h("option", { value: i }, text));
    const select = h("select", { "aria-label": label }, ...items);
    select.addEventListener("change", () => choose(Number(select.value)));
    const show = (value) => {
      radios[value].checked = true;
      select.value = value;
    };
    this.options(key, label, show, () => radios.length);
    const row = h("div", { class: "gdm-row" }, h("span", { "aria-hidden": "true" }, label), group);
    this.room.append(row);

    let needed = 0; // by all side by side
    const watcher = new ResizeObserver(() => {
      if (group.isConnected && group.scrollWidth > group.clientWidth) {
        needed = group.scrollWidth;
        group.replaceWith(select);
      } else if (select.isConnected && select.offsetWidth >= needed) select.replaceWith(group);
    });
    watcher.observe(row);
    this.undo.push(() => watcher.disconnect());
  }

  /** A row of buttons: `[["Play", callback], ...]`; returns them. */
  buttons(list) {
    const made = list.map(([text, onclick]) => h("button", { type: "button", onclick }, text));
    this.room.append(h("div", { class: "gdm-row gdm-buttons" }, ...made));
    return made;
  }
}

/** The widget left the page while it waited. */
class Closed extends Error {}

/** Nobody answers. */
class Silence extends Error {}

/** The frames of a sheet that `pack` made: `show(canvas, i)` paints one, `levels(i)` reads it. */
async function unpack(bytes, { height, width, columns, index }) {
  const blob = new Blob([octets(bytes)], { type: "image/webp" });
  const sheet = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const at = (i) => [(index[i] % columns) * width, Math.floor(index[i] / columns) * height];
  const show = (canvas, i, left = 0, top = 0) =>
    canvas.getContext("2d").drawImage(sheet, ...at(i), width, height, left, top, width, height);
  const scratch = document.createElement("canvas");
  [scratch.width, scratch.height] = [width, height];
  /** The red (or only) channel of a frame, 0 to 255. */
  const levels = (i) => {
    const context = scratch.getContext("2d", { willReadFrequently: true });
    context.drawImage(sheet, ...at(i), width, height, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    return Uint8Array.from({ length: width * height }, (_, k) => data[4 * k]);
  };
  return { show, levels, height, width, count: index.length };
}
