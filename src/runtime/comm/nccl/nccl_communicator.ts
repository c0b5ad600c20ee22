/** The communicator over NCCL: ranks with a GPU each, on one host or on several. */
import { UnavailableError } from "../../../core/errors.ts";
import type { StoreClient } from "../../../core/store_client.ts";
import { NCCL_ENUM } from "../../../ffi/nccl.ts";
import { allocateTensor, type CommDType, type ReduceOp, type SymmetricTensor, type View } from "../buffers.ts";
import { requirePlace } from "../arguments.ts";
import type { GroupOptions, OpOptions, Verb } from "../communicator.ts";
import { CommunicatorError, RendezvousError } from "../errors.ts";
import { Mailbox, type MailboxPeers, type Probed, type Received } from "../mailbox.ts";
import { PrivateArena } from "../private_arena.ts";
import { QueuedCommunicator } from "../queued_communicator.ts";
import { type Runner, type Work, WorkQueue } from "../work.ts";
import { DeviceCollectives } from "./device_collectives.ts";
import { NcclGroup } from "./nccl_group.ts";
import type { NcclProcess } from "./nccl_process.ts";
import { NcclSteps } from "./nccl_steps.ts";
import { openPeerMemory, type PeerMemory, type PeerParts } from "./peer_memory.ts";
import { type Card, type Meet, requireFit } from "./rendezvous.ts";
import { StoreWatch, type Watch, watchHost } from "./watch.ts";

/** What all groups of a process share. */
export interface NcclJob {
  readonly process: NcclProcess;
  readonly meet: Meet;
  readonly store: StoreClient | undefined;
  /** This host, for its ranks to know each other. */
  readonly host: string;
}

/** Which group to join, and as whom. */
export interface NcclMembership {
  readonly name: string;
  readonly rank: number;
  /** The members as ranks of the job. */
  readonly ranks: readonly number[];
  readonly timeoutMs: number;
  /** How long to wait for the members to come. */
  readonly joinTimeoutMs: number;
}

/** Ranks that NCCL joins. */
export class NcclCommunicator extends QueuedCommunicator<NcclGroup> {
  readonly backend = "nccl";
  /** Memory that collectives take; over NCCL no rank can read another's. */
  readonly arena: PrivateArena;
  /** Collectives of tensors that lie on the GPU. */
  readonly device: DeviceCollectives;
  #job: NcclJob;
  #steps: NcclSteps;
  /** Messages of host arrays, which never see a GPU; undefined between hosts. */
  #mailbox: Mailbox | undefined;
  #splits = 0;
  #shared: PeerParts[] = [];
  #subgroups = new Map<string, number>();

