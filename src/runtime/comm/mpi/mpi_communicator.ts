/** The communicator over libmpi: between hosts, by whatever network MPI uses. */
import { type Handle, MPI_UNDEFINED } from "../../../ffi/mpi.ts";
import {
  allocateTensor,
  type Buf,
  type CommDType,
  type ReduceOp,
  type SymmetricTensor,
  type View,
  viewOf,
} from "../buffers.ts";
import { requirePlace } from "../arguments.ts";
import type { GroupOptions, OpOptions } from "../communicator.ts";
import type { FlightRecorder } from "../flight_recorder.ts";
import type { Probed, Received } from "../mailbox.ts";
import { isPairOp } from "../operations.ts";
import { PrivateArena } from "../private_arena.ts";
import type { ProcessIdentity } from "../process_identity.ts";
import { QueuedCommunicator } from "../queued_communicator.ts";
import { type Work, WorkQueue } from "../work.ts";
import { meet } from "./meet.ts";
import { MpiGroup } from "./mpi_group.ts";
import { type Envelope, MpiMessages } from "./mpi_messages.ts";
import type { MpiRuntime } from "./mpi_runtime.ts";
import { MpiSteps, pinned } from "./mpi_steps.ts";
import type { Notices } from "./notices.ts";
import { wireOf } from "./wire.ts";

/** Elements of the longest reduction that is done by a blocking call. */
const BLOCKING_MOST = 2 ** 24;

/** What all groups of a process share. */
export interface MpiJob {
  readonly runtime: MpiRuntime;
  readonly notices: Notices;
  /** The communicator of all ranks that notices and meetings use. */
  readonly side: Handle;
  /** Whether all ranks tell each other what they call before each collective. */
  readonly checked: boolean;
  /** Names of the hosts of all ranks of the job. */
  readonly hosts: readonly string[];
  /** The processes of the ranks of the job that this one can see. */
  readonly processes: readonly (ProcessIdentity | undefined)[];
  readonly localRank: number;
  readonly cores: number;
  readonly flight: FlightRecorder;
}

/** Which group, and as whom. */
export interface MpiMembership {
  readonly comm: Handle;
  readonly name: string;
  readonly rank: number;
  /** The members as ranks of the job. */
  readonly ranks: readonly number[];
  readonly timeoutMs: number;
  /** Whether it is the whole job's, with which MPI ends. */
  readonly world?: boolean;
}

/** Ranks that MPI joins. */
export class MpiCommunicator extends QueuedCommunicator<MpiGroup> {
  readonly backend = "mpi";
  /** Memory that collectives take; over MPI no rank can read another's. */
  readonly arena: PrivateArena;
  #job: MpiJob;
  #world: boolean;
  #messages: MpiMessages;
  #splits = 0;
  #subgroups = new Map<string, number>();

  constructor(job: MpiJob, o: MpiMembership) {
    const group: MpiGroup = new MpiGroup({
      ...{ ...job, ...o },
      pending: { queued: () => queue.queued, messages: () => messages.describe() },
    });
    const queue: WorkQueue<MpiGroup> = new WorkQueue(group), messages = new MpiMessages(group, queue);
    super({ ...job, ...o, waiting: group, queue, steps: new MpiSteps(group) });
    this.arena = new PrivateArena(o.rank, "mpi");
    this.#job = job;
    this.#world = o.world ?? false;
    this.#messages = messages;
    queue.attach(messages);
    job.runtime.attach(queue);
  }

  allocate(shape: readonly number[], dtype: CommDType): SymmetricTensor {
    this.requireOpen();
    return allocateTensor(this.arena, shape, dtype);
  }

