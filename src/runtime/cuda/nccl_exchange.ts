/** The exchanges of a local graph over NCCL, in the order of the device's stream. */
import type { DType } from "../../core/dtype.ts";
import { byteLength } from "../../core/dtype.ts";
import type { NcclCommunicator } from "../comm/nccl/nccl_communicator.ts";
import type { CommDType } from "../comm/buffers.ts";
import type { Exchange } from "./collectives.ts";
import type { AddressOf, GpuDevice } from "./device.ts";
import type { RankExchange } from "./step_runner.ts";

/** Exchanges among the ranks of a communicator whose GPU is `device`. */
export class NcclExchange implements RankExchange {
  readonly unrecordable = undefined;
  readonly #comm: NcclCommunicator;
  readonly #device: GpuDevice;

  constructor(comm: NcclCommunicator, device: GpuDevice) {
    this.#comm = comm;
    this.#device = device;
  }

  enqueue(exchange: Exchange, addressOf: AddressOf): void {
    const { device } = this.#comm, stream = this.#device.stream.value;
    const dtype = commDType(exchange.from.dtype);
    if (exchange.kind === "reduce") {
      const buffer = (ptr: bigint) => ({ ptr, dtype, count: exchange.count, stream });
      return device.allReduce(buffer(addressOf(exchange.from)), exchange.reduction, buffer(addressOf(exchange.to[0])));
    }
    const { rank } = this.#comm, own = exchange.counts[rank]!;
    if (own > 0) {
      const bytes = byteLength(exchange.from.dtype, own);
      this.#device.copy(addressOf(exchange.to[rank]!), addressOf(exchange.from), bytes);
    }
    exchange.to.forEach((operand, r) => {
      const count = exchange.counts[r]!;
      if (count > 0) device.broadcast({ ptr: addressOf(operand), dtype, count, stream }, r);
    });
  }

  allAgree(yes: boolean): boolean {
    const answer = Int32Array.of(yes ? 1 : 0);
    this.#comm.allReduceSync(answer, "min");
    return answer[0] === 1;
  }

  async settled(): Promise<void> {
    await this.#comm.device.settled(this.#device.stream.value);
  }
}

/** What NCCL calls a dtype: truths travel as bytes. */
function commDType(dtype: DType): CommDType {
  return (dtype === "bool" ? "u8" : dtype) as CommDType;
}
