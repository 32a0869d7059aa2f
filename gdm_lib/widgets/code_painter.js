// CodePainter: paint on the grid of an image's codes, and the decoder's picture follows.

const BRUSHES = ["1 cell", "2 × 2", "fill", "pick a code"];
const [, SQUARE, FILL, PICK] = BRUSHES.keys();
const STYLES = ["solid", "solid", "dashed", "dotted"]; // of the line around what a brush meets

const GAP = 8; // between grid, picture and palette, in CSS pixels

const alike = (a, b) => a.every((value, i) => value === b[i]);

/** Images of `(N, height, width, 3)` bytes, to be put on a canvas. */
function tiles(bytes, height, width) {
  const area = height * width;
  return Array.from({ length: bytes.length / (3 * area) }, (_, n) => {
    const tile = new ImageData(width, height);
    for (let i = 0; i < area; i++) {
      tile.data.set(bytes.subarray(3 * (n * area + i), 3 * (n * area + i) + 3), 4 * i);
      tile.data[4 * i + 3] = 255;
    }
    return tile;
  });
}

/** A place to point at and to walk in with the arrow keys, of so many cells. `point(row, column,
 * event, first)` hears of each cell that is pressed or dragged over, `hover` of one that is not. */
function cells({ rows, columns, label, kind, height, width }, { point, hover, key, ended }) {
  const canvas = picture(columns * width, rows * height);
  canvas.setAttribute("aria-hidden", "true");
  const pad = h(
    "div",
    {
      class: "gdm-pad gdm-cells",
      "data-gdm-pad": true,
      tabindex: "0",
      role: "group",
      "aria-roledescription": kind,
      "aria-label": label,
    },
    canvas,
  );
  pad.style.setProperty("--gdm-across", columns);
  pad.style.setProperty("--gdm-down", rows);
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    const held = (part, n) => Math.min(n - 1, Math.max(0, Math.floor(part * n)));
    return [
      held((event.clientY - box.top) / box.height, rows),
      held((event.clientX - box.left) / box.width, columns),
    ];
  };
  let last = null; // the cell of the drag in progress
  let rest = "";
  pad.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    pad.setPointerCapture(event.pointerId);
    last = at(event);
    point(...last, event, true);
  });
  pad.addEventListener("pointermove", (event) => {
    // A browser reports a move too when the page scrolls beneath a resting mouse.
    const here = `${event.screenX},${event.screenY}`;
    if (here === rest) return;
    rest = here;
    const to = at(event);
    if (!last) return hover(...to);
    // A fast hand skips cells.
    const far = Math.max(Math.abs(to[0] - last[0]), Math.abs(to[1] - last[1]));
    const from = last;
    for (let i = 1; i <= far; i++)
      point(...[0, 1].map((k) => Math.round(from[k] + ((to[k] - from[k]) * i) / far)), event, false);
    last = to;
  });
  for (const end of ["pointerup", "pointercancel"])
    pad.addEventListener(end, () => {
      if (last) ended();
      last = null;
    });
  pad.addEventListener("pointerleave", () => hover());
  pad.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (!key(event, way[event.key])) return;
    event.preventDefault();
    event.stopPropagation();
  });
  const stamp = (tile, place) =>
    canvas
      .getContext("2d")
      .putImageData(tile, (place % columns) * width, Math.floor(place / columns) * height);
  return { pad, stamp };
}

/** A frame around cells, and the number of a code beside it. */
function marker(place, rows, columns, ...children) {
  const number = h("span", { class: "gdm-number" });
  const mark = h("div", { class: "gdm-marker gdm-square", "aria-hidden": "true" }, ...children, number);
  place.append(mark);
  return (row, column, { side = 1, text = "", line = "solid" } = {}) => {
    mark.style.top = `${(100 * row) / rows}%`;
    mark.style.left = `${(100 * column) / columns}%`;
    mark.style.height = `${(100 * Math.min(side, rows)) / rows}%`;
    mark.style.width = `${(100 * Math.min(side, columns)) / columns}%`;
    mark.style.borderStyle = line;
    number.textContent = text;
    number.hidden = text === "";
    // Within the pad, and not beneath the finger.
    mark.classList.toggle("gdm-low", (row + 0.5) / rows < 0.2);
  };
}

/** As large as fits into a panel, at its own ratio of width to height. */
function fitted(element, ratio, panel) {
  element.style.aspectRatio = ratio;
  element.style[ratio >= panel ? "width" : "height"] = "100%";
  element.style[ratio >= panel ? "height" : "width"] = "auto";
  return h("div", { class: "gdm-panel" }, element);
}

