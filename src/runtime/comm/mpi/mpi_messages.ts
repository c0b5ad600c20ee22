/**
 * Messages by MPI: a receive is posted when it is called, so that MPI matches in the order of the calls. The tag that travels is the
 * user's and the dtype's, so that a receive of another dtype can be told.
 */
import type { Handle } from "../../../ffi/mpi.ts";
import { byteLength, type DType } from "../../../core/dtype.ts";
import { InputError } from "../../../core/errors.ts";
import { COMM_DTYPES, type CommDType, type View } from "../buffers.ts";
import { CollectiveMismatch } from "../errors.ts";
import type { Probed, Received } from "../mailbox.ts";
import { type Runner, type Side, Work } from "../work.ts";
import type { MpiGroup } from "./mpi_group.ts";

/** Room for dtypes beside a tag. */
const DTYPES = 16;
/** How long a receive waits before it is asked whether what has come is of another dtype, in milliseconds. */
const LOOK_MS = 50;

interface Message {
  readonly work: Work | Work<Received>;
  readonly request: Uint8Array<ArrayBuffer>;
  readonly view: View;
  readonly peer: number | "any";
  readonly tag: number | "any";
  readonly receives: boolean;
  readonly started: number;
  readonly timeoutMs: number;
}

interface Probe extends Pick<Message, "peer" | "tag" | "started" | "timeoutMs"> {
  readonly work: Work<Probed>;
}

/** What is asked of a message. */
export interface Envelope<Tag> {
  readonly tag: Tag;
  readonly timeoutMs: number;
}

/** The point-to-point side of one rank. */
export class MpiMessages implements Side {
  #g: MpiGroup;
  #runner: Runner;
  #pending: Message[] = [];
  #probes: Probe[] = [];
  #looked = 0;

  constructor(group: MpiGroup, runner: Runner) {
    this.#g = group;
    this.#runner = runner;
  }

  get busy(): boolean {
    return this.#pending.length > 0 || this.#probes.length > 0;
  }

