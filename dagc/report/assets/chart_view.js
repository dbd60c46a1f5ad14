// The chart that one can move about in: mouse, wheel, fingers, keys and buttons change `view`, and a frame draws it.

const SHORTEST = 50; // ns: below this there is nothing to see

function startChart(data) {
  const find = (selector) => document.querySelector(selector);
  const box = find("#chart"), canvas = find("#spans"), overview = find("#overview");
  const tip = find("#tip"), said = find("#said");
  const pen = canvas.getContext("2d"), stripPen = overview.getContext("2d");
  const runs = { measured: runOf(data.measured), predicted: runOf(data.predicted) };
  const widths = new Map();
  const measured = (font) => (text) => {
    const key = font + text;
    if (!widths.has(key)) {
      pen.font = font;
      widths.set(key, pen.measureText(text).width);
    }
    return widths.get(key);
  };
  let name = runs.measured ? "measured" : "predicted";
  let run = runs[name];
  if (!run) return null;
  let palette, layout, hatch, strip, view, frame = 0;
  let hovered = null, chosen = null, pinned = null; // spans {lane, index, i}, and an execution

  function resize() {
    const ratio = window.devicePixelRatio || 1;
    palette = readPalette(canvas);
    layout = layoutOf(run, box.clientWidth, measured(`12px ${palette.code}`));
    const size = (element, context, width, height) => {
      element.width = Math.round(width * ratio);
      element.height = Math.round(height * ratio);
      // Not a height: on paper the chart is as wide as the paper.
      element.style.aspectRatio = `${width} / ${height}`;
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
    };
    size(canvas, pen, layout.width, layout.height);
    size(overview, stripPen, layout.width, run.lanes.length * overviewRow(run) + 5);
    hatch = hatching(pen, palette.hatch, ratio);
    strip = document.createElement("canvas");
    strip.width = overview.width;
    strip.height = overview.height;
    const hidden = strip.getContext("2d");
    hidden.setTransform(ratio, 0, 0, ratio, 0, 0);
    drawOverview(hidden, palette, layout.width, run);
    draw(); // at once: a new size has emptied the canvas, and who prints does not wait for a frame
  }

  function redraw() {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      draw();
    });
  }

  function draw() {
    const span = hovered ?? chosen;
    const followed = span ? executionOf(span.lane, span.i) : pinned;
    const marks = { hatch, pinned, followed, span, measure: measured(`11px ${palette.text}`) };
    const { drawn, busy } = drawChart(pen, palette, layout, run, data, view, marks);
    drawWindow();
    const within = run.executions.filter((_, row) => run.begun[row] < view.to && run.ended[row] > view.from);
    const first = within[0], last = within[within.length - 1];
    const actors = run.lanes.map((_, i) => i).filter((i) => data.hues[i]);
    const most = actors.reduce((best, i) => (busy[i] > busy[best] ? i : best));
    const mean = actors.reduce((sum, i) => sum + busy[i], 0) / actors.length;
    const tell = (key, text) => (find(`#stat-${key}`).textContent = text);
    tell("window", duration(view.to - view.from));
    tell("executions", within.length ? `${grouped(first)}${last > first ? ` \u2013 ${grouped(last)}` : ""}` : "none");
    tell("spans", grouped(drawn));
    tell("busiest", `${run.lanes[most].name} ${percent(Math.min(1, busy[most]))}`);
    tell("mean", percent(Math.min(1, mean)));
    // For whoever drives the page from outside: what is drawn, and where its lanes are.
    const lanes = JSON.stringify(layout.lanes.map(({ top, bar }) => top + bar / 2));
    Object.assign(canvas.dataset, { drawn, run: name, from: view.from, to: view.to, gutter: layout.gutter, lanes });
    canvas.dataset.followed = followed ?? "";
  }

  function drawWindow() {
    const { width, height } = overview;
    stripPen.save();
    stripPen.setTransform(1, 0, 0, 1, 0, 0);
    stripPen.clearRect(0, 0, width, height);
    stripPen.drawImage(strip, 0, 0);
    const at = (time) => ((time - run.from) / (run.to - run.from)) * width;
    const [left, right] = [at(view.from), Math.max(at(view.from) + 3, at(view.to))];
    stripPen.fillStyle = palette.surface;
    stripPen.globalAlpha = 0.55;
    stripPen.fillRect(0, 0, left, height);
    stripPen.fillRect(right, 0, width - right, height);
    stripPen.globalAlpha = 1;
    stripPen.strokeStyle = palette.accent;
    stripPen.lineWidth = Math.max(1, width / layout.width);
    stripPen.strokeRect(left + 1, 1, right - left - 2, height - 2);
    stripPen.restore();
  }

  /** Whatever the window is changed to, it lies within the run and shows something. */
  function look(from, to) {
    const whole = run.to - run.from;
    const length = Math.min(whole, Math.max(SHORTEST, to - from));
    const begin = Math.min(run.to - length, Math.max(run.from, from));
    view = { from: begin, to: begin + length };
    redraw();
  }
  const timeAt = (x) => view.from + ((x - layout.gutter) / layout.plot) * (view.to - view.from);
  const pan = (share) => look(view.from + share * (view.to - view.from), view.to + share * (view.to - view.from));
  const zoom = (factor, time = (view.from + view.to) / 2) =>
    look(time - (time - view.from) * factor, time + (view.to - time) * factor);

  const commands = {
    in: () => zoom(1 / 1.6),
    out: () => zoom(1.6),
    steady: () => look(...steadyWindow(run, layout.width)),
    fill: () => look(...fillWindow(run, layout.width)),
    all: () => look(run.from, run.to),
  };

  /** Another run, looked at in the same way: two windows of one length, each in the steady part of its run. */
  function show(which) {
    if (!runs[which] || which === name) return;
    const length = view.to - view.from;
    name = which;
    run = runs[name];
    hovered = chosen = pinned = null;
    hideTip();
    resize();
    const [from, to] = steadyWindow(run, layout.width);
    look((from + to - length) / 2, (from + to + length) / 2);
    for (const button of document.querySelectorAll("button[data-run]"))
      button.setAttribute("aria-pressed", `${button.dataset.run === name}`);
  }

  function spanAt(x, y) {
    const index = layout.lanes.findIndex(({ top, bar }) => y >= top - 3 && y <= top + bar + 3);
    if (index < 0 || x < layout.gutter) return null;
    const lane = run.lanes[index];
    const slack = (2 / layout.plot) * (view.to - view.from);
    const time = timeAt(x);
    let best = null;
    for (let i = firstAbove(lane.reach, time - slack); i < lane.size && lane.begin[i] <= time + slack; i++) {
      if (lane.end[i] < time - slack) continue;
      // What lies under the pointer before what is near it, and work before waiting, as they are drawn.
      const inside = lane.begin[i] <= time && lane.end[i] >= time ? 2 : 0;
      const worth = inside + (lane.ready[i] <= time + slack ? 1 : 0);
      if (!best || worth >= best.worth) best = { lane, index, i, worth };
    }
    return best;
  }

  function describe({ lane, i }) {
    const [kind, target] = lane.ops[opOf(lane, i)];
    const waited = lane.ready[i] - lane.begin[i], worked = lane.end[i] - lane.ready[i];
    const { at, moved } = run.cut ?? { at: Infinity, moved: 0 };
    const facts = [
      ["execution", grouped(executionOf(lane, i))],
      ["party", lane.name],
      ["begin", moment(lane.begin[i] + (lane.begin[i] >= at ? moved : 0) - run.from)],
      ["duration", duration(lane.end[i] - lane.begin[i])],
    ];
    const doing = { recv: "taking", send: "writing", join: "collective" }[kind];
    if (waited) facts.push(["waiting", duration(waited)], [doing, duration(worked)]);
    return { title: `${kind} ${target}`, facts };
  }

  function showTip(span, x, y) {
    const { title, facts } = describe(span);
    const heading = document.createElement("code");
    heading.textContent = title;
    const list = document.createElement("dl");
    for (const [term, value] of facts) {
      const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
      dt.textContent = term;
      dd.textContent = value;
      list.append(dt, dd);
    }
    tip.replaceChildren(heading, list);
    tip.hidden = false;
    const left = x + 14 + tip.offsetWidth > layout.width ? Math.max(0, x - 14 - tip.offsetWidth) : x + 14;
    tip.style.transform = `translate(${left}px, ${y + 16}px)`;
  }

  function hideTip() {
    tip.hidden = true;
  }

  function choose(index, i) {
    const lane = run.lanes[index];
    chosen = { lane, index, i };
    const length = view.to - view.from;
    if (lane.end[i] < view.from || lane.begin[i] > view.to) look(lane.begin[i] - length / 3, lane.begin[i] + (2 * length) / 3);
    const { title, facts } = describe(chosen);
    said.textContent = `${title}, ${facts.map((fact) => fact.join(" ")).join(", ")}`;
    const x = layout.gutter + ((Math.max(lane.begin[i], view.from) - view.from) / (view.to - view.from)) * layout.plot;
    showTip(chosen, x, layout.lanes[index].top + layout.lanes[index].bar - 8);
    redraw();
  }

  function step(lanes, spans) {
    const index = chosen ? (chosen.index + lanes + run.lanes.length) % run.lanes.length : 0;
    const lane = run.lanes[index];
    if (!lane.size) return;
    let i;
    if (chosen && !lanes) i = chosen.i + spans;
    else i = firstAbove(lane.reach, chosen ? chosen.lane.begin[chosen.i] : view.from);
    choose(index, Math.min(lane.size - 1, Math.max(0, i)));
  }

  const keys = {
    ArrowLeft: () => pan(-0.2), ArrowRight: () => pan(0.2), a: () => pan(-0.2), d: () => pan(0.2),
    "+": commands.in, "=": commands.in, w: commands.in, "-": commands.out, s: commands.out,
    Home: () => look(run.from, run.from + view.to - view.from), End: () => look(run.to - view.to + view.from, run.to),
    0: commands.all, ArrowDown: () => step(1, 0), ArrowUp: () => step(-1, 0), ".": () => step(0, 1), ",": () => step(0, -1),
    Enter: () => pin(chosen), Escape: () => ((chosen = pinned = null), hideTip(), redraw()),
  };

  /** Keep one execution apart from the others, until it is pinned again. */
  function pin(span) {
    const execution = span ? executionOf(span.lane, span.i) : null;
    pinned = pinned === execution ? null : execution;
    redraw();
  }

  // One pointer drags, two zoom. A click is a drag that went nowhere.
  const pointers = new Map();
  let travelled = 0;
  const place = (event) => {
    const { left, top } = canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    travelled = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    const before = pointers.get(event.pointerId);
    if (before) {
      const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
      const perPixel = (view.to - view.from) / layout.plot;
      pointers.set(event.pointerId, [x, y]);
      travelled += Math.abs(x - before[0]) + Math.abs(y - before[1]);
      if (!other) look(view.from - (x - before[0]) * perPixel, view.to - (x - before[0]) * perPixel);
      else zoom(Math.max(8, Math.abs(before[0] - other[0])) / Math.max(8, Math.abs(x - other[0])), timeAt(other[0]));
    }
    hovered = before && travelled > 4 ? null : spanAt(x, y);
    if (hovered) showTip(hovered, x, y);
    else hideTip();
    redraw();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (pointers.delete(event.pointerId) && travelled <= 4) pin(spanAt(...place(event)));
  });
  canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => ((hovered = null), hideTip(), redraw()));
  // The wheel belongs to the page until the chart has the focus, or Ctrl is held (which is also what a pinch sends).
  canvas.addEventListener("wheel", (event) => {
    const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY);
    if (!sideways && !event.ctrlKey && !event.metaKey && document.activeElement !== canvas) return;
    event.preventDefault();
    const lines = event.deltaMode ? 16 : 1;
    if (sideways) pan((event.deltaX * lines) / layout.plot);
    else zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY * lines)) * 0.008), timeAt(place(event)[0]));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const action = event.ctrlKey || event.metaKey || event.altKey ? null : keys[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });

  function centre(event) {
    if (!(event.buttons & 1)) return;
    const { left, width } = overview.getBoundingClientRect();
    const time = run.from + ((event.clientX - left) / width) * (run.to - run.from);
    look(time - (view.to - view.from) / 2, time + (view.to - view.from) / 2);
  }
  overview.addEventListener("pointerdown", (event) => (overview.setPointerCapture(event.pointerId), centre(event)));
  overview.addEventListener("pointermove", centre);

  for (const button of document.querySelectorAll("button[data-do]"))
    button.addEventListener("click", commands[button.dataset.do]);
  for (const button of document.querySelectorAll("button[data-run]")) {
    button.disabled = !runs[button.dataset.run];
    button.setAttribute("aria-pressed", `${button.dataset.run === name}`);
    button.addEventListener("click", () => show(button.dataset.run));
  }

  view = { from: run.from, to: run.to };
  resize();
  commands.steady();
  // In the next frame: a box that is resized while its size is reported is reported as a loop.
  new ResizeObserver(() => requestAnimationFrame(() => box.clientWidth !== layout.width && resize())).observe(box);
  return { repaint: resize, show, ...commands };
}
