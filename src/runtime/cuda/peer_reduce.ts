/** All-reduces over peer memory: a kernel of each rank writes where the others read (`peer_text.ts`), in the order of the device's stream. */
import { byteLength } from "../../core/dtype.ts";
import { CU_ENUM } from "../../ffi/cuda_driver.ts";
import { PinnedMemory } from "../../ffi/cuda_handles.ts";
import { CollectiveTimeout } from "../comm/errors.ts";
import type { NcclCommunicator } from "../comm/nccl/nccl_communicator.ts";
import type { PeerMemory } from "../comm/nccl/peer_memory.ts";
import type { Exchange } from "./collectives.ts";
import type { AddressOf, Enqueue, GpuDevice } from "./device.ts";
import {
  areaBytes,
  canPeerReduce,
  largestMessage,
  PEER_BLOCKS,
  PEER_RANKS,
  PEER_THREADS,
  peerText,
  type Shots,
  STATUS_BYTES,
  UNIT_BYTES,
} from "./peer_text.ts";

/** An exchange that reduces. */
export type Reduce = Extract<Exchange, { readonly kind: "reduce" }>;

/** Kernels wait longer than the host, which sees why it waits; that they end at all is for a host that hangs. */
const KERNEL_PATIENCE = 2;
/** Elements of the sum that is tried first: of several blocks, exact in 32 bits. How long its kernels wait, in milliseconds. */
const TRIAL = 5000, TRIAL_MS = 30_000;

/** The all-reduces of one stream. */
export class PeerReduce implements Disposable {
  readonly #comm: NcclCommunicator;
  readonly #device: GpuDevice;
  readonly #memory: PeerMemory;
  /** What the host and kernels tell each other: 1 to end, and then a word a rank that was missing. */
  readonly #pinned: PinnedMemory;
  readonly #status: Uint32Array<ArrayBuffer>;
  readonly #kilohertz: number;
  /** How long kernels wait, in milliseconds. */
  #patienceMs: number;
  #disposed = false;

