/** Waiting, without blocking, until the members of a future group have come, so that making it does not block for long. */
import type { Handle } from "../../../ffi/mpi.ts";
import { RendezvousError } from "../errors.ts";
import type { MpiRuntime } from "./mpi_runtime.ts";

/** Who meets. */
export interface MeetOptions {
  readonly runtime: MpiRuntime;
  /** The communicator of notices; `ranks` and `me` are ranks of it. */
  readonly comm: Handle;
  readonly ranks: readonly number[];
  readonly me: number;
  /** The same at all members, and unlike other meetings of the same ranks. */
  readonly key: string;
  readonly timeoutMs: number;
  /** Called while waiting. @throws {CommunicatorError} If that makes no sense any more. */
  readonly check: () => void;
}

const FIRST_TAG = 16, TAGS = 32000; // within what the standard promises

/** Returns when all `ranks` are here: the first hears of all others, then tells them. @throws {RendezvousError} */
export async function meet(o: MeetOptions): Promise<void> {
  const [first, ...others] = o.ranks, tag = FIRST_TAG + hash(o.key) % TAGS;
  if (o.me === first) {
    await all(o, others.map((rank) => post(o, "MPI_Irecv", rank, tag)));
    await all(o, others.map((rank) => post(o, "MPI_Isend", rank, tag)));
  } else {
    await all(o, [post(o, "MPI_Isend", first!, tag), post(o, "MPI_Irecv", first!, tag)]);
  }
}

interface Post {
  readonly request: Uint8Array<ArrayBuffer>;
  readonly rank: number;
}

function post(o: MeetOptions, call: "MPI_Irecv" | "MPI_Isend", rank: number, tag: number): Post {
  const { symbols, library } = o.runtime, request = new Uint8Array(new ArrayBuffer(8));
  o.runtime.check(symbols[call](null, 0, library.handles.byte, rank, tag, o.comm, request), call);
  return { request, rank };
}

async function all(o: MeetOptions, posts: Post[]): Promise<void> {
  const { symbols, scratch } = o.runtime, end = performance.now() + o.timeoutMs;
  for (;;) {
    posts = posts.filter(({ request }) => {
      o.runtime.check(symbols.MPI_Test(request, scratch.flag, scratch.status), "MPI_Test");
      return scratch.flag[0] === 0;
    });
    if (posts.length === 0) return;
    o.check();
    if (performance.now() > end) {
      o.runtime.fail();
      throw new RendezvousError(
        `Rank ${o.me} waited ${(o.timeoutMs / 1000).toFixed(1)} s for ranks ${
          posts.map((p) => p.rank).join(", ")
        } of the job to make a subgroup`,
        { hint: "all members call subgroup, with the same ranks in the same order" },
      );
    }
    await new Promise((go) => setImmediate(go));
  }
}

function hash(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}
