/** Reads the flight recorders of all ranks together: where each communicator stands, who is missing where, and who disagrees. */
import type { DType } from "../../core/dtype.ts";
import { describeOperation } from "./control_block.ts";
import { FormatError } from "../../core/errors.ts";
import type { FlightDump, FlightEntry, FlightGroup } from "./flight_recorder.ts";

/** From how many milliseconds on a rank is said to have come late. */
const LATE_MS = 100;

/** One collective of a communicator, as its ranks saw it. */
export interface FlightRow {
  readonly seq: number;
  /** What was called, with the ranks (of the job) that called it and how far each came; more than one where they disagree. */
  readonly calls: readonly FlightCall[];
  /** Members that never called it, as far as is known. */
  readonly missing: readonly number[];
  /** Who called it last, and how long after the first, in milliseconds; where times are known. */
  readonly latest?: { readonly rank: number; readonly ms: number };
}

/** One call of a row. */
export interface FlightCall {
  /** `allReduce sum f32[1024]`. */
  readonly text: string;
  readonly done: readonly number[];
  readonly started: readonly number[];
  readonly enqueued: readonly number[];
}

/** One communicator. */
export interface FlightGroupReport {
  readonly name: string;
  readonly ranks: readonly number[];
  /** In the order of calls; complete only as far as the rings reach back. */
  readonly rows: readonly FlightRow[];
  readonly messages: readonly { readonly rank: number; readonly text: string }[];
}

/** All of it. */
export interface FlightReport {
  readonly worldSize: number;
  readonly attempt: number;
  /** Why each rank wrote, in the order of time; the first is the nearest to the cause. */
  readonly reasons: readonly { readonly rank: number; readonly timeMs: number; readonly reason: string }[];
  /** Ranks that left no dump. */
  readonly silent: readonly number[];
  /** Sentences, the most telling first. */
  readonly findings: readonly string[];
  readonly groups: readonly FlightGroupReport[];
}

/** Parses one dump. @throws {FormatError} If it is none. */
export function parseFlightDump(text: string, file: string): FlightDump {
  let dump: unknown;
  try {
    dump = JSON.parse(text);
  } catch (cause) {
    throw new FormatError(`Cannot read ${file}: it is no JSON`, {
      cause,
      hint: "the rank may have been killed while writing",
    });
  }
  const found = dump as Partial<FlightDump> | null;
  if (found?.format !== 1 || !Array.isArray(found.groups) || typeof found.rank !== "number") {
    throw new FormatError(`Cannot read ${file}: it is no flight recorder dump of format 1`);
  }
  return found as FlightDump;
}

/** Lays the dumps of one attempt over each other. @throws {RangeError} If there is none. */
export function reportFlight(dumps: readonly FlightDump[]): FlightReport {
  if (dumps.length === 0) throw new RangeError("Cannot report on no dumps");
  const attempt = Math.max(...dumps.map((d) => d.attempt)), last = dumps.filter((d) => d.attempt === attempt);
  const worldSize = Math.max(...last.map((d) => d.worldSize));
  const silent = Array.from({ length: worldSize }, (_, r) => r).filter((r) => !last.some((d) => d.rank === r));
  const reasons = last.toSorted((a, b) => a.timeMs - b.timeMs).map(({ rank, timeMs, reason }) => ({
    rank,
    timeMs,
    reason,
  }));
  const names = [...new Set(last.flatMap((d) => d.groups.map((g) => g.name)))];
  const groups = names.map((name) => groupReport(name, last));
  const findings = [
    ...groups.flatMap(disagreements),
    ...groups.flatMap((group) => absences(group, silent)),
    ...groups.flatMap(latenesses),
    ...silent.length > 0
      ? [
        `${rankList(silent)} left no dump: killed, hung in code of ${
          silent.length > 1 ? "their" : "its"
        } own, or ended before anything failed`,
      ]
      : [],
  ];
  return { worldSize, attempt, reasons, silent, findings, groups };
}

/** `ranks 0-3, 7`. */
export function rankList(ranks: readonly number[]): string {
  const sorted = ranks.toSorted((a, b) => a - b), parts: string[] = [];
  for (let i = 0; i < sorted.length;) {
    let end = i;
    while (end + 1 < sorted.length && sorted[end + 1] === sorted[end]! + 1) end++;
    parts.push(end > i + 1 ? `${sorted[i]}-${sorted[end]}` : sorted.slice(i, end + 1).join(", "));
    i = end + 1;
  }
  return `rank${ranks.length === 1 ? "" : "s"} ${parts.join(", ")}`;
}

