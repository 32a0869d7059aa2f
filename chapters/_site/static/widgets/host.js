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
  const found = {};
  for (const script of root.querySelectorAll(STATE)) {
    try {
      Object.assign(found, JSON.parse(script.textContent).state);
    } catch (error) {
      console.warn(`The state of the widgets on this page can't be read: ${error.message}`);
    }
  }
  return found;
}

async function fetched(address) {
  const response = await fetch(new URL(address, base)).catch((error) => {
    throw new Error(`the file ${address} could not be fetched (${error.message})`);
  });
  if (!response.ok) throw new Error(`the file ${address} is missing (status ${response.status})`);
  return response.arrayBuffer();
}

/** Binary values come back as DataView, as Jupyter gives them. */
async function binary({ encoding, data }) {
  if (encoding === "url") return new DataView(await fetched(data));
  if (encoding !== "base64") throw new Error(`binary data in an unknown encoding, ${encoding}`);
  return new DataView(Uint8Array.from(atob(data), (c) => c.charCodeAt(0)).buffer);
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
const sessions = new Map();
let last = Promise.resolve();

/** The engine keeps one stack for all its sessions, so that only one request may be under way. */
function inTurn(work) {
  const turn = last.then(work);
  last = turn.catch(() => {});
  return turn;
}

function loadEngine() {
  engine ??= (async () => {
    const at = new URL(settings.gdmRuntime || "onnxruntime/", base);
    const runtime = await import(new URL("ort.wasm.min.mjs", at));
    runtime.env.wasm.numThreads = 1; // more need headers that static hosts don't send
    runtime.env.wasm.wasmPaths = {
      mjs: new URL("ort-wasm-simd-threaded.mjs", at).href,
      wasm: new URL("ort-wasm-simd-threaded.wasm", at).href,
    };
    return runtime;
  })().catch((error) => {
    engine = undefined; // so that the next move tries again
    throw new Error(`the engine for models could not be loaded (${error.message})`);
  });
  return engine;
}

/** A file whose name starts with the SHA-256 of what is in it is held to that. */
async function checked(address, bytes) {
  const expected = /([0-9a-f]{16,64})\.onnx$/.exec(address)?.[1];
  if (!expected || !globalThis.crypto?.subtle) return bytes; // only secure pages have it
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (!found.startsWith(expected)) throw new Error(`the file ${address} is damaged`);
  return bytes;
}

function loadSession(model) {
  const address = model.get("page_model_address");
  const key = address || model;
  if (!sessions.has(key)) {
    const loading = (async () => {
      const [runtime, bytes] = await Promise.all([
        loadEngine(),
        address ? fetched(address).then((b) => checked(address, b)) : model.get("page_model").buffer,
      ]);
      const session = await inTurn(() =>
        runtime.InferenceSession.create(new Uint8Array(bytes), {
          executionProviders: ["wasm"],
          logSeverityLevel: 4,
        }),
      ).catch((error) => {
        throw new Error(`the model${address ? ` in ${address}` : ""} can't be read (${error.message})`);
      });
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

async function importScript(source) {
  const isAddress = /^[\w./-]+\.js$/.test(source);
  if (isAddress) return import(new URL(source, base));
  const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  try {
    return await import(address);
  } finally {
    URL.revokeObjectURL(address);
  }
}

/** The model that a widget's script gets, from its entry in the stored state. */
export async function revivedModel(entry, more = {}) {
  const state = { ...structuredClone(entry.state), in_page: true, ...more };
  await Promise.all(
    (entry.buffers || []).map(async (buffer) => {
      const path = [...buffer.path];
      const last = path.pop();
      path.reduce((place, step) => place[step], state)[last] = await binary(buffer);
    }),
  );
  return new PageModel(state, answerWithModel);
}

/** Puts the live widget in the place of its still picture; the picture stays if that fails. */
export async function revive(figure, entry) {
  const image = figure.querySelector("img");
  try {
    const [model, module] = await Promise.all([
      revivedModel(entry, { poster_address: image?.src }),
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
    line.textContent = `This widget could not be started: ${error.message}. You see its last picture.`;
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
