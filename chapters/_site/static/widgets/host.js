// Revives the widgets of a page that has no kernel.
//
// The page holds the state of its widgets as the notebook stored it, and a still picture of each,
// `<figure data-gdm-widget="ID">`. When one scrolls into view, this host makes a stand-in for the
// kernel's model from that state and hands it to the widget's own script (an anywidget module). What
// the script asks of the kernel, the widget's exported model answers here, in ONNX Runtime Web.

const STATE = 'script[type="application/vnd.jupyter.widget-state+json"]';
const NEAR = "250px"; // from the edge of the screen, where a widget starts to load

const settings = document.querySelector("script[data-gdm-runtime]")?.dataset || {};
const base = new URL(settings.gdmBase || "../", import.meta.url); // what addresses in the state mean

/** The stored state of every widget on the page, by id. */
export function storedState(root = document) {
  const found = Object.create(null); // of names that come from outside, none is special
  for (const script of root.querySelectorAll(STATE)) {
    try {
      Object.assign(found, JSON.parse(script.textContent).state);
    } catch (error) {
      console.warn(`The state of the widgets on this page can't be read: ${error.message}`);
    }
  }
  return found;
}

// -- files, each held to the digest that its name starts with, or that the page knows of it

const DIGEST = /(?:^|\/)([0-9a-f]{16,64})\.\w+$/;
const spoilt = new Set(); // addresses that failed: what is wrong may be in the browser's cache

async function fetched(address, digest = DIGEST.exec(address)?.[1]) {
  try {
    const cache = spoilt.has(address) ? "reload" : "default";
    const response = await fetch(new URL(address, base), { cache });
    if ([404, 410].includes(response.status))
      throw new Error(`the file ${address} is missing (status ${response.status})`);
    if (!response.ok)
      throw new Error(`the server did not give the file ${address} (status ${response.status})`);
    const bytes = await response.arrayBuffer();
    if (digest && !(await sha256(bytes)).startsWith(digest))
      throw new Error(`the file ${address} is damaged`);
    spoilt.delete(address);
    return bytes;
  } catch (error) {
    spoilt.add(address);
    // What the browser throws if the network fails names no file.
    throw error instanceof TypeError
      ? new Error(`the file ${address} could not be fetched (${error.message})`)
      : error;
  }
}

/** The SHA-256 of bytes, in hexadecimal digits. */
export async function sha256(bytes) {
  const own = globalThis.crypto?.subtle; // only secure pages have it: https, or this machine
  const digest = own
    ? new DataView(await own.digest("SHA-256", bytes))
    : slowSha256(new Uint8Array(bytes));
  return Array.from({ length: 8 }, (_, i) =>
    digest.getUint32(4 * i).toString(16).padStart(8, "0"),
  ).join("");
}

/** SHA-256 as FIPS 180-4 has it. */
function slowSha256(bytes) {
  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);
  const fraction = (x) => ((x % 1) * 2 ** 32) | 0;
  const K = Int32Array.from(primes, (p) => fraction(Math.cbrt(p)));
  const H = Int32Array.from(primes.slice(0, 8), (p) => fraction(Math.sqrt(p)));
  const W = new Int32Array(64);
  const turn = (x, n) => (x >>> n) | (x << (32 - n));

  const block = (view, at) => {
    for (let t = 0; t < 16; t++) W[t] = view.getInt32(at + 4 * t);
    for (let t = 16; t < 64; t++) {
      const s0 = turn(W[t - 15], 7) ^ turn(W[t - 15], 18) ^ (W[t - 15] >>> 3);
      const s1 = turn(W[t - 2], 17) ^ turn(W[t - 2], 19) ^ (W[t - 2] >>> 10);
      W[t] = s1 + W[t - 7] + s0 + W[t - 16];
    }
    let [a, b, c, d, e, f, g, h] = H;
    for (let t = 0; t < 64; t++) {
      const S1 = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25);
      const T1 = (h + S1 + ((e & f) ^ (~e & g)) + K[t] + W[t]) | 0;
      const S0 = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22);
      const T2 = (S0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + T1) | 0, c, b, a, (T1 + T2) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => (H[i] += value));
  };

  const whole = bytes.length - (bytes.length % 64);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0; at < whole; at += 64) block(view, at);
  // What is left, a one, zeros, and the number of bits.
  const rest = bytes.subarray(whole);
  const tail = new Uint8Array(rest.length < 56 ? 64 : 128);
  tail.set(rest);
  tail[rest.length] = 0x80;
  const end = new DataView(tail.buffer);
  end.setUint32(tail.length - 8, Math.floor(bytes.length / 2 ** 29));
  end.setUint32(tail.length - 4, (bytes.length % 2 ** 29) * 8);
  for (let at = 0; at < tail.length; at += 64) block(end, at);
  H.forEach((value, i) => end.setInt32(4 * i, value));
  return end;
}