function groupReport(name: string, dumps: readonly FlightDump[]): FlightGroupReport {
  const seats = dumps.flatMap((d) => d.groups.filter((g) => g.name === name).map((group) => ({ rank: d.rank, group })));
  const ranks = seats[0]!.group.ranks;
  const known = new Map<number, Map<number, FlightEntry>>(seats.map(({ rank, group }) => [rank, bySeq(group)]));
  // Of those that wrote nothing, what the others saw last.
  ranks.forEach((rank, place) => {
    if (known.has(rank)) return;
    const seen = seats.map(({ group }) => group.seen?.[place]).filter((e) => e !== undefined && e !== null);
    const last = seen.toSorted((a, b) => a.seq - b.seq).at(-1);
    known.set(rank, new Map(last === undefined ? [] : [[last.seq, last]]));
  });
  const seqs = [...new Set([...known.values()].flatMap((entries) => [...entries.keys()]))].sort((a, b) => a - b);
  const rows = seqs.map((seq): FlightRow => {
    const calls = new Map<string, { text: string; done: number[]; started: number[]; enqueued: number[] }>();
    const missing: number[] = [];
    for (const rank of ranks) {
      const entries = known.get(rank)!, entry = entries.get(seq);
      if (entry === undefined) {
        // A rank that is further on did call it; its ring, or what others saw of it, does not reach back.
        if (seq > Math.max(0, ...entries.keys())) missing.push(rank);
        continue;
      }
      const text = describe(entry), call = calls.get(text) ?? { text, done: [], started: [], enqueued: [] };
      call[entry.state].push(rank);
      calls.set(text, call);
    }
    const latest = latestOf(ranks.map((rank) => ({ rank, at: known.get(rank)!.get(seq)?.calledMs })));
    return { seq, calls: [...calls.values()], missing, ...(latest === undefined ? {} : { latest }) };
  });
  const messages = seats.flatMap(({ rank, group }) => group.messages.map((text) => ({ rank, text })));
  return { name, ranks, rows, messages };
}

function latestOf(calls: readonly { rank: number; at: number | undefined }[]): FlightRow["latest"] {
  const known = calls.flatMap(({ rank, at }) => at === undefined ? [] : [{ rank, at }]).sort((a, b) => a.at - b.at);
  return known.length < 2 ? undefined : { rank: known.at(-1)!.rank, ms: known.at(-1)!.at - known[0]!.at };
}

function bySeq(group: FlightGroup): Map<number, FlightEntry> {
  return new Map(group.entries.map((entry) => [entry.seq, entry]));
}

function describe({ verb, op, dtype, count = -1, counts, root = -1 }: FlightEntry): string {
  return describeOperation({ verb, dtype: dtype as DType | undefined, reduceOp: op, root, count, counts });
}

/** The first collective at which ranks called different things; what follows it differs too, and says no more. */
function disagreements(group: FlightGroupReport): string[] {
  const row = group.rows.find((r) => r.calls.length > 1);
  if (row === undefined) return [];
  const sides = row.calls.map((c) => `${rankList([...c.done, ...c.started, ...c.enqueued])} ${c.text}`);
  return [`${group.name}: ranks disagree at collective ${row.seq}: ${sides.join("; ")}`];
}

/** The first collective that some have begun and others never called. */
function absences(group: FlightGroupReport, silent: readonly number[]): string[] {
  const row = group.rows.find((r) => r.missing.length > 0 && r.calls.some((c) => c.started.length > 0));
  if (row === undefined) return [];
  const waiting = row.calls.flatMap((c) => c.started), what = row.calls.map((c) => c.text).join(" or ");
  return row.missing.map((rank) => {
    const last = group.rows.findLast((r) =>
      r.calls.some((c) => [...c.done, ...c.started, ...c.enqueued].includes(rank))
    );
    const call = last?.calls.find((c) => [...c.done, ...c.started, ...c.enqueued].includes(rank));
    const since = last === undefined || call === undefined
      ? "it has called none"
      : `its last was ${last.seq}, ${call.text}${
        silent.includes(rank) ? ", as the others saw" : call.done.includes(rank) ? ", done" : ""
      }`;
    return `${group.name}: rank ${rank} is missing at collective ${row.seq}, ${what}, where ${rankList(waiting)} wait${
      waiting.length === 1 ? "s" : ""
    }; ${since}`;
  });
}

/** A collective that all have called in the end, but one long after the others. */
function latenesses(group: FlightGroupReport): string[] {
  const row = group.rows.at(-1);
  if (row?.latest === undefined || row.missing.length > 0 || row.latest.ms < LATE_MS) return [];
  if (row.calls.length > 1 || row.calls[0]!.started.length === 0) return [];
  const seconds = (row.latest.ms / 1000).toFixed(2);
  return [
    `${group.name}: rank ${row.latest.rank} came to collective ${row.seq}, ${
      row.calls[0]!.text
    }, ${seconds} s after the first`,
  ];
}