function painter(frame) {
  const { model, spec, values } = frame;
  const { names, starts, order, heights } = spec;
  const [rows, columns] = spec.grid;
  const [height, width] = spec.patch;
  const across = spec.columns;
  const down = Math.ceil(order.length / across);
  const patches = tiles(octets(model.get("patches")), height, width);
  const originals = "shows" in values ? tiles(octets(model.get("originals")), ...spec.image) : [];

  let image = values.image; // that the grid belongs to
  let cell = [rows >> 1, columns >> 1]; // of the cursor
  const past = []; // images and their codes, for Undo
  let kept = false; // whether the stroke in progress can be undone
  const now = () => values.codes ?? starts[image];
  const keep = () => {
    if (!kept) past.push([image, values.codes]);
    kept = true;
  };
  const put = (codes) => {
    if ("shows" in values) {
      frame.controls.shows(0);
      values.shows = 0;
    }
    frame.set("codes", codes && !alike(codes, starts[image]) ? codes : null);
  };
  const choose = (code) => {
    if (code === values.code) return;
    frame.controls.code(code);
    frame.set("code", code);
  };

  /** Cells that hang together and have the code of the first. */
  const region = (first) => {
    const codes = now();
    const found = new Set([first]);
    for (const i of found) {
      const near = [i - columns, i + columns];
      if (i % columns) near.push(i - 1);
      if ((i + 1) % columns) near.push(i + 1);
      for (const j of near) if (codes[j] === codes[first]) found.add(j);
    }
    return found;
  };
  /** The cells that a brush covers at the cursor. */
  const covered = () => {
    const { row, column, side } = extent();
    if (values.brush === FILL) return region(row * columns + column);
    const found = [];
    for (let i = row; i < Math.min(rows, row + side); i++)
      for (let j = column; j < Math.min(columns, column + side); j++) found.push(i * columns + j);
    return found;
  };
  const extent = () => {
    const side = values.brush === SQUARE ? 2 : 1;
    const [row, column] = cell;
    const inside = (place, n) => Math.max(0, Math.min(place, n - side));
    return { row: inside(row, rows), column: inside(column, columns), side };
  };
  const move = (row, column) => {
    cell = [row, column];
    mark();
    frame.say(says());
  };
  let painting = values.brush === PICK ? 0 : values.brush; // the brush before the pipette
  const apply = (event) => {
    if (values.brush === PICK || event.altKey) return choose(now()[cell[0] * columns + cell[1]]);
    const codes = [...now()];
    for (const i of covered()) codes[i] = values.code;
    if (alike(codes, now())) return undefined;
    keep();
    return put(codes);
  };
  const ended = () => {
    kept = false;
    if (values.brush !== PICK) return;
    frame.controls.brush(painting);
    frame.set("brush", painting);
  };
  const undo = () => {
    const last = past.pop();
    if (!last) return frame.notice("There is nothing to undo.");
    image = last[0];
    values.image = image;
    frame.controls.image?.(image);
    return put(last[1]);
  };
  const reset = () => {
    if (values.codes === null) return frame.notice("The codes are as they were encoded.");
    keep();
    kept = false;
    return put(null);
  };

  const grid = cells(
    {
      ...{ rows, columns, height, width, kind: "grid to paint on" },
      label:
        `Grid of ${rows} × ${columns} codes: drag to paint, or walk with the arrow keys and paint ` +
        "with Enter or the space bar; with Alt, take the cell's code",
    },
    {
      point: (row, column, event) => {
        move(row, column);
        apply(event);
      },
      hover: (row, column) => row !== undefined && move(row, column),
      ended,
      key: (event, way) => {
        if (way) {
          const [row, column] = [cell[0] + way[0], cell[1] + way[1]];
          if (row >= 0 && column >= 0 && row < rows && column < columns) move(row, column);
        } else if (event.key === "Enter" || event.key === " ") {
          apply(event);
          ended();
        } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) undo();
        else return false;
        return true;
      },
    },
  );
  const swatches = cells(
    {
      ...{ rows: down, columns: across, height, width, kind: "palette" },
      label: `Palette of ${order.length} codes, from dark to light: point at one, or use the arrow keys`,
    },
    {
      point: (row, column) => {
        const code = order[row * across + column];
        if (code !== undefined) choose(code);
      },
      hover: (row, column) => {
        const code = row === undefined ? undefined : order[row * across + column];
        over(row ?? 0, column ?? 0, { text: code ?? "" });
      },
      ended: () => {},
      key: (_, way) => {
        if (!way) return false;
        // Round and round, so that a key always does something.
        const place = order.indexOf(values.code) + way[0] * across + way[1] + order.length;
        choose(order[place % order.length]);
        return true;
      },
    },
  );
  swatches.pad.classList.add("gdm-swatches");
  const canvas = picture(spec.image[1], spec.image[0]);
  const view = h("div", { class: "gdm-view" }, canvas);
  const [side, gap] = [spec.width / 2 - GAP / 2, GAP / (heights[0] + GAP + heights[1])];
  frame.stage.append(
    fitted(grid.pad, columns / rows, side / heights[0]),
    fitted(view, spec.image[1] / spec.image[0], side / heights[0]),
    swatches.pad,
  );
  frame.stage.style.gridTemplateRows = `${heights[0]}fr ${heights[1]}fr`;
  // In parts of the stage, so that all keeps its shape on a small screen.
  frame.stage.style.gap = `${100 * gap}% ${(100 * GAP) / spec.width}%`;
  for (const [place, code] of order.entries()) swatches.stamp(patches[code], place);

  const over = marker(swatches.pad, down, across);
  const swatch = picture(width, height);
  swatch.setAttribute("aria-hidden", "true");
  const chosen = marker(swatches.pad, down, across, swatch);
  const here = marker(grid.pad, rows, columns);
  const there = marker(view, rows, columns);
  over(0, 0);
  const mark = () => {
    const { row, column, side } = extent();
    const text = now()[cell[0] * columns + cell[1]];
    here(row, column, { side, text, line: STYLES[values.brush] });
    there(row, column, { side });
  };
  const show = () => {
    for (const [place, code] of now().entries()) grid.stamp(patches[code], place);
    const place = order.indexOf(values.code);
    chosen(Math.floor(place / across), place % across);
    swatch.getContext("2d").putImageData(patches[values.code], 0, 0);
    mark();
  };

  if (names.length > 1) frame.menu("image", { label: "image", options: names });
  frame.steps("code", { label: "code", items: order, texts: order.map(String) });
  frame.choice("brush", { label: "brush", options: BRUSHES });
  if ("shows" in values)
    frame.choice("shows", { label: "picture", options: ["decoded", "original"] });
  frame.buttons([["Undo", undo], ["Reset", reset]]);

  const says = () => {
    const changed = now().filter((code, i) => code !== starts[image][i]).length;
    return (
      `Left the codes of ${names[image]}${changed ? `, ${changed} of ${now().length} changed` : ""}; ` +
      `right ${values.shows ? "the image that was encoded" : "the decoder's picture"}. The cell in ` +
      `row ${cell[0]}, column ${cell[1]} holds code ${now()[cell[0] * columns + cell[1]]}; the ` +
      `brush paints code ${values.code}.`
    );
  };
  const draw = frame.steady(async () => {
    let answer;
    if (values.shows) canvas.getContext("2d").putImageData(originals[image], 0, 0);
    else {
      answer = await frame.ask("decode", [{ data: now(), shape: [1, rows, columns] }]);
      if (values.shows) return; // the reader has moved on, and is drawn for next
      paint(canvas, answer.data, answer.shape);
    }
    frame.say(says());
    frame.painted(answer);
  });
  frame.changed = (key) => {
    if (values.image !== image) {
      past.push([image, values.codes]);
      image = values.image;
      values.codes = null;
    }
    if (values.brush !== PICK) painting = values.brush;
    show();
    if (key === "code" || key === "brush") frame.say(says());
    else draw();
  };

  // The kernel sets the codes too. What it says again belongs to the image before.
  const heard = () => JSON.stringify(model.get("values").codes ?? null);
  let known = heard();
  frame.holds.codes = (codes) => {
    if (JSON.stringify(codes) === known) return;
    const fits =
      codes === null ||
      (Array.isArray(codes) &&
        codes.length === rows * columns &&
        codes.every((code) => Number.isInteger(code) && code >= 0 && code < order.length));
    if (fits) {
      keep();
      kept = false;
    }
    put(fits ? codes : values.codes);
    if (!fits)
      frame.notice(
        `codes: ${rows * columns} whole numbers from 0 to ${order.length - 1} are needed, so they stay.`,
      );
  };
  frame.listen("change:values", () => (known = heard()));
  show();
}

export default {
  render({ model, el }) {
    const frame = new Frame(model, el, "code_painter");
    painter(frame);
    frame.showStill();
    frame.changed();
    return () => frame.close();
  },
};
