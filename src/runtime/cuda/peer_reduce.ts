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

/** The all-reduces of one stream. */
export class PeerReduce implements Disposable {
  readonly #comm: NcclCommunicator;
  readonly #device: GpuDevice;
  readonly #memory: PeerMemory;
  /** What the host and kernels tell each other: 1 to end, and then a word a rank that was missing. */
  readonly #pinned: PinnedMemory;
  readonly #status: Uint32Array<ArrayBuffer>;
  readonly #patience: bigint;
  #disposed = false;

  private constructor(comm: NcclCommunicator, device: GpuDevice, memory: PeerMemory) {
    this.#comm = comm;
    this.#device = device;
    this.#memory = memory;
    this.#pinned = new PinnedMemory(device.driver, STATUS_BYTES);
    this.#pinned.bytes.fill(0);
    this.#status = new Uint32Array(this.#pinned.bytes.buffer, 0, STATUS_BYTES / 4);
    const kilohertz = device.context.attribute(CU_ENUM.CU_DEVICE_ATTRIBUTE_CLOCK_RATE) || 2_000_000;
    this.#patience = BigInt(Math.round(KERNEL_PATIENCE * comm.device.timeoutMs * kilohertz));
    comm.whenLost(() => this.#end());
    comm.device.alsoCheck(() => this.#check());
  }

  /** For the stream of `device`; or why there can be none. All ranks call it together, and get the same answer. */
  static open(comm: NcclCommunicator, device: GpuDevice): PeerReduce | { readonly refused: string } {
    if (comm.size > PEER_RANKS) return { refused: `${comm.size} ranks are more than ${PEER_RANKS}` };
    const memory = comm.sharePeerMemory(areaBytes(comm.size));
    return "refused" in memory ? memory : new PeerReduce(comm, device, memory);
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
    const numbers = BigUint64Array.of(...addresses, status, BigInt(count), BigInt(per), BigInt(rank), this.#patience);
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
    const missing = [...this.#status.subarray(1)].flatMap((told, rank) => (told ? [rank] : []));
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
