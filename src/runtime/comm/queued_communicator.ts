/**
 * The verbs of a communicator whose engine gives its collectives as steps: arguments are checked here, when a verb is called, and
 * the steps are taken one collective after the other, in the order of the calls.
 */
import type { DType } from "../../core/dtype.ts";
import { InputError } from "../../core/errors.ts";
import type { SymmetricArena } from "./arena.ts";
import { overlap, requireRank, requireTag, requireTimeout } from "./arguments.ts";
import { atRoot, blockCounts, even, evenBlocks, perRank, receiver, reduction, sum } from "./blocks.ts";
import {
  type Buf,
  COMM_DTYPES,
  type CommDType,
  type ReduceOp,
  type ReduceOpName,
  requireCount,
  requireSameDType,
  type SymmetricTensor,
  type View,
  viewOf,
} from "./buffers.ts";
import { type CollectiveSteps, gatherBytes } from "./collective_steps.ts";
import type { Steps } from "./collectives.ts";
import type {
  AllReduceOptions,
  AllToAllOptions,
  Communicator,
  CountOptions,
  GroupOptions,
  MessageOptions,
  ObjectCollectives,
  OpOptions,
  ReceiveOptions,
  RecvOptions,
  Verb,
} from "./communicator.ts";
import { countList, encodeOperation, type OperationCode } from "./control_block.ts";
import { placed, withLayouts } from "./displacements.ts";
import { CommunicatorError } from "./errors.ts";
import type { Probed, Received } from "./mailbox.ts";
import { makeMesh, type Mesh, type MeshOptions } from "./mesh.ts";
import { objectCollectives, pack, unpack } from "./objects.ts";
import { canReduce, nameOf } from "./operations.ts";
import type { AnyWork, Waiting, Work, WorkQueue } from "./work.ts";
import { workOfAll } from "./work_group.ts";

/** The operation of a barrier. */
export const BARRIER: OperationCode = encodeOperation({
  ...{ verb: "barrier", dtype: undefined, reduceOp: undefined, root: -1, count: -1 },
});

/** Who a communicator is, and what does its work. */
export interface QueuedOptions<X extends Waiting> {
  readonly name: string;
  readonly rank: number;
  /** The members as ranks of the job. */
  readonly ranks: readonly number[];
  readonly timeoutMs: number;
  readonly localRank: number;
  readonly cores: number;
  readonly waiting: X;
  readonly queue: WorkQueue<X>;
  readonly steps: CollectiveSteps;
}

/** What an engine adds is messages, memory, new groups, and how to leave. */
export abstract class QueuedCommunicator<X extends Waiting> implements Communicator {
  abstract readonly backend: Communicator["backend"];
  abstract readonly arena: SymmetricArena;
  readonly name: string;
  readonly rank: number;
  readonly size: number;
  readonly ranks: readonly number[];
  readonly localRank: number;
  readonly cores: number;
  readonly objects: ObjectCollectives;
  /** How long collectives wait, unless told otherwise. */
  protected readonly timeoutMs: number;
  /** The engine's side. */
  protected readonly waiting: X;
  protected readonly queue: WorkQueue<X>;
  protected readonly steps: CollectiveSteps;
  /** What a group that is being called has issued so far. */
  #grouped: AnyWork[] | undefined;
  #open = true;

