// Sweep: pictures rendered beforehand, for each value of one or two parameters.

export default {
  render({ model, el }) {
    const frame = new Frame(model, el, "sweep");
    const { parameters, says, layout, width } = frame.spec;
    const canvas = picture(layout.width, layout.height);
    // A figure has more pixels than the page gives it, and would look ragged without smoothing.
    canvas.classList.toggle("gdm-pixels", layout.width < width);
    frame.stage.append(canvas);
    for (const { name, ...parts } of parameters) frame.steps(name, { label: name, ...parts });

    let frames;
    frame.changed = frame.steady(async () => {
      frames ??= await unpack(model.get("sheet"), layout);
      const place = ({ name, items }) => items.indexOf(frame.values[name]);
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
