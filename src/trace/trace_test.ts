import assert from "node:assert/strict";
import { chromeTrace } from "./chrome.ts";
import { clockOffsets } from "./clock.ts";
import { type LabelledRecording, mergeRecordings } from "./merge.ts";
import { Recorder } from "./recorder.ts";

const LABELS = [
  { kind: "compute", name: "a" },
  { kind: "collective", name: "all_reduce x", bytes: 8 },
  { kind: "compute", name: "b" },
] as const;

/** They met 1000 ms apart by their clocks, and nobody was late. */
const MEETINGS = [[[9, 9]], [[1009, 1009]]] as const;

/** Two ranks whose clocks differ by 1000 ms; the second comes to the barrier 2 ms later. */
const RANKS: LabelledRecording[] = [
  {
    meetings: MEETINGS[0],
    labels: LABELS,
    recording: { steps: [[10, 20]], parts: [[0, 0, 11, 13], [0, 1, 13, 15.5], [0, 2, 16, 19]] },
  },
  {
    meetings: MEETINGS[1],
    labels: LABELS,
    recording: { steps: [[1010, 1020]], parts: [[0, 0, 1011, 1015], [0, 1, 1015, 1015.4], [0, 2, 1016, 1018]] },
  },
];

Deno.test("clockOffsets() bounds the difference of clocks by the best of the meetings, however late ranks were at others", () => {
  const zero = [[1, 1.5], [2, 9], [3, 3.2], [20, 20.01]] as const;
  // 100 ms ahead; at the first two meetings one of the ranks was late.
  const one = [[101.4, 101.5], [102, 109], [103.1, 103.2], [120.002, 120.01]] as const;
  const { offsets, error } = clockOffsets([zero, one]);
  assert.equal(offsets[0], 0);
  assert.ok(Math.abs(offsets[1]! - 100) <= error + 1e-9);
  assert.ok(error > 0 && error < 0.011);
});

Deno.test("a merged trace ends all ranks' waiting when the last arrives, on one clock", () => {
  const { ranks } = mergeRecordings(RANKS);
  const spans = ranks.map(({ spans }) => spans.map(({ kind, start, end }) => [kind, start, end]));
  assert.deepEqual(spans[0], [
    ["step", 0, 10],
    ["compute", 1, 3],
    ["waiting", 3, 5],
    ["collective", 5, 5.5],
    ["compute", 6, 9],
  ]);
  assert.deepEqual(spans[1]!.map(([kind]) => kind), ["step", "compute", "collective", "compute"]);
  assert.equal(spans[1]![2]![1], 5);
});

Deno.test("chromeTrace() has a process for each rank and complete events in microseconds", () => {
  const trace = chromeTrace(mergeRecordings(RANKS));
  const { traceEvents } = JSON.parse(JSON.stringify(trace)) as typeof trace;
  const complete = traceEvents.filter((e) => e.ph === "X");
  assert.deepEqual(complete[2], {
    name: "waiting: all_reduce x",
    ph: "X",
    pid: 0,
    tid: 0,
    ts: 3000,
    dur: 2000,
    cat: "waiting",
    cname: "thread_state_runnable",
    args: { step: 0, part: 1, bytes: 8 },
  });
  assert.deepEqual(new Set(complete.map((e) => e.pid)), new Set([0, 1]));
});

Deno.test("a recorder leaves out the parts of a step that did not end", () => {
  const recorder = new Recorder();
  recorder.part(0, recorder.now());
  recorder.step(recorder.now());
  recorder.part(0, recorder.now());
  assert.equal(recorder.recording.parts.length, 1);
});
