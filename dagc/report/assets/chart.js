// Draws a window of a run: a lane a party, time from left to right. Knows no events; chart_view.js does.

const AXIS = 26;

/** How high a lane of the overview is. */
const overviewRow = (run) => Math.max(2, Math.min(5, Math.floor(60 / run.lanes.length)));

/** The colours of the style sheet, read anew when the theme changes. */
function readPalette(element) {
  const style = getComputedStyle(element);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    executions: Array.from({ length: 8 }, (_, i) => colour(`execution-${i}`)),
    onExecution: colour("on-execution"),
    ink: colour("ink"), muted: colour("muted"), line: colour("line"), faint: colour("faint"),
    wait: colour("wait"), hatch: colour("hatch"), busy: colour("busy"), accent: colour("accent"),
    surface: colour("surface"), theme: Number(colour("theme")),
    text: style.getPropertyValue("--text"), code: style.getPropertyValue("--code"),
  };
}

/**
 * Where everything stands, for a chart `width` CSS pixels wide. Lanes are lower the more there are, and those of parties
 * that run nothing (the driver) are half as high.
 */
function layoutOf(run, width, measure) {
  const count = run.lanes.length;
  const narrow = width < 620;
  const high = count <= 6 ? 30 : count <= 12 ? 24 : count <= 24 ? 18 : 13;
  const label = narrow ? 18 : 0;
  const gap = count <= 12 ? 10 : 5;
  const gutter = narrow ? 0 : Math.min(230, Math.max(96, 74 + Math.max(...run.lanes.map((lane) => measure(lane.name)))));
  let y = AXIS + 6;
  const lanes = run.lanes.map((lane) => {
    const bar = lane.ops.some(([kind]) => kind === "run") ? high : Math.max(10, Math.round(high / 2));
    const top = y + label;
    y = top + bar + gap;
    return { top, bar, above: top - label };
  });
  return { width, height: y - gap + 6, narrow, lanes, gutter, plot: width - gutter };
}

/** A pattern of thin diagonal lines; made for each theme and pixel ratio. */
function hatching(context, colour, ratio) {
  const size = Math.round(6 * ratio);
  const tile = document.createElement("canvas");
  tile.width = tile.height = size;
  const pen = tile.getContext("2d");
  pen.strokeStyle = colour;
  pen.lineWidth = ratio;
  for (const shift of [-size, 0, size]) {
    pen.beginPath();
    pen.moveTo(shift - 1, size + 1);
    pen.lineTo(shift + size + 1, -1);
    pen.stroke();
  }
  const pattern = context.createPattern(tile, "repeat");
  pattern.setTransform(new DOMMatrix().scale(1 / ratio));
  return pattern;
}

/** Ticks 1, 2 or 5 times a power of ten apart, about `pixels` from each other. */
function tickStep(length, plot, pixels) {
  const least = (length * pixels) / plot;
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].find((factor) => factor * power >= least) * power;
}

function drawAxis(pen, palette, layout, run, view) {
  const step = tickStep(view.to - view.from, layout.plot, layout.narrow ? 84 : 110);
  const scale = layout.plot / (view.to - view.from);
  pen.font = `11px ${palette.text}`;
  pen.textBaseline = "middle";
  pen.textAlign = "left";
  // What comes after the executions that were left out stands further left than it was.
  const { at, moved } = run.cut ?? { at: Infinity, moved: 0 };
  const largest = view.to + (view.to > at ? moved : 0);
  for (const [from, to, shift] of [[view.from, Math.min(at, view.to), 0], [Math.max(at, view.from), view.to, moved]]) {
    for (let k = Math.ceil((from + shift) / step); k * step <= to + shift; k++) {
      const x = Math.round(layout.gutter + (k * step - shift - view.from) * scale) + 0.5;
      pen.strokeStyle = palette.line;
      pen.lineWidth = 1;
      pen.beginPath();
      pen.moveTo(x, 4);
      pen.lineTo(x, layout.height);
      pen.stroke();
      const label = axisLabel(k * step, step, Math.max(largest, step));
      if (x + 4 + pen.measureText(label).width < layout.width) {
        pen.fillStyle = palette.muted;
        pen.fillText(label, x + 5, 11);
      }
    }
  }
}

/** What every op of a lane looks like: how high its bar is, and what stands in it. */
function looksOf(lane) {
  return lane.ops.map(([kind, target]) => {
    const name = target.startsWith(`${lane.name}.`) ? target.slice(lane.name.length + 1) : target;
    return { kind, name, height: kind === "run" ? 1 : kind === "join" ? 0.62 : 0.34 };
  });
}

const labelOf = (lane, looks, i) => `${looks[opOf(lane, i)].name} ${executionOf(lane, i)}`;

/**
 * One lane. Spans under a pixel are not drawn one by one but added up by the column of pixels, whose shade then says how
 * much of it was work: so a frame costs what is visible, whatever the number of spans. Returns what was counted.
 */
