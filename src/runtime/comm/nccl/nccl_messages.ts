/**
 * Messages by NCCL: those that are called in one turn of the event loop go as one NCCL group, so that they may be called in any order.
 * NCCL has neither tags nor a way to ask how long a message is: a receive must be for exactly the elements that are sent, from a
 * rank that it names. What a rank sends to itself never leaves the host.
 */
import { InputError, UnavailableError } from "../../../core/errors.ts";
import { CudaEvent, CudaStream } from "../../../ffi/cuda_handles.ts";
import { NCCL_ENUM } from "../../../ffi/nccl.ts";
import type { View } from "../buffers.ts";
import { CollectiveMismatch } from "../errors.ts";
import type { Received } from "../mailbox.ts";
import { type Runner, type Side, Work } from "../work.ts";
import type { NcclGroup } from "./nccl_group.ts";
import { Staging } from "./staging.ts";

/**
 * How long what is left after one NCCL group waits for the callers whom that group has woken, in milliseconds, where no turn of the
 * event loop lets them run before: they may have a receive to add without which this send and the peer's would wait for ever.
 */
const HOLD_MS = 2;

interface Message {
  readonly kind: "send" | "recv";
  readonly work: Work | Work<Received>;
  readonly view: View;
  readonly peer: number;
  readonly started: number;
  readonly timeoutMs: number;
}

/** Messages under way in one NCCL group. */
interface Batch {
  readonly messages: readonly { readonly message: Message; readonly at: number }[];
  /** Whether what was received is on its way to the host. */
  returning: boolean;
}

/** The point-to-point side of one rank. */
export class NcclMessages implements Side, Disposable {
  #g: NcclGroup;
  #runner: Runner;
  #waiting: Message[] = [];
  #batch: Batch | undefined;
  #staging: Staging;
  #stream: CudaStream;
  #event: CudaEvent;
  #flushing = false;
  /** Until when nothing begins, as `performance.now()`. */
  #heldUntil = 0;

  constructor(group: NcclGroup, runner: Runner) {
    this.#g = group;
    this.#runner = runner;
    this.#staging = new Staging(group.process.driver);
    this.#stream = new CudaStream(group.process.driver);
    this.#event = new CudaEvent(group.process.driver);
  }

  get busy(): boolean {
    return this.#waiting.length > 0 || this.#batch !== undefined;
  }

