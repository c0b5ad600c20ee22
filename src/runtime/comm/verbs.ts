/** What communicators over a {@linkcode Meeting} have in common: the fastest ways to meet and to reduce, and messages. */
import type { SymmetricArena } from "./arena.ts";
import {
  allocateTensor,
  type Buf,
  type CommDType,
  type ReduceOp,
  type SymmetricTensor,
  type View,
  viewOf,
} from "./buffers.ts";
import { reduce, SMALL_BYTES } from "./collectives.ts";
import type { OpOptions } from "./communicator.ts";
import { encodeOperation } from "./control_block.ts";
import { Mailbox, type MailboxPeers, type Probed, type Received } from "./mailbox.ts";
import type { Meeting } from "./meeting.ts";
import { MeetingSteps } from "./meeting_steps.ts";
import { isPairOp, requirePairs } from "./operations.ts";
import { BARRIER, QueuedCommunicator, type QueuedOptions } from "./queued_communicator.ts";
import { TinyAllReduce } from "./tiny_all_reduce.ts";
import { type Work, WorkQueue } from "./work.ts";

/** Who it is. */
export type MeetingMember = Pick<QueuedOptions<Meeting>, "name" | "ranks" | "localRank" | "cores" | "timeoutMs">;

/** What an engine adds is memory, new groups, and how to leave. */
export abstract class MeetingCommunicator extends QueuedCommunicator<Meeting> {
  abstract override readonly backend: "local" | "shm";
  abstract override readonly arena: SymmetricArena;
  #tiny: TinyAllReduce;
  #mailbox: Mailbox | undefined;

  protected constructor(meeting: Meeting, member: MeetingMember) {
    const queue = new WorkQueue(meeting);
    super({ ...member, rank: meeting.rank, waiting: meeting, queue, steps: new MeetingSteps(meeting) });
    this.#tiny = new TinyAllReduce(meeting);
  }

  /** The memory of messages from one rank to another, zeros at first. */
  protected abstract channel(from: number, to: number): Uint8Array;
  /** How messages wake and watch the other ranks. */
  protected abstract readonly peers: MailboxPeers;

  override allocate(shape: readonly number[], dtype: CommDType): SymmetricTensor {
    this.requireOpen();
    return allocateTensor(this.arena, shape, dtype);
  }

  override barrierSync(options?: OpOptions): void {
    if (!this.queue.idle) this.queue.drainSync();
    this.requireOpen();
    const x = this.waiting;
    x.begin(BARRIER, options?.timeoutMs ?? this.timeoutMs);
    x.meetSync();
    x.end();
  }

  override allReduceSync(buf: Buf, op: ReduceOp = "sum", options?: OpOptions): void {
    if (!this.queue.idle) this.queue.drainSync();
    this.requireOpen();
    const timeoutMs = options?.timeoutMs ?? this.timeoutMs;
    if (this.#tiny.run(buf, op, timeoutMs)) return;
    const view = viewOf(buf, "the input"), { dtype, count } = view;
    if (typeof op !== "string" || options?.signal !== undefined) return this.allReduce(buf, op, options).waitSync();
    const x = this.waiting, reducer = x.reducers.get(dtype, op);
    if (isPairOp(op)) requirePairs(op, [count]);
    const code = encodeOperation({ verb: "allReduce", dtype, reduceOp: op, root: -1, count });
    if (view.bytes.length <= SMALL_BYTES) return this.#tiny.runSmall(view, { code, reducer, timeoutMs });
    x.begin(code, timeoutMs);
    for (const _ of reduce(x, { send: view, recv: view, reducer })) x.waitSync();
    x.end();
  }

  /** Messages under way; for the flight recorder. */
  protected get messages(): readonly string[] {
    return this.#mailbox?.describe() ?? [];
  }

  protected override sendView(view: View, dest: number, o: { tag: number; timeoutMs: number }): Work {
    return this.#mail().send(view, dest, o);
  }

  protected override recvView(
    view: View,
    source: number | "any",
    o: { tag: number | "any"; timeoutMs: number },
  ): Work<Received> {
    return this.#mail().recv(view, source, o);
  }

  protected override probeMessage(source: number | "any", o: { tag: number | "any"; timeoutMs: number }): Work<Probed> {
    return this.#mail().probe(source, o);
  }

  protected override takeBack(work: unknown, reason: unknown): boolean {
    return this.#mailbox?.takeBack(work, reason) === true;
  }

  #mail(): Mailbox {
    if (this.#mailbox === undefined) {
      const channel = (from: number, to: number) => this.channel(from, to);
      this.#mailbox = new Mailbox({ ...this.peers, rank: this.rank, size: this.size, runner: this.queue, channel });
      this.queue.attach(this.#mailbox);
    }
    return this.#mailbox;
  }
}