function drawLane(pen, palette, layout, run, index, view, marks) {
  const lane = run.lanes[index];
  const looks = looksOf(lane);
  const { gutter, plot } = layout;
  const { top, bar } = layout.lanes[index];
  const scale = plot / (view.to - view.from);
  const at = (time) => gutter + (time - view.from) * scale;
  const columns = Math.ceil(plot) + 1;
  const dense = [new Float32Array(columns), new Float32Array(columns)];
  let drawn = 0, busy = 0, any = false;
  const runs = [], others = [];
  for (let i = firstAbove(lane.reach, view.from); i < lane.size && lane.begin[i] < view.to; i++) {
    const begin = Math.max(view.from, lane.begin[i]);
    const end = Math.min(view.to, lane.end[i]);
    const ready = Math.min(end, Math.max(begin, lane.ready[i]));
    if (end < begin) continue;
    drawn++;
    busy += end - ready;
    const look = looks[opOf(lane, i)];
    if ((ready - begin) * scale >= 1) {
      pen.fillStyle = palette.wait;
      pen.fillRect(at(begin), top, (ready - begin) * scale, bar);
      if ((ready - begin) * scale >= 3) {
        pen.fillStyle = marks.hatch;
        pen.fillRect(at(begin), top, (ready - begin) * scale, bar);
      }
    }
    if ((end - ready) * scale < 1) {
      dense[look.kind === "run" ? 0 : 1][Math.floor((ready - view.from) * scale)] += (end - ready) * scale;
      any = true;
    } else (look.kind === "run" ? runs : others).push(i);
  }
  if (any) {
    pen.fillStyle = palette.busy;
    shade(pen, dense[1], gutter, top + bar * 0.33, bar * 0.34);
    shade(pen, dense[0], gutter, top, bar);
  }
  // Names only where most runs of the lane have room for them: a few among numbers look like something special.
  const fits = (i) => marks.measure(labelOf(lane, looks, i)) <= (lane.end[i] - lane.ready[i]) * scale - 10;
  const named = runs.filter(fits).length * 2 > runs.length;
  for (const i of [...others, ...runs]) drawSpan(pen, palette, layout, lane, i, marks, looks, named, layout.lanes[index], at);
  return { drawn, busy: busy / (view.to - view.from) };
}

/** A strip whose opacity is, pixel by pixel, a share of one. Eight shades, so that what is alike is one rectangle. */
function shade(pen, shares, left, top, height) {
  const level = (x) => Math.ceil(8 * Math.min(1, shares[x]));
  for (let x = 0, next; x < shares.length; x = next) {
    next = x + 1;
    if (!shares[x]) continue;
    while (next < shares.length && level(next) === level(x)) next++;
    pen.globalAlpha = 0.15 + 0.1 * level(x);
    pen.fillRect(left + x, top, next - x, height);
  }
  pen.globalAlpha = 1;
}

function drawSpan(pen, palette, layout, lane, i, marks, looks, named, { top, bar }, at) {
  const look = looks[opOf(lane, i)];
  const execution = executionOf(lane, i);
  const left = Math.max(layout.gutter - 4, at(lane.ready[i]));
  const width = Math.min(layout.width + 4, at(lane.end[i])) - left;
  const height = Math.max(3, bar * look.height);
  const y = top + (bar - height) / 2;
  pen.globalAlpha = marks.pinned !== null && marks.pinned !== execution ? 0.22 : 1;
  pen.fillStyle = palette.executions[execution % palette.executions.length];
  pen.beginPath();
  // A pixel between neighbours keeps them apart, where there is room for it.
  pen.roundRect(left, y, width > 4 ? width - 1 : width, height, width > 6 ? 2.5 : 0);
  pen.fill();
  if (look.kind === "run" && width > 16) {
    const visible = Math.max(left, layout.gutter);
    const room = Math.min(left + width, layout.width) - visible - 9;
    const candidates = named ? [labelOf(lane, looks, i), `${execution}`] : [`${execution}`];
    const text = candidates.find((text) => marks.measure(text) <= room);
    if (text) {
      pen.fillStyle = palette.onExecution;
      pen.font = `11px ${palette.text}`;
      pen.textBaseline = "middle";
      pen.textAlign = "left";
      pen.fillText(text, visible + 5, top + bar / 2 + 0.5);
    }
  }
  if (marks.followed === execution) {
    pen.strokeStyle = palette.ink;
    pen.lineWidth = marks.span && marks.span.lane === lane && marks.span.i === i ? 2 : 1;
    pen.stroke();
  }
  pen.globalAlpha = 1;
}

