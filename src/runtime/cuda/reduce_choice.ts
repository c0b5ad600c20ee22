/** By what means ranks all-reduce: how large messages go over peer memory, as was measured on this host, or as the user says. */
import { dirname, join } from "node:path";
import { cannotWrite, InputError } from "../../core/errors.ts";
import { didYouMean } from "../../core/suggest.ts";
import { CudaEvent } from "../../ffi/cuda_handles.ts";
import type { NcclCommunicator } from "../comm/nccl/nccl_communicator.ts";
import { cacheFolder } from "../host/calibration.ts";
import type { Enqueue, GpuDevice } from "./device.ts";
import type { PeerReduce, Reduce } from "./peer_reduce.ts";
import { largestMessage, type Shots } from "./peer_text.ts";

/** The variable that says what the user wants. */
export const ALL_REDUCE_VARIABLE = "SHARDWISE_CUDA_ALL_REDUCE";

const WISHES = ["auto", "nccl", "one-shot", "two-shot"] as const;

/** What the user may want: the faster one as measured, or always the same where it can be. */
export type AllReduceWish = typeof WISHES[number];

/** Bytes of a message up to which each is used: one-shot before two-shot before NCCL. */
export type ReduceLimits = Readonly<Record<Shots, number>>;

/** Microseconds that a message took. */
export interface ReduceTimes {
  readonly bytes: number;
  readonly nccl: number;
  /** Undefined where a message is too large. */
  readonly "one-shot"?: number | undefined;
  readonly "two-shot"?: number | undefined;
}

/** Sizes that are measured: those of one token's activations, and of some hundred tokens'. */
const MEASURED_BYTES = [1024, 4096, 16_384, 65_536, 262_144, 1_048_576];
/** All-reduces of a measurement, and how often it is made: the shortest counts. */
const IN_ROW = 20, TIMES = 3;

/** What the user wants. @throws {InputError} If it is nothing known. */
export function wishedAllReduce(value: string | undefined = Deno.env.get(ALL_REDUCE_VARIABLE)): AllReduceWish {
  if (!value) return "auto";
  const wish = WISHES.find((w) => w === value);
  if (wish) return wish;
  throw new InputError(`Cannot all-reduce by ${JSON.stringify(value)}${didYouMean(value, WISHES)}`, {
    hint: `set ${ALL_REDUCE_VARIABLE} to one of ${WISHES.join(", ")}`,
  });
}

/** The limits that `times` say, by size in ascending order: each means is used as far as it is the fastest from the smallest message on. Pure. */
export function limitsOf(times: readonly ReduceTimes[]): ReduceLimits {
  const fastest = times.map((t) => {
    const [one = Infinity, two = Infinity] = [t["one-shot"], t["two-shot"]];
    return t.nccl <= Math.min(one, two) ? "nccl" : one <= two ? "one-shot" : "two-shot";
  });
  const run = (means: string, from: number) => {
    let to = from;
    while (fastest[to] === means) to++;
    return to;
  };
  const one = run("one-shot", 0), two = run("two-shot", one);
  return { "one-shot": times[one - 1]?.bytes ?? 0, "two-shot": two > one ? times[two - 1]!.bytes : 0 };
}

/** The limits of a wish that leaves nothing to measure. Pure. */
export function limitsOfWish(wish: Shots): ReduceLimits {
  return { "one-shot": 0, "two-shot": 0, [wish]: Infinity };
}

/** `limits` for people. Pure. */
export function describeLimits(limits: ReduceLimits, ranks: number): string {
  const size = (bytes: number) => bytes < 2 ** 20 ? `${bytes / 1024} KiB` : `${bytes / 2 ** 20} MiB`;
  const parts = (["one-shot", "two-shot"] as const).flatMap((shots) =>
    limits[shots] > 0 ? [`${shots} up to ${size(Math.min(limits[shots], largestMessage(shots, ranks)))}`] : []
  );
  return parts.length === 0 ? "NCCL" : `${parts.join(", ")}, then NCCL`;
}

/**
 * The limits of this host's GPUs: what was measured before, else measured now and kept. All ranks call it together, and get the same.
 *
 * @throws {CommunicatorError} If a rank is lost meanwhile.
 */
export function measuredLimits(comm: NcclCommunicator, device: GpuDevice, peer: PeerReduce): ReduceLimits {
  const key = measurementKey(comm, device), known = comm.rank === 0 ? storedTimes()[key] : undefined;
  // Rank 0's file speaks for all: another process may write it now.
  const found = Float64Array.of(...(known ? [1, ...Object.values(limitsOf(known))] : [0, 0, 0]));
  comm.allReduceSync(found, "max");
  if (found[0] === 1) return { "one-shot": found[1]!, "two-shot": found[2]! };
  const times = measureReduces(comm, device, peer);
  if (comm.rank === 0) store(key, times);
  return limitsOf(times);
}

