// Sweep: pictures rendered beforehand, for each value of one or two parameters.

/** A menu whose value is the item itself, as a slider's is. */
function itemMenu(frame, key, { label, items, texts }) {
  const id = unique();
  const select = h("select", { id }, ...texts.map((text, i) => h("option", { value: i }, text)));
  select.addEventListener("change", () => frame.set(key, items[select.value]));
  frame.controls[key] = (value) => (select.value = items.indexOf(value));
  frame.controls[key](frame.values[key]);
  frame.row(label, id, select);
}

export default {
  render({ model, el }) {
    const frame = new Frame(model, el, "sweep");
    const { parameters, says, layout, width } = frame.spec;
    const canvas = picture(layout.width, layout.height);
    // A figure has more pixels than the page gives it, and would look ragged without smoothing.
    canvas.classList.toggle("gdm-pixels", layout.width < width);
    frame.stage.append(canvas);
    for (const { name, items, texts, menu } of parameters) {
      const parts = { label: name, items, texts };
      if (menu) itemMenu(frame, name, parts);
      else frame.steps(name, parts);
    }

    /** The place of a value; one that was not rendered, which the kernel set, goes to the nearest. */
    const place = ({ name, items, texts }) => {
      const value = frame.values[name];
      if (items.includes(value)) return items.indexOf(value);
      const far = items.map((item) => Math.abs(item - value));
      const nearest = Math.max(0, far.indexOf(Math.min(...far)));
      frame.values[name] = items[nearest];
      frame.controls[name](items[nearest]);
      frame.notice(`There is no picture at ${name} ${value}: ${texts[nearest]} is shown.`);
      return nearest;
    };
    let frames;
    frame.changed = frame.steady(async () => {
      frames ??= await unpack(model.get("sheet"), layout);
      const at = parameters.reduce((sum, one) => sum * one.items.length + place(one), 0);
      frames.show(canvas, at);
      frame.say(says[at]);
      frame.painted();
    });
    frame.showStill();
    frame.changed();
    return () => frame.close();
  },
};
