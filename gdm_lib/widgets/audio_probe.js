// AudioProbe: clips to listen to, with their waveform and their spectrogram.

/** 16-bit samples as a WAV file, which every browser plays. */
function wavFile(samples, rate) {
  const view = new DataView(new ArrayBuffer(44));
  const text = (at, word) => [...word].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // plain samples
  view.setUint16(22, 1, true); // mono
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  return new Blob([view, samples], { type: "audio/wav" });
}

/** Draws waveform and spectrogram of a clip into `c`; returns where, in CSS pixels. */
function drawClip(c, spec, samples, levels, { width, height, ratio }) {
  const { margin, wave, ticks, colours, shades, floor, layout, rate, window: span, hop } = spec;
  const seconds = Math.max(...spec.lengths) / rate;
  const left = margin.left;
  const across = width - left - margin.right;
  const inner = height - margin.top - margin.gap - margin.bottom;
  const upper = { top: margin.top, height: wave * inner };
  const lower = { top: margin.top + wave * inner + margin.gap, height: (1 - wave) * inner };
  const foot = lower.top + lower.height;

  c.fillStyle = colours.paper;
  c.fillRect(0, 0, width, height);

  // Each column of the waveform goes from its least to its largest sample.
  c.fillStyle = colours.ink;
  const thin = 1 / ratio;
  const middle = upper.top + upper.height / 2;
  for (let x = 0; x < across; x += thin) {
    const from = Math.floor((x / across) * seconds * rate);
    const to = Math.min(samples.length, Math.max(from + 1, ((x + thin) / across) * seconds * rate));
    let [low, high] = [32767, -32767];
    for (let i = from; i < to; i++) {
      low = Math.min(low, samples[i]);
      high = Math.max(high, samples[i]);
    }
    if (low > high) continue; // the clip has ended
    const half = upper.height / 2 / 32767;
    c.fillRect(left + x, middle - high * half, thin, Math.max(1, (high - low) * half));
  }

  const image = new ImageData(layout.width, layout.height);
  levels.forEach((level, i) => image.data.set([...shades[level], 255], 4 * i));
  const small = h("canvas", { width: layout.width, height: layout.height });
  small.getContext("2d").putImageData(image, 0, 0);
  // A column belongs to its middle, and so does a row.
  const column = (hop / rate / seconds) * across;
  const row = lower.height / (layout.height - 1);
  c.save();
  c.beginPath();
  c.rect(left, lower.top, across, lower.height);
  c.clip();
  c.drawImage(small, left - column / 2, lower.top - row / 2, column * layout.width, row * layout.height);
  c.restore();

  const strip = c.createLinearGradient(0, foot, 0, lower.top);
  shades.forEach((shade, i) => strip.addColorStop(i / (shades.length - 1), `rgb(${shade})`));
  c.fillStyle = strip;
  c.fillRect(width - margin.right + 10, lower.top, 10, lower.height);

  c.strokeStyle = "#c9c6bc";
  c.strokeRect(left, upper.top, across, upper.height);
  c.strokeRect(left, lower.top, across, lower.height);
  c.fillStyle = colours.ink;
  c.font = "12px sans-serif";
  const write = (text, x, y, align, baseline) => {
    [c.textAlign, c.textBaseline] = [align, baseline];
    c.fillText(text, x, y);
  };
  for (const [at, text] of ticks.time)
    write(text, left + (at / seconds) * across, foot + 6, "center", "top");
  for (const [at, text] of ticks.wave)
    write(text, left - 7, middle - (at * upper.height) / 2, "right", "middle");
  for (const [at, text] of ticks.pitch)
    write(text, left - 7, foot - ((2000 * at) / rate) * lower.height, "right", "middle");
  write("time, s", left + across, height - 4, "right", "bottom");
  write("kHz", 4, lower.top, "left", "top");
  write("0 dB", width - margin.right + 24, lower.top, "left", "top");
  write(digits(floor, 0), width - margin.right + 24, foot, "left", "bottom");
  return { left, across, seconds, plots: [upper, lower] };
}