/** Which GPUs, joined by what: what a measurement is good for. */
function measurementKey(comm: NcclCommunicator, { context, driver }: GpuDevice): string {
  return `${comm.size} x ${context.facts.name}, driver ${driver.version}, NCCL ${comm.process.nccl.version}`;
}

/** How long each means takes, on the slowest rank; without `peer` NCCL alone. All ranks call it together. */
export function measureReduces(
  comm: NcclCommunicator,
  device: GpuDevice,
  peer: PeerReduce | undefined,
): ReduceTimes[] {
  const most = MEASURED_BYTES.at(-1)!, record = Deno.env.get("SHARDWISE_CUDA_GRAPHS") !== "0";
  using memory = device.memory.allocate(2 * most, "work space");
  device.clear(memory.value, 2 * most);
  const means = ["nccl", "one-shot", "two-shot"] as const, { stream } = device;
  const times = Float64Array.from(
    MEASURED_BYTES.flatMap((bytes) => {
      const from = { of: "input", index: 0, dtype: "f16" } as const, to = { ...from, of: "output" } as const;
      const reduce: Reduce = { kind: "reduce", from, to: [to], count: bytes / 2, reduction: "sum" };
      const at = (of: string) => memory.value + (of === "input" ? 0n : BigInt(most));
      return means.map((how) => {
        if (how !== "nccl") {
          if (!peer?.takes(how, reduce)) return -1;
          return timed(comm, device, peer.prepare(how, reduce, (o) => at(o.of)), record);
        }
        const buffer = (ptr: bigint) => ({ ptr, dtype: "f16" as const, count: bytes / 2, stream: stream.value });
        const [send, recv] = [buffer(at("input")), buffer(at("output"))];
        return timed(comm, device, () => comm.device.allReduce(send, "sum", recv), record);
      });
    }),
  );
  comm.allReduceSync(times, "max"); // a collective takes as long as on the slowest rank
  const of = (value: number | undefined) => (value === undefined || value < 0 ? undefined : value);
  return MEASURED_BYTES.map((bytes, i) => ({
    bytes,
    nccl: times[3 * i]!,
    "one-shot": of(times[3 * i + 1]),
    "two-shot": of(times[3 * i + 2]),
  }));
}

/** Microseconds of one of many calls of `enqueue` in a row, on the GPU's clock. */
function timed(comm: NcclCommunicator, device: GpuDevice, enqueue: Enqueue, record: boolean): number {
  const { driver, stream } = device;
  const settle = () => comm.device.settledSync(stream.value);
  enqueue(); // makes connections, which cannot be recorded
  settle();
  const all = () => {
    for (let i = 0; i < IN_ROW; i++) enqueue();
  };
  using graph = record ? stream.capture(all) : undefined;
  using start = new CudaEvent(driver, { timing: true });
  using end = new CudaEvent(driver, { timing: true });
  let least = Infinity;
  for (let i = 0; i < TIMES; i++) {
    comm.barrierSync();
    start.record(stream.value);
    if (graph) graph.launch(stream);
    else all();
    end.record(stream.value);
    settle();
    least = Math.min(least, 1000 * end.elapsedSince(start) / IN_ROW);
  }
  return least;
}

type Stored = Readonly<Record<string, readonly ReduceTimes[]>>;

const VERSION = 1;

function storePath(): string | undefined {
  const folder = cacheFolder();
  return folder && join(folder, `all-reduce-${Deno.hostname().replace(/[^\w.-]/g, "_")}.json`);
}

/** What was measured on this host, by GPUs; nothing where the file is missing, broken or of another version: it is measured anew then. */
export function storedTimes(): Stored {
  const path = storePath();
  try {
    if (path === undefined) return {};
    const { version, measured } = JSON.parse(Deno.readTextFileSync(path)) as { version: number; measured: Stored };
    return version === VERSION ? measured : {};
  } catch {
    return {};
  }
}

function store(key: string, times: readonly ReduceTimes[]): void {
  const path = storePath();
  if (path === undefined) return; // each job measures then
  const measured = { ...storedTimes(), [key]: times }, unfinished = `${path}.${Deno.pid}`;
  try {
    Deno.mkdirSync(dirname(path), { recursive: true });
    Deno.writeTextFileSync(unfinished, JSON.stringify({ version: VERSION, measured }, undefined, 1) + "\n");
    Deno.renameSync(unfinished, path); // whole or not at all: other jobs may read it now
  } catch (cause) {
    throw cannotWrite(path, cause);
  }
}