  protected constructor(o: QueuedOptions<X>) {
    this.name = o.name;
    this.rank = o.rank;
    this.size = o.ranks.length;
    this.ranks = o.ranks;
    this.localRank = o.localRank;
    this.cores = o.cores;
    this.timeoutMs = o.timeoutMs;
    this.waiting = o.waiting;
    this.queue = o.queue;
    this.steps = o.steps;
    this.objects = objectCollectives(this, this.steps, (call, options, start) => this.#issue(call, options, start));
  }

  abstract allocate(shape: readonly number[], dtype: CommDType): SymmetricTensor;
  abstract split(color: number | null, key?: number, options?: GroupOptions): Promise<Communicator | null>;
  abstract subgroup(ranks: readonly number[], options?: GroupOptions): Promise<Communicator>;
  /** Sends what is checked already. */
  protected abstract sendView(view: View, dest: number, o: { tag: number; timeoutMs: number }): Work;
  protected abstract recvView(
    view: View,
    source: number | "any",
    o: { tag: number | "any"; timeoutMs: number },
  ): Work<Received>;
  /** Waits for a message and leaves it. */
  protected abstract probeMessage(source: number | "any", o: { tag: number | "any"; timeoutMs: number }): Work<Probed>;
  /** Takes a receive or probe back that no message has met; whether it did. */
  protected abstract takeBack(work: unknown, reason: unknown): boolean;
  /** What tells the ranks of this host from those of others; where there is one host only, nothing must. */
  protected get host(): string {
    return "";
  }
  /** All-reduces on another thread; undefined where the engine has none, or it is not worth it. */
  protected inBackground(_send: View, _recv: View, _o: { op: ReduceOpName; timeoutMs: number }): Work | undefined {
    return undefined;
  }
  /** Waits for what is under way on another thread, and ends that. */
  protected endBackground(): Promise<void> {
    return Promise.resolve();
  }
  /** Gives back what the engine holds; called once. `agreed`: all ranks are leaving. */
  protected abstract release(agreed: boolean): void;

  supports(dtype: CommDType, op?: ReduceOp, _verb?: Verb): boolean {
    return COMM_DTYPES.includes(dtype) && (op === undefined || canReduce(dtype, op));
  }

  group(calls: () => void): Work {
    this.requireOpen();
    const outer = this.#grouped, works: AnyWork[] = [];
    this.#grouped = works;
    try {
      const returned: unknown = calls();
      if (returned instanceof Promise) {
        returned.catch(() => {}); // the error below is the first to be told
        throw new InputError("Cannot group the calls of an async function: those after its first await come too late", {
          hint: "pass a function that only calls, and await the group",
        });
      }
    } finally {
      this.#grouped = outer;
    }
    const all = workOfAll(works);
    outer?.push(all);
    return all;
  }

  mesh(axes: Readonly<Record<string, number>>, options?: MeshOptions): Promise<Mesh> {
    return makeMesh(this, axes, options, (layout) => this.shareValues("mesh", layout));
  }

  async splitByHost(options: GroupOptions = {}): Promise<Communicator> {
    const hosts = await this.shareValues("splitByHost", this.host);
    return (await this.split(hosts.indexOf(this.host), 0, options))!;
  }

  barrier(options: OpOptions = {}): Work {
    return this.#issueCode(BARRIER, options, () => this.steps.barrier());
  }

  barrierSync(options: OpOptions = {}): void {
    this.barrier(options).waitSync();
  }

  broadcast(buf: Buf, root: number, options: OpOptions = {}): Work {
    const view = viewOf(buf, "the buffer");
    requireRank(this, root);
    return this.#issue({ verb: "broadcast", view, root }, options, () => this.steps.broadcast(view, root));
  }

  allReduce(buf: Buf, op: ReduceOp = "sum", options: AllReduceOptions = {}): Work {
    const own = viewOf(buf, "the input"), recv = receiver(own, options.recv);
    const { send, by } = reduction(own, op);
    if (options.background === true) {
      this.requireOpen();
      if (options.signal?.aborted) this.#cancel(options.signal.reason);
      const work = this.inBackground(send, recv, { op: by, timeoutMs: options.timeoutMs ?? this.timeoutMs });
      if (work !== undefined) return this.#issued(work, options);
    }
    return this.#issue(
      { verb: "allReduce", view: send, op },
      options,
      () => this.steps.allReduce({ send, recv, op: by }),
    );
  }

  allReduceSync(buf: Buf, op: ReduceOp = "sum", options: OpOptions = {}): void {
    this.allReduce(buf, op, options).waitSync();
  }

