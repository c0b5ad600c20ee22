import assert from "node:assert/strict";
import { countList, encodeOperation } from "./control_block.ts";
import { type FlightDump, type FlightEntry, flightFile, FlightRecorder } from "./flight_recorder.ts";
import { parseFlightDump, rankList, reportFlight } from "./flight_report.ts";

const BARRIER = encodeOperation({ verb: "barrier", dtype: undefined, reduceOp: undefined, root: -1, count: -1 });
const SUM = encodeOperation({ verb: "allReduce", dtype: "f32", reduceOp: "sum", root: -1, count: 2 ** 33 + 5 });

function recorder(rank: number) {
  const all = new FlightRecorder({ rank, worldSize: 2, attempt: 0 });
  const queued: { code: typeof SUM; at: number }[] = [];
  const ring = all.open({ name: "world", ranks: [0, 1], queued: () => queued, messages: () => [] });
  return { all, ring, queued };
}

Deno.test("a ring keeps the last collectives, how far each came, and what is queued behind them", () => {
  const { all, ring, queued } = recorder(0);
  for (let seq = 1; seq <= 1000; seq++) {
    ring.begin(seq, BARRIER, 0);
    ring.end(0);
  }
  ring.begin(1001, SUM, 5);
  queued.push({ code: BARRIER, at: 6 });
  const { entries } = all.read("asked").groups[0]!;
  assert.equal(entries.length, 257);
  assert.deepEqual(entries[0], { seq: 746, verb: "barrier", state: "done" });
  const { calledMs, ...started } = entries.at(-2)!;
  assert.deepEqual(started, {
    seq: 1001,
    verb: "allReduce",
    op: "sum",
    dtype: "f32",
    count: 2 ** 33 + 5,
    state: "started",
  });
  assert.equal(calledMs, Math.round(performance.timeOrigin + 5));
  assert.deepEqual([entries.at(-1)!.seq, entries.at(-1)!.state], [1002, "enqueued"]);
  all.close(ring);
  assert.deepEqual(all.read("asked").groups, []);
});

Deno.test("the first failure's dump stays, and goes where the environment says", () => {
  const directory = Deno.makeTempDirSync();
  try {
    const job = { rank: 3, worldSize: 4, attempt: 1 };
    const file = flightFile(
      { SHARDWISE_FLIGHT_DIR: `${directory}/new`, SHARDWISE_ERROR_FILE: "/elsewhere/error.json" },
      job,
    )!;
    assert.equal(file, `${directory}/new/flight-1-3.json`);
    const all = new FlightRecorder(job, file);
    all.dumpNow("SIGUSR2");
    all.dump(new RangeError("the cause"));
    all.dump(new RangeError("a consequence"));
    all.dumpNow("SIGUSR2");
    assert.equal(parseFlightDump(Deno.readTextFileSync(file), file).reason, "RangeError: the cause");
  } finally {
    Deno.removeSync(directory, { recursive: true });
  }
  assert.equal(
    flightFile({ SHARDWISE_ERROR_FILE: "/logs/0/error.json" }, { rank: 0, attempt: 0 }),
    "/logs/0/flight-0-0.json",
  );
  assert.equal(flightFile({}, { rank: 0, attempt: 0 }), undefined);
});

Deno.test("a rank that never came is named with the last thing that it did, known or seen by others", () => {
  const done = entry(1, "done"), waits = entry(2, "started");
  const report = reportFlight([dump(0, [done, waits], [done, done, null]), dump(1, [done])]);
  assert.deepEqual(report.silent, [2]);
  assert.deepEqual(report.findings.slice(0, 2), [
    "world: rank 1 is missing at collective 2, barrier, where rank 0 waits; its last was 1, barrier, done",
    "world: rank 2 is missing at collective 2, barrier, where rank 0 waits; it has called none",
  ]);
});

Deno.test("ranks that disagree are told apart at the first collective where they do", () => {
  const wrong: FlightEntry = { seq: 2, verb: "broadcast", dtype: "f32", count: 4, root: 1, state: "started" };
  const report = reportFlight([
    dump(0, [entry(1, "done"), entry(2, "started")]),
    dump(1, [entry(1, "done"), wrong]),
    dump(2, []),
  ]);
  assert.equal(
    report.findings[0],
    "world: ranks disagree at collective 2: rank 0 barrier; rank 1 broadcast f32[4] root 1",
  );
});

Deno.test("ranks that name other blocks disagree too", () => {
  const blocks = (...counts: number[]) =>
    encodeOperation({
      ...{ verb: "gather", dtype: "f32", reduceOp: undefined, root: 0, count: 3, counts: countList(counts) },
    });
  const dumps = [blocks(1, 2), blocks(2, 1)].map((code, rank) => {
    const { all, ring } = recorder(rank);
    ring.begin(1, code, 0);
    return all.read("asked");
  });
  assert.deepEqual(reportFlight(dumps).findings.slice(0, 1), [
    "world: ranks disagree at collective 1: rank 0 gather f32[3] in blocks of 1, 2 root 0; rank 1 gather f32[3] in blocks of 2, 1 root 0",
  ]);
});

Deno.test("a rank that came at last is said to be late", () => {
  const at = (ms: number) => ({ ...entry(1, "started"), calledMs: ms });
  const report = reportFlight([dump(0, [at(1000)]), dump(1, [at(3500)]), dump(2, [at(1001)])]);
  assert.deepEqual(report.findings, ["world: rank 1 came to collective 1, barrier, 2.50 s after the first"]);
});

Deno.test("only the last attempt is reported, and a file that is no dump is refused", () => {
  const report = reportFlight([dump(0, [entry(1, "started")]), { ...dump(0, []), attempt: 1, worldSize: 1 }]);
  assert.deepEqual([report.attempt, report.worldSize, report.findings], [1, 1, []]);
  assert.throws(() => parseFlightDump("{", "x.json"), /Cannot read x.json: it is no JSON/);
  assert.throws(() => parseFlightDump("{}", "x.json"), /no flight recorder dump/);
  assert.equal(rankList([5, 0, 1, 2, 7, 8]), "ranks 0-2, 5, 7, 8");
});

function entry(seq: number, state: FlightEntry["state"]): FlightEntry {
  return { seq, verb: "barrier", state };
}

function dump(rank: number, entries: FlightEntry[], seen?: (FlightEntry | null)[]): FlightDump {
  const group = { name: "world", ranks: [0, 1, 2], entries, messages: [], ...(seen === undefined ? {} : { seen }) };
  return { format: 1, rank, worldSize: 3, attempt: 0, pid: 1, timeMs: rank, reason: "asked", groups: [group] };
}
