/** The exchanges of a local graph through the host, for ranks that share a GPU, which NCCL refuses, or that NCCL does not join. */
import type { DType } from "../../core/dtype.ts";
import { byteLength } from "../../core/dtype.ts";
import type { CommDType } from "../comm/buffers.ts";
import type { Communicator } from "../comm/communicator.ts";
import type { Exchange } from "./collectives.ts";
import type { AddressOf, Enqueue, GpuDevice } from "./device.ts";
import type { RankExchange } from "./step_runner.ts";

/** Exchanges among the ranks of any communicator. Each waits for the GPU before and after, so it is slow. */
export class StagedExchange implements RankExchange {
  readonly unrecordable = "exchanges go through the host";
  readonly reduces = "through the host";
  readonly #comm: Communicator;
  readonly #device: GpuDevice;

  constructor(comm: Communicator, device: GpuDevice) {
    this.#comm = comm;
    this.#device = device;
  }

  prepare(exchange: Exchange, addressOf: AddressOf): Enqueue {
    return () => this.#exchange(exchange, addressOf);
  }

  [Symbol.dispose](): void {}

  #exchange(exchange: Exchange, addressOf: AddressOf): void {
    const { dtype } = exchange.from;
    this.#device.synchronize();
    if (exchange.kind === "reduce") {
      const bytes = this.#read(addressOf(exchange.from), dtype, exchange.count);
      this.#comm.allReduceSync({ data: bytes, dtype: dtype as CommDType }, exchange.reduction);
      this.#device.upload(addressOf(exchange.to[0]), bytes);
      return;
    }
    const { counts } = exchange, sizes = counts.map((n) => byteLength(dtype, n));
    const own = this.#read(addressOf(exchange.from), dtype, counts[this.#comm.rank]!);
    const all = new Uint8Array(sizes.reduce((a, b) => a + b, 0));
    this.#comm.allGather(own, all, { counts: sizes }).waitSync();
    let at = 0;
    exchange.to.forEach((operand, r) => {
      this.#device.upload(addressOf(operand), all.subarray(at, at + sizes[r]!));
      at += sizes[r]!;
    });
  }

  allAgree(): boolean {
    return false;
  }

  async settled(): Promise<void> {
    await this.#device.settled();
  }

  #read(address: bigint, dtype: DType, count: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(byteLength(dtype, count));
    this.#device.download(address, bytes);
    return bytes;
  }
}