  private constructor(comm: NcclCommunicator, device: GpuDevice, memory: PeerMemory) {
    this.#comm = comm;
    this.#device = device;
    this.#memory = memory;
    this.#pinned = new PinnedMemory(device.driver, STATUS_BYTES);
    this.#pinned.bytes.fill(0);
    this.#status = new Uint32Array(this.#pinned.bytes.buffer, 0, STATUS_BYTES / 4);
    this.#kilohertz = device.context.attribute(CU_ENUM.CU_DEVICE_ATTRIBUTE_CLOCK_RATE) || 2_000_000;
    this.#patienceMs = Math.min(TRIAL_MS, comm.device.timeoutMs / 2);
    comm.whenLost(() => this.#end());
  }

  /** For the stream of `device`; or why there can be none. All ranks call it together, and get the same answer. */
  static open(comm: NcclCommunicator, device: GpuDevice): PeerReduce | { readonly refused: string } {
    if (comm.size > PEER_RANKS) return { refused: `${comm.size} ranks are more than ${PEER_RANKS}` };
    const memory = comm.sharePeerMemory(areaBytes(comm.size));
    if ("refused" in memory) return memory;
    const reduce = new PeerReduce(comm, device, memory);
    try {
      const right = Int32Array.of(reduce.#tried() ? 1 : 0);
      comm.allReduceSync(right, "min");
      if (right[0] === 1) {
        reduce.#patienceMs = KERNEL_PATIENCE * comm.device.timeoutMs;
        comm.device.alsoCheck(() => reduce.#check());
        return reduce;
      }
    } catch (error) {
      reduce[Symbol.dispose]();
      throw error;
    }
    reduce[Symbol.dispose]();
    return { refused: "what one GPU writes into another's memory does not arrive there as it was" };
  }

  /**
   * Whether a sum is what it must be. On some hosts the driver opens the memory of another GPU, and what is written there is lost or changed on
   * its way (an IOMMU, or access control of PCIe switches, that nobody told of the GPUs).
   */
  #tried(): boolean {
    const { rank, size } = this.#comm, of = (r: number, i: number) => (r + 1) * (i % 1021 + 1);
    using memory = this.#device.memory.allocate(2 * 4 * TRIAL, "work space");
    this.#device.upload(
      memory.value,
      new Uint8Array(Float32Array.from({ length: TRIAL }, (_, i) => of(rank, i)).buffer),
    );
    const from = { of: "input", index: 0, dtype: "f32" } as const, to = { ...from, of: "output" } as const;
    const reduce: Reduce = { kind: "reduce", from, to: [to], count: TRIAL, reduction: "sum" };
    const enqueue = this.prepare("one-shot", reduce, (o) => memory.value + (o.of === "input" ? 0n : BigInt(4 * TRIAL)));
    const found = new Float32Array(TRIAL), ranks = Array.from({ length: size }, (_, r) => r);
    this.#comm.barrierSync(); // one of them may have had to compile it
    for (let turn = 0; turn < 2; turn++) enqueue(); // both banks
    this.#comm.device.settledSync(this.#device.stream.value);
    this.#device.download(memory.value + BigInt(4 * TRIAL), new Uint8Array(found.buffer));
    return this.#missing().length === 0 && found.every((v, i) => v === ranks.reduce((sum, r) => sum + of(r, i), 0));
  }

  /** Whether `shots` can reduce this. */
  takes(shots: Shots, { from, count }: Reduce): boolean {
    return canPeerReduce(from.dtype) && byteLength(from.dtype, count) <= largestMessage(shots, this.#comm.size);
  }

  /** A reduction, ready to be put into the stream again and again, and recorded into graphs. All ranks enqueue the same ones in the same order. */
  prepare(shots: Shots, { from, to, count, reduction }: Reduce, addressOf: AddressOf): Enqueue {
    if (count === 0) return () => {};
    const { rank, size } = this.#comm, { dtype } = from;
    const text = peerText({ shots, ranks: size, dtype, reduction });
    this.#device.kernels.load([text]);
    const units = Math.ceil(byteLength(dtype, count) / UNIT_BYTES);
    const per = Math.ceil(units / Math.min(PEER_BLOCKS, Math.ceil(units / PEER_THREADS)));
    const { addresses } = this.#memory, status = this.#pinned.deviceAddress;
    const patience = BigInt(Math.round(this.#patienceMs * this.#kilohertz));
    const numbers = BigUint64Array.of(...addresses, status, BigInt(count), BigInt(per), BigInt(rank), patience);
    return this.#device.prepareLaunch({
      plain: text,
      sized: text,
      addresses: [from, to[0]],
      numbers: new Uint8Array(numbers.buffer),
      blocks: Math.ceil(units / per),
      threads: Math.min(PEER_THREADS, Math.ceil(per / 32) * 32),
    }, addressOf);
  }

  /** What kernels found that the host did not. @throws {CollectiveTimeout} */
  #check(): void {
    if (this.#disposed) return;
    const missing = this.#missing();
    if (missing.length === 0) return;
    const { ranks, rank, name, device: { timeoutMs } } = this.#comm, of = missing.map((r) => ranks[r]).join(", ");
    throw new CollectiveTimeout(
      `The GPU of rank ${ranks[rank]} of group "${name}" waited ${
        (KERNEL_PATIENCE * timeoutMs / 1000).toFixed(1)
      } s in an all-reduce over peer memory for rank ${of}`,
      missing,
      { hint: "look at what each rank is doing, or pass a longer timeoutMs" },
    );
  }

  /** The ranks for which kernels waited in vain. */
  #missing(): readonly number[] {
    return [...this.#status.subarray(1)].flatMap((told, rank) => (told ? [rank] : []));
  }

  /** Tells kernels that wait not to. */
  #end(): void {
    if (!this.#disposed) this.#status[0] = 1;
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#end();
    this.#disposed = true;
    this.#pinned[Symbol.dispose](); // waits for the GPU
  }
}