export default {
  render({ model, el }) {
    const frame = new Frame(model, el, "audio");
    const { spec } = frame;
    const { names, lengths, rate, layout, floor, colours } = spec;
    const all = new Int16Array(octets(model.get("samples")).slice().buffer);
    const starts = lengths.map((_, i) => lengths.slice(0, i).reduce((sum, n) => sum + n, 0));
    const clips = lengths.map((length, i) => all.subarray(starts[i], starts[i] + length));
    const longest = Math.max(...lengths) / rate;
    const places = longest < 0.5 ? 3 : 2;
    const now = () => frame.values.clip || 0;

    const pad = h("div", {
      class: "gdm-pad",
      tabindex: "0",
      role: "group",
      "data-gdm-pad": true,
      "aria-label": "Waveform and spectrogram: click, drag, or use the arrow keys to move in time",
    });
    frame.stage.append(pad);
    if (names.length > 1) frame.menu("clip", { label: "clip", options: names });
    const step = 10 ** -places;
    const end = Math.round(longest / step) * step;
    frame.slider("position", { label: "time, s", min: 0, max: end, step, places });

    // An element rather than an audio context: it seeks, says where it is, and needs no permission.
    const audio = new Audio();
    const addresses = new Map();
    const load = () => {
      if (!addresses.has(now()))
        addresses.set(now(), URL.createObjectURL(wavFile(clips[now()], rate)));
      if (audio.src !== addresses.get(now())) audio.src = addresses.get(now());
      audio.currentTime = frame.values.position;
    };
    let playing = false;
    let request = 0;
    let own = false; // whether it is the sound that moves the slider
    const go = (position) => {
      own = true;
      frame.controls.position(position);
      frame.set("position", position);
      own = false;
    };
    const pause = () => {
      playing = false;
      audio.pause();
      cancelAnimationFrame(request);
      button.textContent = "Play";
      frame.status.setAttribute("aria-live", "polite");
    };
    const follow = () => {
      const over = audio.ended;
      if (over) pause();
      go(over ? lengths[now()] / rate : Math.min(audio.currentTime, lengths[now()] / rate));
      if (playing) request = requestAnimationFrame(follow);
    };
    const begin = async () => {
      if (frame.values.position >= lengths[now()] / rate - step) go(0);
      load();
      playing = true;
      button.textContent = "Pause";
      frame.status.setAttribute("aria-live", "off"); // a screen reader would talk over the sound
      try {
        await audio.play();
        if (playing) follow();
      } catch (error) {
        if (!playing) return; // paused before it began
        pause();
        frame.notice(`This browser does not play the sound: ${error.message}`);
      }
    };
    const [button] = frame.buttons([["Play", () => (playing ? (pause(), frame.changed()) : begin())]]);

    let sheet;
    let levels; // of the clip that is drawn
    let drawn = -1;
    let size;
    let box;
    const still = h("canvas"); // all but the cursor
    const canvas = fineCanvas(frame, pad, (width, height, ratio) => {
      size = { width, height, ratio };
      drawn = -1;
      draw();
    });
    const reading = () => {
      const { position } = frame.values;
      const column = Math.min(layout.width - 1, Math.round((position * rate) / spec.hop));
      let [loudest, bin] = [0, 0];
      for (let k = 0; k < layout.height; k++) {
        const level = levels[(layout.height - 1 - k) * layout.width + column];
        if (level > loudest) [loudest, bin] = [level, k];
      }
      const what = loudest
        ? `loudest near ${digits((bin * rate) / spec.window / 1000)} kHz, ${digits(loudest + floor, 0)} dB`
        : "silence";
      const whole = digits(lengths[now()] / rate, places);
      return `${names[now()]}, at ${digits(position, places)} of ${whole} s: ${what}.`;
    };
    const draw = frame.steady(async () => {
      if (!size) return;
      sheet ??= await unpack(model.get("sheet"), layout);
      const c = canvas.getContext("2d");
      if (drawn !== now()) {
        levels = sheet.levels(now());
        [still.width, still.height] = [canvas.width, canvas.height];
        const s = still.getContext("2d");
        s.scale(size.ratio, size.ratio);
        box = drawClip(s, spec, clips[now()], levels, size);
        drawn = now();
      }
      c.setTransform(1, 0, 0, 1, 0, 0);
      c.drawImage(still, 0, 0);
      c.scale(size.ratio, size.ratio);
      c.fillStyle = colours.model;
      const x = box.left + (frame.values.position / box.seconds) * box.across;
      for (const { top, height } of box.plots) c.fillRect(x - 1, top, 2, height);
      frame.say(playing ? `${names[now()]} plays.` : reading());
      frame.painted();
    });
    frame.changed = (key) => {
      if (key === "clip" && playing) pause();
      const last = lengths[now()] / rate;
      const held = Math.min(last, Math.max(0, Number(frame.values.position) || 0));
      if (held !== frame.values.position) {
        if (frame.values.position > last + step)
          frame.notice(`${names[now()]} lasts ${digits(last, places)} s.`);
        frame.values.position = held;
        frame.controls.position(held);
      }
      if (playing && !own) audio.currentTime = held;
      draw();
    };

    const seek = (position) => {
      const held = Math.min(lengths[now()] / rate, Math.max(0, position));
      frame.controls.position(held);
      frame.set("position", held);
    };
    const drag = (event) => {
      const from = pad.getBoundingClientRect().left + box.left;
      seek(((event.clientX - from) / box.across) * box.seconds);
    };
    pad.addEventListener("pointerdown", (event) => {
      if (!box) return;
      pad.setPointerCapture(event.pointerId);
      drag(event);
    });
    pad.addEventListener("pointermove", (event) => {
      if (pad.hasPointerCapture(event.pointerId)) drag(event);
    });
    pad.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (event.key === "Home") seek(0);
      else if (event.key === "End") seek(longest);
      else if (by) seek(frame.values.position + (by * longest) / (event.shiftKey ? 10 : 100));
      else return;
      event.preventDefault();
    });
    frame.undo.push(() => {
      pause();
      audio.removeAttribute("src");
      for (const address of addresses.values()) URL.revokeObjectURL(address);
    });
    frame.showStill();
    frame.changed();
    return () => frame.close();
  },
};
