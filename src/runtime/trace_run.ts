/** Tracing what ranks do while they run something together. */
import type { Dim } from "../core/dim.ts";
import { dtypeInfo } from "../core/dtype.ts";
import { isCall } from "../graph/graph.ts";
import type { TensorType } from "../graph/types.ts";
import type { Program, Segment } from "../program/program.ts";
import { type ClockGroup, meet } from "../trace/clock.ts";
import { mergeRecordings, type PartLabel } from "../trace/merge.ts";
import { Recorder } from "../trace/recorder.ts";
import type { RunTrace } from "../trace/run_trace.ts";

/** What can be traced: an executor that tells a recorder, if it has one. */
export interface Traced {
  readonly program: Program;
  recorder: Recorder | undefined;
}

/**
 * Runs `body` and gives the trace of the steps that it made, of all ranks, on all ranks. All call it together.
 *
 * @throws What `body` throws; nothing is exchanged then.
 */
export async function traceRun(executor: Traced, group: ClockGroup, body: () => Promise<unknown>): Promise<RunTrace> {
  const recorder = new Recorder();
  const meetings = meet(group, recorder.now);
  executor.recorder = recorder;
  try {
    await body();
  } finally {
    executor.recorder = undefined;
  }
  const own = { meetings, recording: recorder.recording, labels: executor.program.steps.map(labelOf) };
  return mergeRecordings(await group.objects.allGather(own));
}

function labelOf(step: Program["steps"][number]): PartLabel {
  if (step.kind === "segment") return { kind: "compute", name: segmentName(step) };
  const kinds = [...new Set(step.collectives.map((c) => c.kind))].join(", ");
  const bytes = step.collectives.map((c) => bytesOf(c.type));
  return {
    kind: "collective",
    name: `${kinds} ${step.collectives.map((c) => c.value).join(", ")}`,
    ...(bytes.every((n) => n !== undefined) ? { bytes: bytes.reduce((a, b) => a + b, 0) } : {}),
  };
}

/** The modules that a segment computes: the innermost that holds them all, or the first and the last. */
function segmentName({ index, graph }: Segment): string {
  const scopes = [...new Set(graph.nodes.flatMap((n) => (isCall(n) && n.scope ? [n.scope] : [])))];
  const [first, last] = [scopes[0], scopes.at(-1)];
  if (first === undefined || last === undefined) return `segment ${index}`;
  if (first === last) return first;
  const common = scopes.map((s) => s.split(".")).reduce((a, b) => {
    const differs = a.findIndex((part, i) => part !== b[i]);
    return differs < 0 ? a : a.slice(0, differs);
  });
  // A name that says which block it is tells enough.
  return common.some((part) => /^\d+$/.test(part)) ? common.join(".") : `${first} … ${last}`;
}

/** Bytes of a tensor of constant sizes. */
function bytesOf({ dtype, shape }: TensorType): number | undefined {
  if (!dtype || !shape?.every((d: Dim) => typeof d === "number")) return undefined;
  return (shape as readonly number[]).reduce((a, b) => a * b, dtypeInfo(dtype).bits / 8);
}
