/**
 * The progress thread's own side: joins a group of the progress threads of all ranks, and runs all-reduces one after the other,
 * blocking this thread only. What fails once fails for ever, as in every group.
 */
import { Libc } from "../../ffi/libc.ts";
import { AddressWindow } from "./address_window.ts";
import { FlightRecorder } from "./flight_recorder.ts";
import {
  DONE,
  ERROR_BYTES,
  errorText,
  GIVEN_UP,
  PROGRESS_WORDS,
  type ProgressJob,
  type ProgressMessage,
  type ProgressStart,
} from "./progress_protocol.ts";
import { Reducers } from "./reduce_wasm.ts";
import { ShmCommunicator } from "./shm_communicator.ts";
import { parentPort } from "node:worker_threads";

/** How long the thread is deaf for its communicator, in milliseconds. */
const SLICE_MS = 50;

let words: Int32Array, text: Uint8Array;
let group: ShmCommunicator | undefined;
let failed = false;

// Messages are handled one at a time: the handler of one ends before the next begins, because of this chain.
let chain = Promise.resolve();
parentPort?.on("message", (message: ProgressMessage) => {
  chain = chain.then(() => handle(message));
});

async function handle(message: ProgressMessage): Promise<void> {
  switch (message.kind) {
    case "start":
      words = new Int32Array(message.shared, 0, PROGRESS_WORDS);
      text = new Uint8Array(message.shared, PROGRESS_WORDS * 4);
      return await guard(async () => {
        group = await join(message);
      });
    case "job":
      await guard(() => reduce(message));
      Atomics.add(words, DONE, 1);
      Atomics.notify(words, DONE);
      return parentPort!.postMessage("progress");
    case "leave":
      await group?.[Symbol.asyncDispose]();
      return parentPort!.postMessage("left");
    default:
      throw new Error(`Unknown message ${message satisfies never}`);
  }
}

async function guard(run: () => void | Promise<void>): Promise<void> {
  if (failed) return;
  try {
    await run();
  } catch (error) {
    failed = true;
    const { written } = new TextEncoder().encodeInto(errorText(error), text);
    Atomics.store(words, ERROR_BYTES, written);
  }
}

async function join(o: ProgressStart): Promise<ShmCommunicator> {
  const libc = new Libc(), window = new AddressWindow(libc);
  const flight = new FlightRecorder({ rank: o.ranks[o.rank]!, worldSize: o.ranks.length, attempt: 0 });
  const { runId, localRank, localWorldSize, cores, directory } = o;
  return await ShmCommunicator.join(
    {
      ...{ libc, window, reducers: new Reducers(window.memory), flight, runId, localRank, cores },
      // Each rank has two threads: looking again and again would take the core from one that computes.
      localWorldSize: 2 * localWorldSize,
      ...directory === undefined ? {} : { directory },
    },
    { name: o.name, rank: o.rank, ranks: o.ranks, timeoutMs: o.timeoutMs },
  );
}

function reduce({ send, recv, bytes, dtype, op, timeoutMs }: ProgressJob): void {
  const at = (address: bigint) =>
    new Uint8Array(Deno.UnsafePointerView.getArrayBuffer(Deno.UnsafePointer.create(address)!, bytes));
  const work = group!.allReduce({ data: at(send), dtype }, op, { recv: { data: at(recv), dtype }, timeoutMs });
  for (;;) {
    try {
      return work.waitSync({ timeoutMs: SLICE_MS });
    } catch (error) {
      if (!(error instanceof DOMException)) throw error; // it is only this slice that is over
      if (Atomics.load(words, GIVEN_UP) !== 0) group!.abort("it was closed or cancelled with collectives under way");
    }
  }
}