/** Lines along which one execution goes: from each send to the receives of its message. */
function drawPath(pen, palette, layout, run, links, view, execution) {
  const scale = layout.plot / (view.to - view.from);
  const at = (time) => layout.gutter + (time - view.from) * scale;
  const spanOf = (index, kind, target) => {
    const lane = run.lanes[index];
    const op = lane.ops.findIndex(([found, name]) => found === kind && name === target);
    const row = lane.executions.indexOf(execution);
    return op < 0 || row < 0 ? -1 : lane.place[row * lane.ops.length + op];
  };
  pen.strokeStyle = palette.ink;
  pen.lineWidth = 1.25;
  pen.globalAlpha = 0.75;
  for (const [channel, writer, readers] of links) {
    const sent = spanOf(writer, "send", channel);
    for (const reader of sent < 0 ? [] : readers) {
      const received = spanOf(reader, "recv", channel);
      if (received < 0) continue;
      const [x0, x1] = [at(run.lanes[writer].end[sent]), at(run.lanes[reader].end[received])];
      if (Math.max(x0, x1) < layout.gutter || Math.min(x0, x1) > layout.width) continue;
      const down = reader > writer;
      const y0 = layout.lanes[writer].top + (down ? layout.lanes[writer].bar : 0);
      const y1 = layout.lanes[reader].top + (down ? 0 : layout.lanes[reader].bar);
      pen.beginPath();
      pen.moveTo(x0, y0);
      pen.bezierCurveTo(x0, (y0 + y1) / 2, x1, (y0 + y1) / 2, x1, y1);
      pen.stroke();
    }
  }
  pen.globalAlpha = 1;
}

function drawCut(pen, palette, layout, run, view) {
  if (!run.cut) return;
  const x = layout.gutter + ((run.cut.at - view.from) * layout.plot) / (view.to - view.from);
  if (x < layout.gutter || x > layout.width) return;
  const text = `${grouped(run.cut.left_out)} executions left out`;
  pen.font = `11px ${palette.text}`;
  pen.textAlign = "left";
  pen.textBaseline = "middle";
  pen.fillStyle = palette.surface;
  pen.fillRect(x + 5, AXIS - 7, pen.measureText(text).width + 8, 14);
  pen.fillStyle = palette.muted;
  pen.fillText(text, x + 9, AXIS);
}

/**
 * The names of the parties and how busy each is in the window, beside the lanes, or over them where it is narrow. The
 * stripe is the actor's colour in the drawing of the graph.
 */
function drawNames(pen, palette, layout, run, hues, shares) {
  run.lanes.forEach((lane, index) => {
    const { top, bar, above } = layout.lanes[index];
    const y = layout.narrow ? (above + top) / 2 : top + bar / 2;
    if (hues[index]) {
      pen.fillStyle = hues[index][palette.theme];
      pen.fillRect(0, y - 6, 3, 12);
    }
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    pen.font = `11px ${palette.text}`;
    pen.fillStyle = palette.muted;
    pen.fillText(`${Math.round(100 * shares[index])} %`, layout.narrow ? layout.width : layout.gutter - 12, y + 0.5);
    pen.textAlign = "left";
    pen.font = `12px ${palette.code}`;
    pen.fillStyle = palette.ink;
    pen.fillText(lane.name, 9, y + 0.5, (layout.narrow ? layout.width : layout.gutter) - 62);
  });
}

/** The whole chart. `marks`: what is pointed at. Returns the spans of the window, and how busy each lane is in it. */
function drawChart(pen, palette, layout, run, { links, hues }, view, marks) {
  pen.clearRect(0, 0, layout.width, layout.height);
  drawAxis(pen, palette, layout, run, view);
  pen.fillStyle = palette.faint;
  for (const { top, bar } of layout.lanes) pen.fillRect(layout.gutter, top, layout.plot, bar);
  pen.save();
  pen.beginPath();
  pen.rect(layout.gutter, 0, layout.plot, layout.height);
  pen.clip();
  const lanes = run.lanes.map((_, index) => drawLane(pen, palette, layout, run, index, view, marks));
  if (marks.followed !== null) drawPath(pen, palette, layout, run, links, view, marks.followed);
  drawCut(pen, palette, layout, run, view);
  pen.restore();
  drawNames(pen, palette, layout, run, hues, lanes.map((lane) => lane.busy));
  return { drawn: lanes.reduce((sum, lane) => sum + lane.drawn, 0), busy: lanes.map((lane) => lane.busy) };
}

/** The whole run as strips of work, a lane each; drawn once, since only the window over it moves. */
function drawOverview(pen, palette, width, run) {
  const scale = width / (run.to - run.from), height = overviewRow(run);
  run.lanes.forEach((lane, index) => {
    const columns = new Float32Array(Math.ceil(width) + 1);
    for (let i = 0; i < lane.size; i++) {
      const from = (lane.ready[i] - run.from) * scale, to = (lane.end[i] - run.from) * scale;
      for (let x = Math.floor(from); x < to; x++) columns[x] += Math.min(to, x + 1) - Math.max(from, x);
    }
    pen.fillStyle = palette.busy;
    shade(pen, columns, 0, 3 + index * height, height - (height > 3 ? 1 : 0));
  });
}
