// The data of the page as typed arrays. Its format is written by dagc/report/spans.py.

/** Zigzag LEB128 numbers in base64, one a call. */
function numbersIn(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  let at = 0;
  return () => {
    let value = 0, scale = 1, byte;
    do {
      byte = bytes[at++];
      value += (byte & 127) * scale; // not shifted: a shift would cut it to 32 bits
      scale *= 128;
    } while (byte & 128);
    return value % 2 ? -(value + 1) / 2 : value / 2;
  };
}

/**
 * A party: its spans by the time of their begin. Of span i: begin[i], ready[i] (the end of its waiting), end[i];
 * cell[i] is its place in the table of executions and ops, and place[] the way back. reach[i] is the latest end of
 * spans 0 to i: spans may overlap, and this is what says where the visible ones begin.
 */
function laneOf(party, executions) {
  const { ops } = party;
  const size = executions.length * ops.length;
  let begin = new Float64Array(size), ready = new Float64Array(size), end = new Float64Array(size);
  const next = numbersIn(party.spans);
  let clock = 0, sorted = true;
  for (let i = 0; i < size; i++) {
    begin[i] = clock + next();
    end[i] = clock = begin[i] + next();
    ready[i] = begin[i] + (ops[i % ops.length][2] ? next() : 0);
    if (i && begin[i] < begin[i - 1]) sorted = false;
  }
  const cell = Uint32Array.from({ length: size }, (_, i) => i);
  if (!sorted) {
    cell.sort((a, b) => begin[a] - begin[b]);
    [begin, ready, end] = [begin, ready, end].map((column) => Float64Array.from(cell, (i) => column[i]));
  }
  const place = new Uint32Array(size);
  const reach = new Float64Array(size);
  for (let i = 0, latest = -Infinity; i < size; i++) {
    place[cell[i]] = i;
    reach[i] = latest = Math.max(latest, end[i]);
  }
  return { name: party.name, ops, executions, size, begin, ready, end, cell, place, reach };
}

/** The least i for which sorted[i] is above x; sorted.length if there is none. */
function firstAbove(sorted, x) {
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] > x) high = middle;
    else low = middle + 1;
  }
  return low;
}

const opOf = (lane, i) => lane.cell[i] % lane.ops.length;
const executionOf = (lane, i) => lane.executions[Math.floor(lane.cell[i] / lane.ops.length)];

function runOf(data) {
  if (!data || !data.rows) return null;
  const executions = new Float64Array(data.rows);
  const next = numbersIn(data.numbers);
  for (let row = 0, execution = 0; row < data.rows; row++) executions[row] = execution += next();
  const lanes = data.parties.map((party) => laneOf(party, executions));
  // When each execution began and ended, over all parties.
  const begun = new Float64Array(data.rows).fill(Infinity), ended = new Float64Array(data.rows).fill(-Infinity);
  for (const lane of lanes) {
    for (let place = 0; place < lane.size; place++) {
      const row = Math.floor(place / lane.ops.length), i = lane.place[place];
      begun[row] = Math.min(begun[row], lane.begin[i]);
      ended[row] = Math.max(ended[row], lane.end[i]);
    }
  }
  const from = Math.min(...begun), to = Math.max(...ended);
  return { lanes, executions, begun, ended, from, to, cut: data.cut };
}

/** A few executions in the middle of what is there: the pipeline is full by then, and nothing drains yet. */
function steadyWindow(run, width) {
  const { executions, begun, ended, from, to, cut } = run;
  const after = cut ? executions.indexOf(cut.before) : 0;
  const count = executions.length - after;
  if (count < 8) return [from, to];
  const middle = after + Math.floor(count / 2);
  const reach = Math.min(8, Math.floor(count / 2) - 1);
  const period = (ended[middle + reach] - ended[middle - reach]) / (2 * reach);
  const latency = ended[middle] - begun[middle];
  // One whole execution from end to end, and at least six others around it; fewer where there is no room for them.
  const room = Math.min(1, Math.max(0.4, width / 1100));
  const length = Math.max(6 * period, Math.min(1.25 * latency, 14 * period)) * room;
  if (length > 0.8 * (to - from)) return [from, to];
  const centre = begun[middle] + latency / 2;
  return [centre - length / 2, centre + length / 2];
}

/** The first executions: how the pipeline fills. */
function fillWindow(run, width) {
  const [from, to] = steadyWindow(run, width);
  return [run.from, run.from + (to - from)];
}