/** Binary values come back as DataView, as Jupyter gives them. */
async function binary({ encoding, data }) {
  if (encoding === "url") return new DataView(await fetched(data));
  if (encoding !== "base64") throw new Error(`binary data in an unknown encoding, ${encoding}`);
  return new DataView(Uint8Array.from(atob(data), (c) => c.charCodeAt(0)).buffer);
}

/** The address of a script that is here already; what fails to load leaves no trace at it. */
const scriptAddress = (text) => URL.createObjectURL(new Blob([text], { type: "text/javascript" }));

async function importText(text) {
  const address = scriptAddress(text);
  try {
    return await import(address);
  } finally {
    URL.revokeObjectURL(address);
  }
}

/** A stand-in for the model of a widget in a kernel. */
export class PageModel {
  constructor(state, answer) {
    this.state = state;
    this.answer = answer;
    this.listeners = new Map();
  }

  get(name) {
    return this.state[name];
  }

  set(name, value) {
    if (Object.is(this.state[name], value)) return;
    this.state[name] = value;
    this.emit(`change:${name}`, this, value);
    this.emit("change", this);
  }

  /** There is no kernel to save to. */
  save_changes() {}

  on(names, callback) {
    for (const name of names.split(/\s+/)) {
      if (!this.listeners.has(name)) this.listeners.set(name, new Set());
      this.listeners.get(name).add(callback);
    }
  }

  off(names, callback) {
    for (const name of names ? names.split(/\s+/) : this.listeners.keys())
      if (callback) this.listeners.get(name)?.delete(callback);
      else this.listeners.delete(name);
  }

  emit(name, ...values) {
    for (const callback of [...(this.listeners.get(name) || [])]) callback(...values);
  }

  /** What the kernel would receive, the page answers. */
  send(content, _callbacks, buffers = []) {
    this.answer?.(this, content, buffers);
  }
}

// -- the engine and the models, each loaded once for all widgets of the page

let engine;
let started = false; // whether it has read a model
const sessions = new Map();
let last = Promise.resolve();

/** The engine keeps one stack for all its sessions, so that only one request may be under way. */
function inTurn(work) {
  const turn = last.then(work);
  last = turn.catch(() => {});
  return turn;
}

const ENGINE = ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"];

/** The engine, from files that are here whole before any of it runs: once it has failed to start, it
 * never starts again, so that a later use must begin with a fresh copy. */
function loadEngine() {
  engine ??= (async () => {
    const digests = JSON.parse(settings.gdmDigests || "{}");
    const folder = settings.gdmRuntime || "onnxruntime/";
    const [script, glue, wasm] = await Promise.all(
      ENGINE.map((name) => fetched(`${folder}${name}`, digests[name])),
    );
    const runtime = await importText(script);
    runtime.env.wasm.numThreads = 1; // more need headers that static hosts don't send
    runtime.env.wasm.wasmBinary = wasm;
    runtime.env.wasm.wasmPaths = { mjs: scriptAddress(glue) };
    return runtime;
  })().catch((error) => {
    engine = undefined; // so that the next move tries again
    throw new Error(`the engine for models could not be loaded (${error.message})`);
  });
  return engine;
}

function loadSession(model) {
  const address = model.get("page_model_address");
  const key = address || model;
  if (!sessions.has(key)) {
    const loading = (async () => {
      const [runtime, bytes] = await Promise.all([
        loadEngine(),
        address ? fetched(address) : model.get("page_model").buffer,
      ]);
      const session = await inTurn(() =>
        runtime.InferenceSession.create(new Uint8Array(bytes), {
          executionProviders: ["wasm"],
          logSeverityLevel: 4,
        }),
      ).catch((error) => {
        if (!started) engine = undefined; // it may be the engine that is at fault
        throw new Error(`the model${address ? ` in ${address}` : ""} can't be read (${error.message})`);
      });
      started = true;
      return { runtime, session };
    })();
    sessions.set(key, loading);
    loading.catch(() => sessions.delete(key));
  }
  return sessions.get(key);
}

/** Answers `{kind: "ask", id, name, shapes}` as a kernel would, with the exported model. */
export async function answerWithModel(model, content, buffers) {
  if (content.kind !== "ask") return;
  const { id, name, shapes } = content;
  try {
    if (name !== "decode") throw new Error(`without a kernel there is no ${name}`);
    if (!model.ready)
      model.emit("msg:custom", { kind: "wait", text: "Loading the model …" }, []);
    const { runtime, session } = await loadSession(model);
    model.ready = true;
    const feeds = {};
    session.inputNames.forEach((input, i) => {
      feeds[input] = new runtime.Tensor("float32", new Float32Array(buffers[i]), shapes[i]);
    });
    const output = (await inTurn(() => session.run(feeds)))[session.outputNames[0]];
    const data = new Float32Array(output.data);
    model.emit("msg:custom", { kind: "answer", id, shape: [...output.dims] }, [data.buffer]);
  } catch (error) {
    model.emit("msg:custom", { kind: "failed", id, reason: error.message }, []);
  }
}