  /** Sends `view` to `dest`. @throws {InputError} If MPI cannot take the tag. */
  send(view: View, dest: number, o: Envelope<number>): Work {
    const { symbols } = this.#g.runtime,
      request = new Uint8Array(new ArrayBuffer(8)),
      tag = this.#wireTag(o.tag, view.dtype);
    void view.bytes.buffer; // pins short arrays
    const bytes = view.bytes as Uint8Array<ArrayBuffer>;
    const code = symbols.MPI_Isend(bytes, view.count, this.#type(view.itemBytes), dest, tag, this.#g.comm, request);
    this.#g.runtime.check(code, "MPI_Isend");
    return this.#add(new Work(this.#runner), { request, view, peer: dest, receives: false, ...o });
  }

  /** Receives into `view` from `source` what has `tag`. @throws {InputError} If MPI cannot take the tag. */
  recv(view: View, source: number | "any", o: Envelope<number | "any">): Work<Received> {
    const { symbols, library } = this.#g.runtime, request = new Uint8Array(new ArrayBuffer(8));
    const tag = o.tag === "any" ? library.abi.anyTag : this.#wireTag(o.tag, view.dtype);
    void view.bytes.buffer; // pins short arrays
    const bytes = view.bytes as Uint8Array<ArrayBuffer>, from = source === "any" ? library.abi.anySource : source;
    const code = symbols.MPI_Irecv(bytes, view.count, this.#type(view.itemBytes), from, tag, this.#g.comm, request);
    this.#g.runtime.check(code, "MPI_Irecv");
    return this.#add(new Work<Received>(this.#runner), { request, view, peer: source, receives: true, ...o });
  }

  /** Waits for a message of `source` with `tag` that no receive has taken, and leaves it. @throws {InputError} If MPI cannot take the tag. */
  probe(source: number | "any", o: Envelope<number | "any">): Work<Probed> {
    if (o.tag !== "any") this.#wireTag(o.tag, "f32");
    const work = new Work<Probed>(this.#runner);
    this.#probes.push({ work, peer: source, started: performance.now(), ...o });
    this.#g.touch();
    this.#runner.kick();
    return work;
  }

  /** Takes the receive or probe of `work` back, if no message has met it; whether it has ended now. */
  takeBack(work: unknown, reason: unknown): boolean {
    const probe = this.#probes.find((p) => p.work === work);
    if (probe !== undefined) {
      this.#probes = this.#probes.filter((p) => p !== probe);
      probe.work.settle("failed", reason);
      return true;
    }
    const message = this.#pending.find((m) => m.work === work);
    if (message === undefined || !message.receives) return false;
    return this.#cancel(message, reason);
  }

  /** What is under way: `recv from 2, tag 0`. */
  describe(): string[] {
    const what = (m: Message) => m.receives ? "recv from" : "send to";
    return [
      ...this.#pending.map((m) => `${what(m)} ${m.peer}, tag ${m.tag}`),
      ...this.#probes.map((p) => `probe ${p.peer}, tag ${p.tag}`),
    ];
  }

  pump(): boolean {
    const { symbols, scratch } = this.#g.runtime;
    let moved = false;
    for (let i = 0; i < this.#pending.length;) {
      const message = this.#pending[i]!;
      const code = symbols.MPI_Test(message.request, scratch.flag, scratch.status);
      if (code === 0 && scratch.flag[0] === 0) {
        i++;
        continue;
      }
      this.#pending.splice(i, 1);
      moved = true;
      if (code !== 0) this.#broken(message, code);
      else if (message.receives) this.#deliver(message);
      else message.work.settle("done");
    }
    for (const probe of [...this.#probes]) {
      const found = this.#find(probe);
      if (found === undefined) continue;
      this.#probes = this.#probes.filter((p) => p !== probe);
      probe.work.settle("done", found);
      moved = true;
    }
    return moved;
  }

  /** The first message that `probe` asks for; of one tag, but any dtype, MPI does not say which came first. */
  #find({ peer, tag }: Probe): Probed | undefined {
    const { runtime, comm } = this.#g, { symbols, scratch, library } = runtime;
    const source = peer === "any" ? library.abi.anySource : peer;
    const tags = tag === "any" ? [library.abi.anyTag] : COMM_DTYPES.map((_, i) => tag * DTYPES + i);
    for (const wire of tags) {
      runtime.check(symbols.MPI_Iprobe(source, wire, comm, scratch.flag, scratch.status), "MPI_Iprobe");
      if (scratch.flag[0] === 0) continue;
      const found = runtime.status, dtype = COMM_DTYPES[found.tag % DTYPES]!;
      const count = runtime.count(this.#type(byteLength(dtype as DType, 1)));
      return { source: found.source, tag: Math.floor(found.tag / DTYPES), dtype, count };
    }
    return undefined;
  }

  check(): void {
    if (!this.busy) return;
    this.#g.listen();
    const now = performance.now();
    for (const { peer, started, timeoutMs } of this.#probes) {
      if (now - started >= timeoutMs) {
        this.#g.lateMessage("probe for a message of", peer === "any" ? [] : [peer], timeoutMs);
      }
    }
    for (const { peer, started, timeoutMs, receives } of this.#pending) {
      if (now - started < timeoutMs) continue;
      this.#g.lateMessage(receives ? "receive from" : "send to", peer === "any" ? [] : [peer], timeoutMs);
    }
    if (now - this.#looked < LOOK_MS) return;
    this.#looked = now;
    for (const message of [...this.#pending]) if (now - message.started > LOOK_MS) this.#lookForOthers(message);
  }

  fail(error: unknown, quietly = false): void {
    const open = [...this.#probes, ...this.#pending];
    for (const { view } of this.#pending) this.#g.runtime.abandon(view.bytes);
    this.#pending = [];
    this.#probes = [];
    for (const { work } of open) {
      if (quietly) work.whenSettled(() => {});
      work.settle("failed", error);
    }
  }

  #add<W extends Work | Work<Received>>(work: W, o: Omit<Message, "work" | "started">): W {
    this.#pending.push({ ...o, work, started: performance.now() });
    this.#g.touch();
    this.#runner.kick();
    return work;
  }

  #deliver(message: Message): void {
    const { work, view } = message, { source, tag } = this.#g.runtime.status;
    const user = Math.floor(tag / DTYPES), dtype = COMM_DTYPES[tag % DTYPES]!;
    if (dtype !== view.dtype) return this.#refuse(message, dtype, source, user);
    const count = this.#g.runtime.count(this.#type(view.itemBytes));
    (work as Work<Received>).settle("done", { source, tag: user, count });
  }

  #refuse({ work, view }: Message, dtype: string, source: number, tag: number): void {
    const text = `Cannot receive ${dtype} from rank ${source} (tag ${tag}) into a buffer of ${view.dtype}`;
    work.settle("failed", new CollectiveMismatch(text));
  }

  #broken({ work, view, peer, tag }: Message, code: number): void {
    const error = this.#g.runtime.error(code, "A message");
    if (error.errorClass !== this.#g.runtime.library.abi.truncated) return work.settle("failed", error);
    const from = peer === "any" ? "any rank" : `rank ${peer}`;
    work.settle(
      "failed",
      new InputError(`Cannot receive a longer message from ${from} (tag ${tag}) into a buffer of ${view.count}`, {
        cause: error,
      }),
    );
  }

  /** A receive of one dtype never meets a message of another, since their tags differ; so somebody has to look. */
  #lookForOthers(message: Message): void {
    const { peer, tag, view, receives } = message;
    if (!receives || tag === "any") return;
    const { runtime, comm } = this.#g, { symbols, scratch, library } = runtime;
    const source = peer === "any" ? library.abi.anySource : peer;
    for (const [i, dtype] of COMM_DTYPES.entries()) {
      if (dtype === view.dtype) continue;
      const code = symbols.MPI_Iprobe(source, tag * DTYPES + i, comm, scratch.flag, scratch.status);
      if (code !== 0 || scratch.flag[0] === 0) continue;
      // Another receive, of this dtype, may be what the message is for.
      if (this.#pending.some((m) => m.receives && m.view.dtype === dtype && (m.tag === "any" || m.tag === tag))) {
        continue;
      }
      const from = runtime.status.source;
      const text = `Cannot receive ${dtype} from rank ${from} (tag ${tag}) into a buffer of ${view.dtype}`;
      this.#cancel(message, new CollectiveMismatch(text));
      return;
    }
  }

  #cancel(message: Message, reason: unknown): boolean {
    const { symbols, scratch } = this.#g.runtime;
    symbols.MPI_Cancel(message.request);
    const code = symbols.MPI_Test(message.request, scratch.flag, scratch.status);
    if (code !== 0 || scratch.flag[0] === 0) return false; // its message is under way
    this.#pending.splice(this.#pending.indexOf(message), 1);
    symbols.MPI_Test_cancelled(scratch.status, scratch.flag);
    if (scratch.flag[0] === 0) this.#deliver(message);
    else message.work.settle("failed", reason);
    return true;
  }

  #type(itemBytes: number): Handle {
    return this.#g.runtime.library.handles[BY_SIZE[itemBytes]!];
  }

  #wireTag(tag: number, dtype: CommDType): number {
    const most = Math.floor((this.#g.runtime.largestTag + 1) / DTYPES) - 1;
    if (Number.isInteger(tag) && tag >= 0 && tag <= most) return tag * DTYPES + COMM_DTYPES.indexOf(dtype);
    throw new InputError(`Cannot use ${tag} as a tag: over MPI tags are 0 to ${most}`);
  }
}

const BY_SIZE: Readonly<Record<number, "u8" | "u16" | "u32" | "u64">> = { 1: "u8", 2: "u16", 4: "u32", 8: "u64" };