  private constructor(job: NcclJob, o: NcclMembership, group: NcclGroup) {
    const queue: WorkQueue<NcclGroup> = new WorkQueue(group),
      steps = new NcclSteps(group),
      { env, cores } = job.process;
    super({ ...o, localRank: env.localRank, cores, waiting: group, queue, steps });
    this.arena = new PrivateArena(o.rank, "nccl");
    this.device = new DeviceCollectives(group, o.timeoutMs);
    this.#job = job;
    this.#steps = steps;
    this.#mailbox = mailboxOf(group, queue);
    if (this.#mailbox !== undefined) queue.attach(this.#mailbox);
  }

  /**
   * Joins a group; returns when all members have.
   *
   * @throws {RendezvousError} If they do not in time. @throws {UnavailableError} If two of them have the same GPU.
   */
  static async join(job: NcclJob, o: NcclMembership): Promise<NcclCommunicator> {
    const { process } = job;
    const own: Card = {
      host: job.host,
      gpu: process.facts.uuid,
      ncclVersion: process.nccl.version,
      id: o.rank === 0 ? process.nccl.uniqueId().toBase64() : undefined,
    };
    const size = o.ranks.length, cards = size === 1 ? [own] : await job.meet(own, { ...o, timeoutMs: o.joinTimeoutMs });
    requireFit(cards, o.ranks);
    // The watch begins before the communicator that it serves.
    let made: NcclCommunicator | undefined;
    const pending = {
      queued: () => made?.queue.queued ?? [],
      messages: () => (made === undefined ? undefined : made.#mailbox)?.describe() ?? [],
    };
    const watched = { ...o, process, pending, timeoutMs: o.joinTimeoutMs };
    const oneHost = cards.every((card) => card.host === own.host);
    const watch = oneHost || job.store === undefined ? await watchHost(watched) : new StoreWatch(watched, job.store);
    const comm = await initialize(process, Uint8Array.fromBase64(cards[0]!.id!), o, watch);
    const group = new NcclGroup({ ...o, process, comm, watch });
    return made = new NcclCommunicator(job, o, group);
  }

  /** The GPU of this rank, for whoever computes on it too. */
  get process(): NcclProcess {
    return this.#job.process;
  }

  /** Whether all ranks are on one host. */
  get oneHost(): boolean {
    return this.waiting.watch.meets;
  }

  /**
   * Memory of the ranks' GPUs that all of them read and write, at least `bytes` of each, or why there is none. All ranks call it together.
   * It lasts as long as the communicator.
   */
  sharePeerMemory(bytes: number): PeerMemory | { readonly refused: string } {
    this.requireOpen();
    if (!this.oneHost) return { refused: "the ranks are on several hosts" };
    const found = openPeerMemory(this, bytes);
    if (!("refused" in found)) this.#shared.push(found);
    return found;
  }

  /** `call` is told when the group fails, before anything else ends. */
  whenLost(call: () => void): void {
    this.waiting.whenLost(call);
  }

  override async close(options: OpOptions = {}): Promise<void> {
    // All ranks have closed what is not theirs when they have agreed to leave.
    if (!this.waiting.failed) { for (const parts of this.#shared) parts.close(); }
    await super.close(options);
  }

  allocate(shape: readonly number[], dtype: CommDType): SymmetricTensor {
    this.requireOpen();
    return allocateTensor(this.arena, shape, dtype);
  }

  async split(color: number | null, key = 0, options: GroupOptions = {}): Promise<NcclCommunicator | null> {
    this.requireOpen();
    requirePlace(color, key);
    const place = this.#splits++;
    const all = (await this.shareValues("split", { color, key })).map((m, rank) => ({ ...m, rank }));
    if (color === null) return null;
    const members = all.filter((m) => m.color === color).sort((a, b) => a.key - b.key || a.rank - b.rank);
    return await this.#child(members.map((m) => m.rank), `${this.name}.${place}.${color}`, options);
  }

  async subgroup(ranks: readonly number[], options: GroupOptions = {}): Promise<NcclCommunicator> {
    this.requireOpen();
    this.requireMembers(ranks);
    const members = ranks.join("-"), nth = this.#subgroups.get(members) ?? 0;
    this.#subgroups.set(members, nth + 1);
    return await this.#child(ranks, `${this.name}.s${members}.${nth}`, options);
  }

  override supports(dtype: CommDType, op?: ReduceOp, verb?: Verb): boolean {
    const isMessage = verb === "send" || verb === "recv" || verb === "probe";
    return !(isMessage && this.#mailbox === undefined) && super.supports(dtype, op, verb);
  }

  protected override get host(): string {
    return this.#job.host;
  }

  protected override sendView(view: View, dest: number, o: { tag: number; timeoutMs: number }): Work {
    return this.#mail.send(view, dest, o);
  }

  protected override recvView(
    view: View,
    source: number | "any",
    o: { tag: number | "any"; timeoutMs: number },
  ): Work<Received> {
    return this.#mail.recv(view, source, o);
  }

  protected override probeMessage(source: number | "any", o: { tag: number | "any"; timeoutMs: number }): Work<Probed> {
    return this.#mail.probe(source, o);
  }

  protected override takeBack(work: unknown, reason: unknown): boolean {
    return this.#mailbox?.takeBack(work, reason) === true;
  }

  protected override release(agreed: boolean): void {
    // Who has not come may still have it open: it is freed with the process then.
    if (agreed) { for (const parts of this.#shared) parts.free(); }
    this.waiting.leave(agreed && this.queue.idle);
    this.#steps[Symbol.dispose]();
    this.arena[Symbol.dispose]();
  }

  get #mail(): Mailbox {
    if (this.#mailbox !== undefined) return this.#mailbox;
    throw new UnavailableError(
      "Cannot send or receive host arrays between hosts over NCCL, which has neither tags nor lengths, and where a receive that waits holds up every collective",
      { hint: "use the backend shm+mpi or mpi; `device.send` and `device.recv` move tensors of the GPU" },
    );
  }

  #child(members: readonly number[], name: string, options: GroupOptions): Promise<NcclCommunicator> {
    const timeoutMs = options.timeoutMs ?? this.timeoutMs;
    return NcclCommunicator.join(this.#job, {
      name: options.name === undefined ? name : `${name}.${options.name.replace(/[^\w-]/g, "_")}`,
      rank: members.indexOf(this.rank),
      ranks: members.map((r) => this.ranks[r]!),
      timeoutMs,
      joinTimeoutMs: timeoutMs,
    });
  }
}

/** The messages of ranks that share a host's memory: by way of it, with tags and all, beside whatever NCCL does meanwhile. */
function mailboxOf(group: NcclGroup, runner: Runner): Mailbox | undefined {
  const { rank, size, watch } = group;
  if (watch.messages === undefined) return undefined;
  const check: MailboxPeers["check"] = (...args) => group.guard(() => watch.checkPeers(...args));
  return new Mailbox({ ...watch.messages, rank, size, runner, check });
}

/** Makes the `ncclComm_t`, looking after the members meanwhile. */
async function initialize(
  process: NcclProcess,
  id: Uint8Array<ArrayBuffer>,
  o: NcclMembership,
  watch: Watch,
): Promise<bigint> {
  const { nccl } = process, started = performance.now(), size = o.ranks.length;
  const others = o.ranks.map((_, r) => r).filter((r) => r !== o.rank);
  process.context.makeCurrent();
  let comm: bigint | undefined;
  try {
    comm = nccl.beginInit(id, { rank: o.rank, size });
    for (;;) {
      const state = nccl.asyncError(comm);
      if (state === NCCL_ENUM.ncclSuccess) return comm;
      if (state !== NCCL_ENUM.ncclInProgress) throw nccl.error(state, "ncclCommInitRankConfig");
      watch.checkPeers(others, started, o.joinTimeoutMs);
      await new Promise((go) => setTimeout(go, 1));
    }
  } catch (cause) {
    if (comm !== undefined) nccl.raw.ncclCommAbort(comm);
    const failure = cause instanceof CommunicatorError
      ? cause
      : new RendezvousError(`Rank ${o.ranks[o.rank]} cannot join "${o.name}" of ${size} ranks by NCCL`, { cause });
    watch.abort(failure);
    watch[Symbol.dispose]();
    throw failure;
  }
}