// -- widgets

const modules = new Map();

/** The module of a widget, one for all that have the same script. */
function importScript(source) {
  if (!modules.has(source)) {
    const isAddress = /^[\w./-]+\.js$/.test(source);
    const loading = isAddress ? fetched(source).then(importText) : importText(source);
    modules.set(source, loading);
    loading.catch(() => modules.delete(source));
  }
  return modules.get(source);
}

/** Puts a binary value where the state has its place; a path from outside reaches nothing else. */
function put(state, path, value) {
  const steps = [...path];
  const last = steps.pop();
  let place = state;
  for (const step of steps) place = Object.hasOwn(Object(place), step) ? place[step] : undefined;
  const special = [undefined, "__proto__", "constructor", "prototype"];
  if (typeof place !== "object" || !place || special.includes(last))
    throw new Error(`its state has no place for the binary data of ${path.join(".")}`);
  place[last] = value;
}

/** The model that a widget's script gets, from its entry in the stored state. */
export async function revivedModel(entry, more = {}, answer = answerWithModel) {
  const stored = structuredClone(entry.state);
  const state = Object.assign(Object.create(null), stored, { in_page: true, ...more });
  await Promise.all(
    (entry.buffers || []).map(async (buffer) => put(state, buffer.path, await binary(buffer))),
  );
  return new PageModel(state, answer);
}

const TOUCHES = ["pointerover", "pointerdown", "touchstart", "focusin", "keydown"];

/** Answers once the reader has come to the widget with pointer, finger or keyboard: until then the
 * page loads neither engine nor model. */
function answerWhenTouched(figure) {
  const touched = new Promise((resolve) => {
    for (const kind of TOUCHES)
      figure.addEventListener(kind, resolve, { once: true, passive: true });
  });
  let here = false;
  figure.dataset.gdmUntouched = ""; // it waits for the reader, and nothing turns
  touched.then(() => {
    here = true;
    delete figure.dataset.gdmUntouched;
  });
  return async (model, content, buffers) => {
    if (!here) {
      const text = "Drag in the picture, or move a slider. Your browser then loads the model.";
      model.emit("msg:custom", { kind: "wait", text }, []);
      await touched;
    }
    return answerWithModel(model, content, buffers);
  };
}

/** Puts the live widget in the place of its still picture; the picture stays if that fails. */
export async function revive(figure, entry) {
  const image = figure.querySelector("img");
  try {
    const [model, module] = await Promise.all([
      revivedModel(
        entry,
        { poster_address: image?.src },
        "gdmPatient" in settings ? answerWhenTouched(figure) : answerWithModel,
      ),
      importScript(entry.state._esm),
    ]);
    const widget =
      typeof module.default === "function" ? await module.default() : module.default;
    const place = document.createElement("div");
    await widget.initialize?.({ model });
    figure.replaceChildren(place);
    await widget.render({ model, el: place });
    figure.dataset.gdmLive = "";
  } catch (error) {
    const line = document.createElement("figcaption");
    line.className = "gdm-status gdm-fault";
    const again = document.createElement("button");
    again.type = "button";
    again.className = "gdm-again";
    again.textContent = "Try again";
    again.addEventListener("click", () => {
      again.disabled = true;
      revive(figure, entry);
    });
    const text = `This widget could not be started: ${error.message}. You see its last picture. `;
    line.append(text, again);
    figure.querySelector("figcaption")?.remove();
    if (image && !image.isConnected) figure.replaceChildren(image);
    figure.append(line);
  }
}

/** Revives each widget of the page when it comes near the screen. */
export function start(root = document) {
  const state = storedState(root);
  const watcher = new IntersectionObserver(
    (seen) => {
      for (const { isIntersecting, target } of seen) {
        if (!isIntersecting) continue;
        watcher.unobserve(target);
        revive(target, state[target.dataset.gdmWidget]);
      }
    },
    { rootMargin: NEAR },
  );
  for (const figure of root.querySelectorAll("figure[data-gdm-widget]")) {
    const entry = state[figure.dataset.gdmWidget];
    // One that needs a kernel stays a picture, with the line that says so.
    if (entry?.state._esm && figure.dataset.gdmAlone !== "false") watcher.observe(figure);
  }
}

// As soon as the page is parsed: what other scripts do before it counts as loaded takes long.
if (document.readyState === "loading")
  document.addEventListener("readystatechange", () => start(), { once: true });
else start();
