/** The communicator of several hosts: shared memory within each, MPI between them. */
import type { SymmetricArena } from "../arena.ts";
import { allocateTensor, type CommDType, type SymmetricTensor, type View } from "../buffers.ts";
import type { Communicator, GroupOptions, OpOptions } from "../communicator.ts";
import type { Probed, Received } from "../mailbox.ts";
import { QueuedCommunicator } from "../queued_communicator.ts";
import { type Work, WorkQueue } from "../work.ts";
import { HostArena } from "./host_arena.ts";
import { HybridSteps, type Levels } from "./hybrid_steps.ts";
import { HybridWaiting } from "./hybrid_waiting.ts";
import type { MpiCommunicator, MpiJob } from "./mpi_communicator.ts";
import type { Envelope } from "./mpi_messages.ts";

/** What all groups of a process share. */
export interface HybridJob {
  readonly mpi: MpiJob;
  /** All ranks of the job on this host, by shared memory. */
  readonly host: Communicator;
  /** Makes groups one after the other, in the order of the calls. */
  readonly inTurn: <T>(make: () => Promise<T>) => Promise<T>;
}

/** The communicators that one is made of. */
export interface HybridLevels extends Levels {
  readonly all: MpiCommunicator;
  readonly leaders: MpiCommunicator | null;
}

/** Ranks of any hosts. */
export class HybridCommunicator extends QueuedCommunicator<HybridWaiting> {
  readonly backend = "shm+mpi";
  /** Memory that the ranks of this host can read. */
  readonly arena: SymmetricArena;
  #job: HybridJob;
  #levels: HybridLevels;
  #world: boolean;

  private constructor(job: HybridJob, levels: HybridLevels, o: { timeoutMs: number; world: boolean }) {
    const { all, host, leaders } = levels;
    const waiting = new HybridWaiting({
      abort: (reason) => [all, host, leaders].forEach((c) => c?.abort(reason)),
      pumpAll: () => job.mpi.runtime.pumpAll(),
    });
    const queue = new WorkQueue(waiting), { name, rank, ranks, localRank, cores } = all;
    super({ name, rank, ranks, localRank, cores, ...o, waiting, queue, steps: new HybridSteps(waiting, levels) });
    this.#job = job;
    this.#levels = levels;
    this.#world = o.world;
    const here = levels.hosts.find((members) => members.includes(rank))!;
    this.arena = new HostArena(host.arena, here);
    job.mpi.runtime.attach(queue);
  }

  /** Makes the levels below the group `all`, of ranks that all call it. */
  static async over(
    job: HybridJob,
    all: MpiCommunicator,
    o: { readonly timeoutMs: number; readonly world: boolean },
  ): Promise<HybridCommunicator> {
    const names = all.ranks.map((r) => job.mpi.hosts[r]!), ours = names[all.rank];
    const hosts = [...new Set(names)].map((name) => names.flatMap((n, rank) => n === name ? [rank] : []));
    const here = hosts.find((members) => names[members[0]!] === ours)!;
    const host = await job.host.subgroup(here.map((r) => job.host.ranks.indexOf(all.ranks[r]!)), {
      ...o,
      name: "host",
    });
    const leaders = await all.split(here[0] === all.rank ? 0 : null, all.rank, { ...o, name: "leaders" });
    return new HybridCommunicator(job, { all, host, leaders, hosts }, o);
  }

  allocate(shape: readonly number[], dtype: CommDType): SymmetricTensor {
    this.requireOpen();
    return allocateTensor(this.arena, shape, dtype);
  }

  override barrierSync(options: OpOptions = {}): void {
    if (!this.#alone) return super.barrierSync(options);
    this.requireOpen();
    this.#levels.host.barrierSync(this.#limited(options));
  }

  override allReduceSync(...[buf, op, options = {}]: Parameters<Communicator["allReduceSync"]>): void {
    if (!this.#alone) return super.allReduceSync(buf, op, options);
    this.requireOpen();
    this.#levels.host.allReduceSync(buf, op, this.#limited(options));
  }

  // deno-lint-ignore require-await -- so that errors reject
  async split(color: number | null, key = 0, options: GroupOptions = {}): Promise<HybridCommunicator | null> {
    this.requireOpen();
    return this.#job.inTurn(async () => {
      const all = await this.#levels.all.split(color, key, options);
      return all === null ? null : await this.#child(all, options);
    });
  }

  // deno-lint-ignore require-await -- so that errors reject
  async subgroup(ranks: readonly number[], options: GroupOptions = {}): Promise<HybridCommunicator> {
    this.requireOpen();
    this.requireMembers(ranks);
    return this.#job.inTurn(async () => await this.#child(await this.#levels.all.subgroup(ranks, options), options));
  }

  protected override sendView(view: View, dest: number, o: Envelope<number>): Work {
    return this.#levels.all.send({ data: view.bytes, dtype: view.dtype }, dest, o);
  }

  protected override recvView(view: View, source: number | "any", o: Envelope<number | "any">): Work<Received> {
    return this.#levels.all.recv({ data: view.bytes, dtype: view.dtype }, source, o);
  }

  protected override probeMessage(source: number | "any", o: Envelope<number | "any">): Work<Probed> {
    return this.#levels.all.probe(source, o);
  }

  protected override get host(): string {
    return this.#job.mpi.hosts[this.ranks[this.rank]!]!;
  }

  protected override takeBack(work: unknown, reason: unknown): boolean {
    return this.#levels.all.takeBack(work, reason);
  }

  protected override release(agreed: boolean): void {
    const { all, host, leaders } = this.#levels, { runtime } = this.#job.mpi;
    runtime.detach(this.queue);
    for (const comm of [leaders, all, host, ...this.#world ? [this.#job.host] : []]) void comm?.[Symbol.asyncDispose]();
    if (agreed && this.#world) runtime.finalize();
  }

  /** Whether all is done by shared memory, and nothing that was called before is under way. */
  get #alone(): boolean {
    return this.#levels.hosts.length === 1 && this.queue.idle;
  }

  #limited(options: OpOptions): OpOptions {
    return { timeoutMs: this.timeoutMs, ...options };
  }

  #child(all: MpiCommunicator, options: GroupOptions): Promise<HybridCommunicator> {
    return HybridCommunicator.over(this.#job, all, { timeoutMs: options.timeoutMs ?? this.timeoutMs, world: false });
  }
}