  reduce(buf: Buf, root: number, op: ReduceOp = "sum", options: RecvOptions = {}): Work {
    requireRank(this, root);
    const own = viewOf(buf, "the input"), recv = this.rank === root ? receiver(own, options.recv) : undefined;
    const { send, by } = reduction(own, op);
    return this.#issue(
      { verb: "reduce", view: send, op, root },
      options,
      () => this.steps.reduce({ send, recv, op: by, root }),
    );
  }

  allGather(buf: Buf, into: Buf, options: CountOptions = {}): Work {
    const send = viewOf(buf, "the input"), recv = viewOf(into, "the output");
    const counts = blockCounts(this, send, recv, options.counts ?? even(this, send.count), options.displs);
    const to = placed(recv, counts, options.displs, { what: "the output", written: true });
    const room = to?.packed ?? recv;
    return this.#issue(
      { verb: "allGather", view: room, counts },
      options,
      () => withLayouts({ to }, () => this.steps.allGather({ send, recv: room, counts })),
    );
  }

  reduceScatter(buf: Buf, into: Buf, op: ReduceOp = "sum", options: CountOptions = {}): Work {
    const own = viewOf(buf, "the input"), recv = viewOf(into, "the output");
    const counts = blockCounts(this, recv, own, options.counts ?? even(this, recv.count));
    const { send, by } = reduction(own, op, counts);
    return this.#issue(
      { verb: "reduceScatter", view: send, op, counts },
      options,
      () => this.steps.reduceScatter({ send, recv, counts, op: by }),
    );
  }

  gather(buf: Buf, into: Buf | null, root: number, options: CountOptions = {}): Work {
    requireRank(this, root);
    const send = viewOf(buf, "the input"), recv = atRoot(this, into, root, "the output");
    const counts = blockCounts(this, send, recv, options.counts ?? even(this, send.count), options.displs);
    const to = placed(recv, counts, options.displs, { what: "the output", written: true });
    return this.#issue(
      { verb: "gather", view: send, root, count: sum(counts), counts },
      options,
      () => withLayouts({ to }, () => this.steps.gather({ send, recv: to?.packed ?? recv, counts, root })),
    );
  }

  scatter(buf: Buf | null, into: Buf, root: number, options: CountOptions = {}): Work {
    requireRank(this, root);
    const recv = viewOf(into, "the output"), send = atRoot(this, buf, root, "the input");
    const counts = blockCounts(this, recv, send, options.counts ?? even(this, recv.count), options.displs);
    const from = placed(send, counts, options.displs, { what: "the input", written: false });
    return this.#issue(
      { verb: "scatter", view: recv, root, count: sum(counts), counts },
      options,
      () => withLayouts({ from }, () => this.steps.scatter({ send: from?.packed ?? send, recv, counts, root })),
    );
  }

  allToAll(buf: Buf, into: Buf, options: AllToAllOptions = {}): Work {
    const send = viewOf(buf, "the input"), recv = viewOf(into, "the output"), { sendDispls, recvDispls } = options;
    requireSameDType(send, recv);
    const sendCounts = perRank(this, options.sendCounts ?? evenBlocks(this, send, sendDispls));
    const recvCounts = perRank(this, options.recvCounts ?? evenBlocks(this, recv, recvDispls));
    if (sendDispls === undefined) requireCount(send, sum(sendCounts), "the input");
    if (recvDispls === undefined) requireCount(recv, sum(recvCounts), "the output");
    const from = placed(send, sendCounts, sendDispls, { what: "the input", written: false });
    const to = placed(recv, recvCounts, recvDispls, { what: "the output", written: true });
    const even = options.sendCounts === undefined && options.recvCounts === undefined;
    const blocks = { send: from?.packed ?? send, recv: to?.packed ?? recv, sendCounts, recvCounts };
    return this.#issue(
      { verb: "allToAll", view: send, count: even ? send.count : -1 },
      options,
      () => withLayouts({ from, to }, () => this.steps.allToAll(blocks)),
    );
  }

  scan(buf: Buf, op: ReduceOp = "sum", options: RecvOptions & { readonly exclusive?: boolean } = {}): Work {
    const own = viewOf(buf, "the input"), recv = receiver(own, options.recv), exclusive = options.exclusive ?? false;
    const { send, by } = reduction(own, op);
    return this.#issue(
      { verb: "scan", view: send, op, root: exclusive ? 1 : 0 },
      options,
      () => this.steps.scan({ send, recv, op: by, exclusive }),
    );
  }

  send(buf: Buf, dest: number, options: MessageOptions = {}): Work {
    this.requireOpen();
    requireRank(this, dest);
    const { tag = 0, timeoutMs = this.timeoutMs } = options;
    requireTag(tag);
    requireTimeout(timeoutMs);
    return this.#issued(this.sendView(viewOf(buf, "the message"), dest, { tag, timeoutMs }), options);
  }

  recv(buf: Buf, source: number | "any", options: ReceiveOptions = {}): Work<Received> {
    this.requireOpen();
    const { tag, timeoutMs } = this.#envelope(source, options);
    return this.#issued(this.recvView(viewOf(buf, "the message's buffer"), source, { tag, timeoutMs }), options);
  }

  probe(source: number | "any", options: ReceiveOptions = {}): Work<Probed> {
    this.requireOpen();
    const { tag, timeoutMs } = this.#envelope(source, options);
    return this.#issued(this.probeMessage(source, { tag, timeoutMs }), options);
  }

  async sendRecv(
    message: { readonly send: Buf; readonly dest: number },
    reply: { readonly recv: Buf; readonly source: number | "any" },
    options: MessageOptions = {},
  ): Promise<Received> {
    // One buffer for both, as MPI's Sendrecv_replace: what is sent must not change while it is replaced.
    const out = viewOf(message.send, "the message"), shared = overlap(out, viewOf(reply.recv, "the message's buffer"));
    const sent = this.send(
      shared ? { data: out.bytes.slice(), dtype: out.dtype } : message.send,
      message.dest,
      options,
    );
    const [received] = await Promise.all([this.recv(reply.recv, reply.source, options), sent]);
    return received;
  }

  abort(reason: string): void {
    this.stop(new CommunicatorError(`Rank ${this.ranks[this.rank]} aborted group "${this.name}": ${reason}`));
  }

  /** Stops the group for all its ranks, with `error` at this one. */
  protected stop(error: CommunicatorError): void {
    this.waiting.abort(error);
  }

  #cancel(reason: unknown): void {
    const text = `a collective or message was cancelled: ${reason}`;
    this.stop(
      new CommunicatorError(`Rank ${this.ranks[this.rank]} aborted group "${this.name}": ${text}`, { cause: reason }),
    );
  }

  async close(options: OpOptions = {}): Promise<void> {
    if (!this.#open) return;
    let agreed = false;
    try {
      await this.endBackground();
      await this.#issue({ verb: "close" }, options, () => this.steps.barrier());
      agreed = true;
    } finally {
      this.#leave(agreed);
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#leave(false);
    return Promise.resolve();
  }

  /** The values of all ranks, for what is a collective of its own by the name of `verb`. */
  protected async shareValues<T>(verb: "split" | "splitByHost" | "mesh", value: T): Promise<T[]> {
    const payload = pack(value);
    return (await this.#issue({ verb }, {}, () => gatherBytes(this.steps, this, payload))).map(unpack<T>);
  }

  /** @throws {InputError} Unless `ranks` are a group that this rank can make. */
  protected requireMembers(ranks: readonly number[]): void {
    for (const rank of ranks) requireRank(this, rank);
    if (ranks.includes(this.rank) && new Set(ranks).size === ranks.length) return;
    throw new InputError(`Cannot make a subgroup of ranks ${ranks.join(", ")} at rank ${this.rank}`, {
      hint: "name each member once, and call it at the members only",
    });
  }

  /** @throws {CommunicatorError} If this rank has left. */
  protected requireOpen(): void {
    if (!this.#open) throw new CommunicatorError(`Cannot use group "${this.name}": it is closed`);
  }

  #leave(agreed: boolean): void {
    if (!this.#open) return;
    this.#open = false;
    this.release(agreed);
    this.queue.close(new CommunicatorError(`Group "${this.name}" was closed before this was done`));
  }

  #issue<T>(
    call: { verb: string; view?: View; op?: ReduceOp; root?: number; count?: number; counts?: readonly number[] },
    options: OpOptions,
    start: () => Steps<T>,
  ): Work<T> {
    this.requireOpen();
    const code = encodeOperation({
      verb: call.verb,
      dtype: call.view?.dtype as DType | undefined,
      reduceOp: call.op === undefined ? undefined : nameOf(call.op),
      root: call.root ?? -1,
      count: call.count ?? call.view?.count ?? -1,
      counts: countList(call.counts),
    });
    return this.#issueCode(code, options, start);
  }

  #issueCode<T>(code: OperationCode, options: OpOptions, start: () => Steps<T>): Work<T> {
    this.requireOpen();
    requireTimeout(options.timeoutMs);
    // Whether the others happen to be there already must not decide what becomes of it.
    if (options.signal?.aborted) this.#cancel(options.signal.reason);
    return this.#issued(this.queue.issue(code, options.timeoutMs ?? this.timeoutMs, start), options);
  }

  /** Puts `work` into the group that is being called, and lets its signal end it. */
  #issued<T>(work: Work<T>, options: OpOptions): Work<T> {
    this.#grouped?.push(work);
    const { signal } = options;
    if (signal === undefined || work.settled) return work;
    const cancel = () => {
      if (work.settled || this.takeBack(work, signal.reason)) return;
      this.#cancel(signal.reason);
      this.queue.kick(); // so that what is under way fails now
    };
    if (signal.aborted) cancel();
    else {
      signal.addEventListener("abort", cancel, { once: true });
      work.whenSettled(() => signal.removeEventListener("abort", cancel), { watching: false });
    }
    return work;
  }

  #envelope(source: number | "any", options: ReceiveOptions): { tag: number | "any"; timeoutMs: number } {
    if (source !== "any") requireRank(this, source);
    const { tag = 0, timeoutMs = this.timeoutMs } = options;
    if (tag !== "any") requireTag(tag);
    requireTimeout(timeoutMs);
    return { tag, timeoutMs };
  }
}