  /** With no time limit (`timeoutMs: Infinity`) by MPI's blocking call, which is faster, and deaf to everything else. */
  override barrierSync(options: OpOptions = {}): void {
    if (!this.#unlimited(options)) return super.barrierSync(options);
    const { runtime } = this.#job;
    runtime.check(runtime.symbols.MPI_Barrier(this.waiting.comm), "MPI_Barrier");
  }

  /** With no time limit (`timeoutMs: Infinity`) by MPI's blocking call, which is faster, and deaf to everything else. */
  override allReduceSync(buf: Buf, op: ReduceOp = "sum", options: OpOptions = {}): void {
    if (!this.#unlimited(options) || typeof op !== "string" || isPairOp(op)) {
      return super.allReduceSync(buf, op, options);
    }
    const { bytes, dtype } = viewOf(buf, "the input"), wire = wireOf(dtype, op), { runtime } = this.#job;
    const memory = pinned(wire.encode?.(bytes) ?? bytes), count = memory.length / wire.itemBytes;
    if (count > BLOCKING_MOST) return super.allReduceSync(buf, op, options);
    const { symbols, library } = runtime, { handles } = library;
    const code = symbols.MPI_Allreduce_in_place(
      library.inPlace,
      memory,
      count,
      handles[wire.type],
      handles[wire.op],
      this.waiting.comm,
    );
    runtime.check(code, "MPI_Allreduce");
    wire.decode?.(memory, bytes, this.size);
  }

  // deno-lint-ignore require-await -- so that errors reject
  async split(color: number | null, key = 0, options: GroupOptions = {}): Promise<MpiCommunicator | null> {
    this.requireOpen();
    requirePlace(color, key);
    const place = this.#splits++, { runtime } = this.#job;
    return runtime.inTurn(async () => {
      const all = (await this.shareValues("split", { color, key })).map((m, rank) => ({ ...m, rank }));
      const members = all.filter((m) => m.color !== null && m.color === color);
      members.sort((a, b) => a.key - b.key || a.rank - b.rank);
      // MPI's colors are natural numbers; all ranks number the colors alike.
      const colors = [...new Set(all.map((m) => m.color))].filter((c) => c !== null);
      const nth = color === null ? MPI_UNDEFINED : colors.indexOf(color);
      const position = Math.max(0, members.findIndex((m) => m.rank === this.rank));
      const code = runtime.symbols.MPI_Comm_split(this.waiting.comm, nth, position, runtime.scratch.handle);
      runtime.check(code, "MPI_Comm_split");
      if (color === null) return null;
      return this.#child(members.map((m) => m.rank), `${this.name}.${place}.${color}`, options);
    });
  }

  // deno-lint-ignore require-await -- so that errors reject
  async subgroup(ranks: readonly number[], options: GroupOptions = {}): Promise<MpiCommunicator> {
    this.requireOpen();
    this.requireMembers(ranks);
    const members = ranks.join("-"), nth = this.#subgroups.get(members) ?? 0, { runtime } = this.#job;
    this.#subgroups.set(members, nth + 1);
    const name = `${this.name}.s${members}.${nth}`;
    return runtime.inTurn(async () => {
      await meet({
        runtime,
        comm: this.#job.side,
        ranks: ranks.map((r) => this.ranks[r]!),
        me: this.ranks[this.rank]!,
        key: name,
        timeoutMs: options.timeoutMs ?? this.timeoutMs,
        check: () => this.waiting.listen(),
      });
      this.#createGroup(ranks, nth);
      return this.#child(ranks, name, options);
    });
  }

  protected override sendView(view: View, dest: number, o: Envelope<number>): Work {
    return this.#messages.send(view, dest, o);
  }

  protected override recvView(view: View, source: number | "any", o: Envelope<number | "any">): Work<Received> {
    return this.#messages.recv(view, source, o);
  }

  protected override probeMessage(source: number | "any", o: Envelope<number | "any">): Work<Probed> {
    return this.#messages.probe(source, o);
  }

  protected override get host(): string {
    return this.#job.hosts[this.ranks[this.rank]!] ?? "";
  }

  override takeBack(work: unknown, reason: unknown): boolean {
    return this.#messages.takeBack(work, reason);
  }

  protected override release(agreed: boolean): void {
    const { runtime } = this.#job, clean = this.queue.idle && !this.#messages.busy && !this.waiting.failed;
    this.arena[Symbol.dispose]();
    runtime.detach(this.queue);
    this.waiting.release();
    if (!clean) return;
    if (!this.#world) runtime.free(this.waiting.comm);
    else if (agreed) runtime.finalize();
  }

  /** Whether a blocking call may be made now. */
  #unlimited(options: OpOptions): boolean {
    if ((options.timeoutMs ?? this.timeoutMs) !== Infinity || options.signal !== undefined) return false;
    this.requireOpen();
    if (!this.queue.idle) this.queue.drainSync();
    this.waiting.listen();
    return !this.#job.checked;
  }

  /** Makes the MPI communicator of `ranks` in the scratch handle. */
  #createGroup(ranks: readonly number[], tag: number): void {
    const { symbols, scratch, library } = this.#job.runtime,
      check = (code: number, call: string) => this.#job.runtime.check(code, call);
    check(symbols.MPI_Comm_group(this.waiting.comm, scratch.handle), "MPI_Comm_group");
    const all = this.#job.runtime.takeHandle(), wholeGroup = scratch.handle.slice();
    check(symbols.MPI_Group_incl(all, ranks.length, Int32Array.from(ranks), scratch.handle), "MPI_Group_incl");
    const some = library.abi.readHandle(scratch.handle), group = scratch.handle.slice();
    check(symbols.MPI_Comm_create_group(this.waiting.comm, some, tag, scratch.handle), "MPI_Comm_create_group");
    symbols.MPI_Group_free(group);
    symbols.MPI_Group_free(wholeGroup);
  }

  /** The group whose handle MPI has just written. */
  #child(members: readonly number[], name: string, options: GroupOptions): MpiCommunicator {
    return new MpiCommunicator(this.#job, {
      comm: this.#job.runtime.takeHandle(),
      name: options.name === undefined ? name : `${name}.${options.name}`,
      rank: members.indexOf(this.rank),
      ranks: members.map((r) => this.ranks[r]!),
      timeoutMs: options.timeoutMs ?? this.timeoutMs,
    });
  }
}
