/** The verbs of a communicator over a {@linkcode Meeting}: what they take, checked here; what they do is in collectives.ts. */
import type { DType } from "../../core/dtype.ts";
import { InputError } from "../../core/errors.ts";
import type { SymmetricArena } from "./arena.ts";
import {
  allocateTensor,
  type Buf,
  type CommDType,
  type ReduceOp,
  requireCount,
  requireSameDType,
  type SymmetricTensor,
  type View,
  viewOf,
} from "./buffers.ts";
import * as steps from "./collectives.ts";
import type {
  AllReduceOptions,
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
import { encodeOperation, type OperationCode } from "./control_block.ts";
import { CommunicatorError } from "./errors.ts";
import { Mailbox, type MailboxPeers, type Received } from "./mailbox.ts";
import type { Meeting } from "./meeting.ts";
import { makeMesh, type Mesh, type MeshOptions } from "./mesh.ts";
import { objectMessages, pack, unpack } from "./objects.ts";
import { canReduce, isPairOp, nameOf, premultiplied, requirePairs } from "./operations.ts";
import type { Reducer } from "./reduce_js.ts";
import { TinyAllReduce } from "./tiny_all_reduce.ts";
import { type AnyWork, type Work, WorkQueue } from "./work.ts";
import { workOfAll } from "./work_group.ts";

const BARRIER = encodeOperation({ verb: "barrier", dtype: undefined, reduceOp: undefined, root: -1, count: -1 });

/** What an engine adds is who is here, memory, new groups, and how to leave. */
export abstract class MeetingCommunicator implements Communicator {
  abstract readonly backend: "local" | "shm";
  abstract readonly name: string;
  abstract readonly ranks: readonly number[];
  abstract readonly localRank: number;
  abstract readonly cores: number;
  abstract readonly arena: SymmetricArena;
  readonly rank: number;
  readonly size: number;
  readonly objects: ObjectCollectives;
  /** How long collectives wait, unless told otherwise. */
  protected readonly timeoutMs: number;
  #x: Meeting;
  #queue: WorkQueue;
  #tiny: TinyAllReduce;
  #mailbox: Mailbox | undefined;
  /** What a group that is being called has issued so far. */
  #grouped: AnyWork[] | undefined;
  #open = true;

  protected constructor(meeting: Meeting, timeoutMs: number) {
    this.#x = meeting;
    this.#queue = new WorkQueue(meeting);
    this.#tiny = new TinyAllReduce(meeting);
    this.rank = meeting.rank;
    this.size = meeting.size;
    this.timeoutMs = timeoutMs;
    this.objects = this.#makeObjects();
  }

  abstract split(color: number | null, key?: number, options?: GroupOptions): Promise<Communicator | null>;
  abstract subgroup(ranks: readonly number[], options?: GroupOptions): Promise<Communicator>;

  /** The memory of messages from one rank to another, zeros at first. */
  protected abstract channel(from: number, to: number): Uint8Array;
  /** How messages wake and watch the other ranks. */
  protected abstract readonly peers: MailboxPeers;
  /** All-reduces on another thread; undefined where the engine has none. */
  protected inBackground(_send: View, _recv: View, _o: { op: ReduceOp; timeoutMs: number }): Work | undefined {
    return undefined;
  }
  /** Waits for what is under way on another thread, and ends that. */
  protected endBackground(): Promise<void> {
    return Promise.resolve();
  }
  /** Gives back what the engine holds; called once. */
  protected abstract release(): void;

  allocate(shape: readonly number[], dtype: CommDType): SymmetricTensor {
    this.requireOpen();
    return allocateTensor(this.arena, shape, dtype);
  }

  supports(dtype: CommDType, op?: ReduceOp, _verb?: Verb): boolean {
    return op === undefined || canReduce(dtype, op);
  }

  group(calls: () => void): Work {
    this.requireOpen();
    const outer = this.#grouped, works: AnyWork[] = [];
    this.#grouped = works;
    try {
      calls();
    } finally {
      this.#grouped = outer;
    }
    const all = workOfAll(works);
    outer?.push(all);
    return all;
  }

  mesh(axes: Readonly<Record<string, number>>, options?: MeshOptions): Promise<Mesh> {
    return makeMesh(this, axes, options);
  }

  barrier(options: OpOptions = {}): Work {
    return this.#issue(BARRIER, options, steps.barrier);
  }

  barrierSync(options?: OpOptions): void {
    if (!this.#queue.idle) this.#queue.drainSync();
    this.requireOpen();
    this.#x.begin(BARRIER, options?.timeoutMs ?? this.timeoutMs);
    this.#x.arrive();
    this.#x.waitSync();
    this.#x.end();
  }

  broadcast(buf: Buf, root: number, options: OpOptions = {}): Work {
    const view = viewOf(buf, "the buffer");
    this.requireRank(root);
    return this.#issue(this.#code("broadcast", view, { root }), options, (x) => steps.broadcast(x, view, root));
  }

  allReduce(buf: Buf, op: ReduceOp = "sum", options: AllReduceOptions = {}): Work {
    const own = viewOf(buf, "the input"), recv = receiver(own, options.recv);
    const { send, reducer } = this.#reduction(own, op);
    if (options.background === true && send.bytes.length > steps.SMALL_BYTES) {
      this.requireOpen();
      const o = { op: typeof op === "string" ? op : "sum" as const, timeoutMs: options.timeoutMs ?? this.timeoutMs };
      const work = this.inBackground(send, recv, o);
      if (work !== undefined) return this.#issued(work, options);
    }
    return this.#issue(this.#code("allReduce", send, { op }), options, (x) => steps.reduce(x, { send, recv, reducer }));
  }

  allReduceSync(buf: Buf, op: ReduceOp = "sum", options?: OpOptions): void {
    if (!this.#queue.idle) this.#queue.drainSync();
    this.requireOpen();
    const timeoutMs = options?.timeoutMs ?? this.timeoutMs;
    if (this.#tiny.run(buf, op, timeoutMs)) return;
    const view = viewOf(buf, "the input");
    if (view.bytes.length > steps.SMALL_BYTES || typeof op !== "string") {
      return this.allReduce(buf, op, options).waitSync();
    }
    const { reducer } = this.#reduction(view, op);
    this.#tiny.runSmall(view, { code: this.#code("allReduce", view, { op }), reducer, timeoutMs });
  }

  reduce(buf: Buf, root: number, op: ReduceOp = "sum", options: RecvOptions = {}): Work {
    this.requireRank(root);
    const own = viewOf(buf, "the input"), recv = this.rank === root ? receiver(own, options.recv) : undefined;
    const { send, reducer } = this.#reduction(own, op);
    return this.#issue(
      this.#code("reduce", send, { op, root }),
      options,
      (x) => steps.reduce(x, { send, recv, root, reducer }),
    );
  }

  allGather(buf: Buf, into: Buf, options: CountOptions = {}): Work {
    const send = viewOf(buf, "the input"), recv = viewOf(into, "the output");
    const counts = this.#counts(send, recv, options.counts ?? this.#even(send.count));
    return this.#issue(this.#code("allGather", recv), options, (x) => steps.gather(x, { send, recv, counts }));
  }

  reduceScatter(buf: Buf, into: Buf, op: ReduceOp = "sum", options: CountOptions = {}): Work {
    const own = viewOf(buf, "the input"), recv = viewOf(into, "the output");
    const counts = this.#counts(recv, own, options.counts ?? this.#even(recv.count));
    const { send, reducer } = this.#reduction(own, op, counts);
    return this.#issue(
      this.#code("reduceScatter", send, { op }),
      options,
      (x) => steps.reduceScatter(x, { send, recv, counts, reducer }),
    );
  }

  gather(buf: Buf, into: Buf | null, root: number, options: CountOptions = {}): Work {
    this.requireRank(root);
    const send = viewOf(buf, "the input"), counts = options.counts ?? this.#even(send.count);
    const recv = this.#atRoot(into, root, "the output");
    this.#counts(send, recv, counts);
    const total = sum(counts);
    return this.#issue(
      this.#code("gather", send, { root, count: total }),
      options,
      (x) => steps.gather(x, { send, recv, counts, root }),
    );
  }

  scatter(buf: Buf | null, into: Buf, root: number, options: CountOptions = {}): Work {
    this.requireRank(root);
    const recv = viewOf(into, "the output"), counts = options.counts ?? this.#even(recv.count);
    const send = this.#atRoot(buf, root, "the input");
    this.#counts(recv, send, counts);
    const total = sum(counts);
    return this.#issue(
      this.#code("scatter", recv, { root, count: total }),
      options,
      (x) => steps.scatter(x, { send, recv, counts, root }),
    );
  }

  allToAll(
    buf: Buf,
    into: Buf,
    options: OpOptions & { readonly sendCounts?: readonly number[]; readonly recvCounts?: readonly number[] } = {},
  ): Work {
    const send = viewOf(buf, "the input"), recv = viewOf(into, "the output");
    requireSameDType(send, recv);
    const sendCounts = options.sendCounts ?? this.#split(send), recvCounts = options.recvCounts ?? this.#split(recv);
    requireCount(send, sum(this.#perRank(sendCounts)), "the input");
    requireCount(recv, sum(this.#perRank(recvCounts)), "the output");
    const count = options.sendCounts === undefined && options.recvCounts === undefined ? send.count : -1;
    return this.#issue(
      this.#code("allToAll", send, { count }),
      options,
      (x) => steps.allToAll(x, { send, recv, sendCounts, recvCounts }),
    );
  }

  scan(buf: Buf, op: ReduceOp = "sum", options: RecvOptions & { readonly exclusive?: boolean } = {}): Work {
    const own = viewOf(buf, "the input"), recv = receiver(own, options.recv), exclusive = options.exclusive ?? false;
    const { send, reducer } = this.#reduction(own, op);
    return this.#issue(
      this.#code("scan", send, { op, root: exclusive ? 1 : 0 }),
      options,
      (x) => steps.scan(x, { send, recv, exclusive, reducer }),
    );
  }

  send(buf: Buf, dest: number, options: MessageOptions = {}): Work {
    this.requireOpen();
    this.requireRank(dest);
    const { tag = 0, timeoutMs = this.timeoutMs } = options;
    return this.#issued(this.#mail().send(viewOf(buf, "the message"), dest, { tag, timeoutMs }), options);
  }

  recv(buf: Buf, source: number | "any", options: ReceiveOptions = {}): Work<Received> {
    this.requireOpen();
    if (source !== "any") this.requireRank(source);
    const { tag = 0, timeoutMs = this.timeoutMs } = options;
    return this.#issued(this.#mail().recv(viewOf(buf, "the message's buffer"), source, { tag, timeoutMs }), options);
  }

  async sendRecv(
    message: { readonly send: Buf; readonly dest: number },
    reply: { readonly recv: Buf; readonly source: number | "any" },
    options: MessageOptions = {},
  ): Promise<Received> {
    const sent = this.send(message.send, message.dest, options);
    const [received] = await Promise.all([this.recv(reply.recv, reply.source, options), sent]);
    return received;
  }

  abort(reason: string): void {
    this.#x.abort(new CommunicatorError(`Rank ${this.ranks[this.rank]} aborted group "${this.name}": ${reason}`));
  }

  async close(options: OpOptions = {}): Promise<void> {
    if (!this.#open) return;
    try {
      await this.endBackground();
      await this.#issue(this.#code("close"), options, steps.barrier);
    } finally {
      this.#leave();
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#leave();
    return Promise.resolve();
  }

  /** Collectives that wait for their turn, and messages under way; for the flight recorder. */
  protected get queued(): readonly { readonly code: OperationCode; readonly at: number }[] {
    return this.#queue.queued;
  }
  protected get messages(): readonly string[] {
    return this.#mailbox?.describe() ?? [];
  }

  /** @throws {InputError} Unless `rank` is one of this group. */
  protected requireRank(rank: number): void {
    if (Number.isInteger(rank) && rank >= 0 && rank < this.size) return;
    throw new InputError(`Cannot use ${rank} as a rank: expected 0 to ${this.size - 1}`);
  }

  /** @throws {InputError} Unless `ranks` are a group that this rank can make. */
  protected requireMembers(ranks: readonly number[]): void {
    for (const rank of ranks) this.requireRank(rank);
    if (ranks.includes(this.rank) && new Set(ranks).size === ranks.length) return;
    throw new InputError(`Cannot make a subgroup of ranks ${ranks.join(", ")} at rank ${this.rank}`, {
      hint: "name each member once, and call it at the members only",
    });
  }

  /** @throws {CommunicatorError} If this rank has left. */
  protected requireOpen(): void {
    if (!this.#open) throw new CommunicatorError(`Cannot use group "${this.name}": it is closed`);
  }

  #leave(): void {
    if (!this.#open) return;
    this.#open = false;
    this.release();
  }

  #mail(): Mailbox {
    if (this.#mailbox === undefined) {
      const channel = (from: number, to: number) => this.channel(from, to);
      this.#mailbox = new Mailbox({ ...this.peers, rank: this.rank, size: this.size, runner: this.#queue, channel });
      this.#queue.attach(this.#mailbox);
    }
    return this.#mailbox;
  }

  #issue<T>(code: OperationCode, options: OpOptions, start: (x: Meeting) => steps.Steps<T>): Work<T> {
    this.requireOpen();
    return this.#issued(this.#queue.issue(code, options.timeoutMs ?? this.timeoutMs, start), options);
  }

  /** Puts `work` into the group that is being called, and lets its signal end it. */
  #issued<T>(work: Work<T>, options: OpOptions): Work<T> {
    this.#grouped?.push(work);
    const { signal } = options;
    if (signal === undefined || work.settled) return work;
    const cancel = () => {
      if (work.settled || this.#mailbox?.takeBack(work, signal.reason) === true) return;
      this.abort(`a collective or message was cancelled: ${signal.reason}`);
      this.#queue.kick(); // so that what is under way fails now
    };
    if (signal.aborted) cancel();
    else {
      signal.addEventListener("abort", cancel, { once: true });
      work.whenSettled(() => signal.removeEventListener("abort", cancel), { watching: false });
    }
    return work;
  }

  #makeObjects(): ObjectCollectives {
    const run = <T>(verb: string, root: number, start: (x: Meeting) => steps.Steps<T>) =>
      this.#issue(this.#code(verb, undefined, { root }), {}, start);
    return {
      broadcast: async <T>(value: T | undefined, root: number): Promise<T> => {
        this.requireRank(root);
        const payload = this.rank === root ? pack(value) : new Uint8Array();
        return unpack<T>(await run("broadcast", root, (x) => steps.broadcastBytes(x, payload, root)));
      },
      allGather: async <T>(value: T): Promise<T[]> => {
        const payload = pack(value);
        return (await run("allGather", -1, (x) => steps.gatherBytes(x, payload))).map(unpack<T>);
      },
      gather: async <T>(value: T, root: number): Promise<T[] | null> => {
        this.requireRank(root);
        const payload = pack(value);
        const all = await run("gather", root, (x) => steps.gatherBytes(x, payload, root));
        return this.rank === root ? all.map(unpack<T>) : null;
      },
      scatter: async <T>(values: readonly T[] | null, root: number): Promise<T> => {
        this.requireRank(root);
        if (this.rank === root && values?.length !== this.size) {
          throw new InputError(`Cannot scatter ${values?.length ?? "no"} values to ${this.size} ranks`);
        }
        const payloads = this.rank === root ? values!.map(pack) : undefined;
        return unpack<T>(await run("scatter", root, (x) => steps.scatterBytes(x, payloads, root)));
      },
      ...objectMessages(this),
    };
  }

  #code(verb: string, view?: View, o: { op?: ReduceOp; root?: number; count?: number } = {}): OperationCode {
    return encodeOperation({
      verb,
      dtype: view?.dtype as DType | undefined,
      reduceOp: o.op === undefined ? undefined : nameOf(o.op),
      root: o.root ?? -1,
      count: o.count ?? view?.count ?? -1,
    });
  }

  /** How `op` reduces, and what of: `own`, or its products. */
  #reduction(own: View, op: ReduceOp, counts?: readonly number[]): { readonly send: View; readonly reducer: Reducer } {
    if (typeof op !== "string") {
      return { send: premultiplied(own, op), reducer: this.#x.reducers.get(own.dtype, "sum") };
    }
    const reducer = this.#x.reducers.get(own.dtype, op);
    if (isPairOp(op)) requirePairs(op, counts ?? [own.count]);
    return { send: own, reducer };
  }

  #atRoot(buf: Buf | null, root: number, what: string): View | undefined {
    if (this.rank !== root) return undefined;
    if (buf === null) throw new InputError(`Cannot do without ${what} at root ${root}`);
    return viewOf(buf, what);
  }

  /** Checks a collective of blocks: `own` is one rank's, `all` those of all ranks. */
  #counts(own: View, all: View | undefined, counts: readonly number[]): readonly number[] {
    requireCount(own, this.#perRank(counts)[this.rank]!, "this rank's block");
    if (all === undefined) return counts;
    requireSameDType(own, all);
    requireCount(all, sum(counts), `the blocks of ${this.size} ranks`);
    return counts;
  }

  #perRank(counts: readonly number[]): readonly number[] {
    if (counts.length === this.size && counts.every((n) => Number.isSafeInteger(n) && n >= 0)) return counts;
    throw new InputError(`Cannot use [${counts.join(", ")}] as the counts of ${this.size} ranks`);
  }

  #even(count: number): number[] {
    return Array.from({ length: this.size }, () => count);
  }

  #split(view: View): number[] {
    if (view.count % this.size === 0) return this.#even(view.count / this.size);
    throw new InputError(`Cannot cut ${view.count} elements into ${this.size} equal blocks`, {
      hint: "pass sendCounts and recvCounts",
    });
  }
}

function receiver(send: View, recv: Buf | undefined): View {
  if (recv === undefined) return send;
  const view = viewOf(recv, "the output");
  requireSameDType(send, view);
  requireCount(view, send.count, "the output");
  return view;
}

function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}
