/** The exchanges of a local graph over NCCL, or over peer memory where that is faster, in the order of the device's stream. */
import type { DType } from "../../core/dtype.ts";
import { byteLength } from "../../core/dtype.ts";
import { UnavailableError } from "../../core/errors.ts";
import type { NcclCommunicator } from "../comm/nccl/nccl_communicator.ts";
import type { CommDType } from "../comm/buffers.ts";
import type { Exchange } from "./collectives.ts";
import type { AddressOf, Enqueue, GpuDevice } from "./device.ts";
import { PeerReduce, type Reduce } from "./peer_reduce.ts";
import type { Shots } from "./peer_text.ts";
import {
  ALL_REDUCE_VARIABLE,
  describeLimits,
  limitsOfWish,
  measuredLimits,
  type ReduceLimits,
  wishedAllReduce,
} from "./reduce_choice.ts";
import type { RankExchange } from "./step_runner.ts";

/** What reduces over peer memory, and up to which sizes. */
interface Peer {
  readonly reduce: PeerReduce;
  readonly limits: ReduceLimits;
}

/** Exchanges among the ranks of a communicator whose GPU is `device`. */
export class NcclExchange implements RankExchange {
  readonly unrecordable = undefined;
  readonly reduces: string;
  readonly #comm: NcclCommunicator;
  readonly #device: GpuDevice;
  readonly #peer: Peer | undefined;

  private constructor(comm: NcclCommunicator, device: GpuDevice, peer: Peer | { readonly refused: string }) {
    this.#comm = comm;
    this.#device = device;
    this.#peer = "refused" in peer ? undefined : peer;
    this.reduces = "refused" in peer ? `NCCL: ${peer.refused}` : describeLimits(peer.limits, comm.size);
  }

  /**
   * Chooses by what means ranks reduce; all ranks call it together.
   *
   * @throws {UnavailableError} If the user wants peer memory, and there is none: why.
   */
  static open(comm: NcclCommunicator, device: GpuDevice): NcclExchange {
    const wish = wishedAllReduce();
    if (wish === "nccl") return new NcclExchange(comm, device, { refused: `${ALL_REDUCE_VARIABLE} says so` });
    const reduce = PeerReduce.open(comm, device);
    if ("refused" in reduce) {
      if (wish === "auto") return new NcclExchange(comm, device, reduce);
      throw new UnavailableError(`Cannot all-reduce over peer memory: ${reduce.refused}`, {
        hint: `set ${ALL_REDUCE_VARIABLE} to auto, which then uses NCCL`,
      });
    }
    try {
      const limits = wish === "auto" ? measuredLimits(comm, device, reduce) : limitsOfWish(wish);
      if (Object.values(limits).some((bytes) => bytes > 0)) return new NcclExchange(comm, device, { reduce, limits });
    } catch (error) {
      reduce[Symbol.dispose]();
      throw error;
    }
    reduce[Symbol.dispose]();
    return new NcclExchange(comm, device, { refused: "it was faster at every size that was measured" });
  }

  prepare(exchange: Exchange, addressOf: AddressOf): Enqueue {
    const { device, rank } = this.#comm, stream = this.#device.stream.value;
    const dtype = commDType(exchange.from.dtype);
    if (exchange.kind === "reduce") {
      const shots = this.#shots(exchange);
      if (shots) return this.#peer!.reduce.prepare(shots, exchange, addressOf);
      const buffer = (ptr: bigint) => ({ ptr, dtype, count: exchange.count, stream });
      const from = buffer(addressOf(exchange.from)), to = buffer(addressOf(exchange.to[0]));
      return () => device.allReduce(from, exchange.reduction, to);
    }
    const from = addressOf(exchange.from), own = addressOf(exchange.to[rank]!);
    const bytes = byteLength(exchange.from.dtype, exchange.counts[rank]!);
    const parts = exchange.to.map((operand, r) => ({
      ptr: addressOf(operand),
      dtype,
      count: exchange.counts[r]!,
      stream,
    }));
    return () => {
      if (bytes > 0) this.#device.copy(own, from, bytes);
      parts.forEach((part, r) => part.count > 0 && device.broadcast(part, r));
    };
  }

  allAgree(yes: boolean): boolean {
    const answer = Int32Array.of(yes ? 1 : 0);
    this.#comm.allReduceSync(answer, "min");
    return answer[0] === 1;
  }

  async settled(): Promise<void> {
    await this.#comm.device.settled(this.#device.stream.value);
  }

  [Symbol.dispose](): void {
    this.#peer?.reduce[Symbol.dispose]();
  }

  /** Over peer memory in how many hops; undefined by NCCL. */
  #shots(exchange: Reduce): Shots | undefined {
    if (!this.#peer) return undefined;
    const { reduce, limits } = this.#peer, bytes = byteLength(exchange.from.dtype, exchange.count);
    return (["one-shot", "two-shot"] as const).find((s) => bytes <= limits[s] && reduce.takes(s, exchange));
  }
}

/** What NCCL calls a dtype: truths travel as bytes. */
function commDType(dtype: DType): CommDType {
  return (dtype === "bool" ? "u8" : dtype) as CommDType;
}