  /** Sends `view` to `dest`. @throws {UnavailableError} If it has a tag. */
  send(view: View, dest: number, o: { readonly tag: number; readonly timeoutMs: number }): Work {
    requireUntagged(o.tag);
    const work = new Work(this.#runner);
    this.#add({ kind: "send", work, view, peer: dest, started: performance.now(), timeoutMs: o.timeoutMs });
    return work;
  }

  /** Receives as many elements as `view` holds. @throws {UnavailableError} If it asks for a tag or any source. */
  recv(
    view: View,
    source: number | "any",
    o: { readonly tag: number | "any"; readonly timeoutMs: number },
  ): Work<Received> {
    if (source === "any") throw unavailable("receive from any source");
    if (o.tag !== "any") requireUntagged(o.tag);
    const work = new Work<Received>(this.#runner);
    this.#add({ kind: "recv", work, view, peer: source, started: performance.now(), timeoutMs: o.timeoutMs });
    return work;
  }

  /** Takes a receive back that NCCL does not know yet; whether it did. */
  takeBack(work: unknown, reason: unknown): boolean {
    const at = this.#waiting.findIndex((m) => m.work === work && m.kind === "recv");
    if (at < 0) return false;
    const [message] = this.#waiting.splice(at, 1);
    message!.work.settle("failed", reason);
    return true;
  }

  /** What is under way, in words. */
  describe(): string[] {
    const open = [...this.#batch?.messages.map((m) => m.message) ?? [], ...this.#waiting];
    return open.map(({ kind, peer, view }) =>
      `${kind} ${view.dtype}[${view.count}] ${kind === "send" ? "to" : "from"} rank ${peer}`
    );
  }

  pump(): boolean {
    let moved = this.#meetSelf();
    const held = this.#heldUntil > 0 && performance.now() < this.#heldUntil;
    if (this.#batch === undefined && !held && this.#waiting.some((m) => m.peer !== this.#g.rank)) {
      moved = this.#begin() || moved;
    }
    const batch = this.#batch;
    if (batch === undefined || !this.#g.connected()) return moved;
    if (!batch.returning) {
      this.#g.guard(() => {
        for (const { message, at } of batch.messages) {
          if (message.kind === "recv") this.#staging.download(at, message.view.bytes.length, this.#stream.value);
        }
        this.#event.record(this.#stream.value);
      });
      batch.returning = true;
    }
    if (!this.#g.guard(() => this.#event.done())) return moved;
    this.#batch = undefined;
    for (const { message, at } of batch.messages) {
      const { view } = message;
      if (message.kind === "recv") view.bytes.set(this.#staging.bytes.subarray(at, at + view.bytes.length));
      settle(message);
    }
    this.#hold();
    return true;
  }

  #hold(): void {
    if (this.#waiting.length === 0) return;
    this.#heldUntil = performance.now() + HOLD_MS;
    setTimeout(() => {
      this.#heldUntil = 0;
      this.#runner.kick();
    }, 0);
  }

  check(): void {
    const open = [...this.#waiting, ...this.#batch?.messages.map((m) => m.message) ?? []];
    for (const { peer, started, timeoutMs } of open) {
      if (peer !== this.#g.rank) this.#g.guard(() => this.#g.watch.checkPeers([peer], started, timeoutMs));
    }
  }

  fail(error: unknown): void {
    const open = [...this.#waiting, ...this.#batch?.messages.map((m) => m.message) ?? []];
    this.#waiting = [];
    this.#batch = undefined;
    for (const { work } of open) work.settle("failed", error);
  }

  [Symbol.dispose](): void {
    this.#event[Symbol.dispose]();
    this.#stream[Symbol.dispose]();
    this.#staging[Symbol.dispose]();
  }

  #add(message: Message): void {
    this.#g.requireHealth();
    this.#waiting.push(message);
    this.#g.touch();
    if (this.#flushing) return;
    this.#flushing = true;
    // Whatever else this turn calls belongs to the same NCCL group; who waits, blocking, begins it at once.
    queueMicrotask(() => {
      this.#flushing = false;
      this.#runner.kick();
    });
  }

  /** Delivers what this rank sends to itself. */
  #meetSelf(): boolean {
    const own = (kind: Message["kind"]) => this.#waiting.findIndex((m) => m.peer === this.#g.rank && m.kind === kind);
    let moved = false;
    for (let s = own("send"), r = own("recv"); s >= 0 && r >= 0; s = own("send"), r = own("recv")) {
      const send = this.#waiting[s]!, recv = this.#waiting[r]!;
      this.#waiting = this.#waiting.filter((m) => m !== send && m !== recv);
      moved = true;
      if (send.view.dtype !== recv.view.dtype || send.view.count !== recv.view.count) {
        const text = (m: Message) => `${m.view.dtype}[${m.view.count}]`;
        recv.work.settle(
          "failed",
          new CollectiveMismatch(`Cannot receive ${text(send)} of this rank as ${text(recv)}`),
        );
      } else {
        recv.view.bytes.set(send.view.bytes);
        settle(recv);
      }
      settle(send);
    }
    return moved;
  }

  /** Begins what waits, one message of each pair and direction, so that both sides of a pair match them by their order. */
  #begin(): boolean {
    if (!this.#g.connected()) return false;
    const chosen: { message: Message; at: number }[] = [], seen = new Set<string>();
    let end = 0;
    for (const message of this.#waiting) {
      const key = `${message.kind} ${message.peer}`;
      if (message.peer === this.#g.rank || seen.has(key)) continue;
      seen.add(key);
      chosen.push({ message, at: end });
      end += Math.ceil(message.view.bytes.length / 256) * 256;
    }
    const taken = new Set(chosen.map((c) => c.message));
    this.#waiting = this.#waiting.filter((m) => !taken.has(m));
    this.#batch = { messages: chosen, returning: false };
    const { nccl } = this.#g.process, stream = this.#stream.value;
    this.#g.guard(() => {
      const staging = this.#staging.reserve(Math.max(1, end));
      for (const { message, at } of chosen) {
        if (message.kind === "send") staging.upload(message.view.bytes, at, stream);
      }
      const { comm } = this.#g;
      nccl.call.ncclGroupStart();
      for (const { message, at } of chosen) {
        const address = staging.device + BigInt(at), count = BigInt(message.view.bytes.length);
        if (count === 0n) continue;
        const { ncclSend, ncclRecv } = nccl.call, run = message.kind === "send" ? ncclSend : ncclRecv;
        run(address, count, NCCL_ENUM.ncclUint8, message.peer, comm, stream);
      }
      nccl.call.ncclGroupEnd();
    });
    return true;
  }
}

function settle({ kind, work, view, peer }: Message): void {
  work.settle("done", kind === "recv" ? { source: peer, tag: 0, count: view.count } : undefined);
}

/** @throws {UnavailableError} */
function requireUntagged(tag: number): void {
  if (!Number.isInteger(tag)) throw new InputError(`Cannot use ${tag} as a tag`);
  if (tag !== 0) throw unavailable(`send or receive messages with tag ${tag}`);
}

/** What to throw where NCCL cannot do `what`, with the engines that can. */
export function unavailable(what: string): UnavailableError {
  return new UnavailableError(`Cannot ${what} over NCCL, which matches messages by their order alone`, {
    hint: "use the backend shm on one host, or mpi",
  });
}
