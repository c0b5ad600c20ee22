/**
 * Collectives of tensors that lie on the GPU: enqueued on the tensor's stream, like a kernel, and captured into graphs like one. Nothing
 * waits here; `settled` does, with its eyes open.
 */
import { InputError } from "../../../core/errors.ts";
import { CU } from "../../../ffi/cuda_driver.ts";
import { NCCL_ENUM } from "../../../ffi/nccl.ts";
import { byteLength, type DType } from "../../../core/dtype.ts";
import type { CommDType, ReduceOp } from "../buffers.ts";
import { requireReducible } from "../operations.ts";
import type { NcclGroup } from "./nccl_group.ts";
import { deviceOp, deviceType } from "./nccl_wire.ts";
import { turn } from "./turn.ts";

/** Elements on the GPU, one after the other. */
export interface DeviceBuffer {
  /** The `CUdeviceptr` of the first element. */
  readonly ptr: bigint;
  readonly dtype: CommDType;
  readonly count: number;
  /** The `CUstream` whose earlier work makes it, and whose later work reads it. */
  readonly stream: bigint;
}

const BYTE = NCCL_ENUM.ncclUint8;
/** How long a stream may work on after all others have left: they do that when their own part is done, and this GPU may be slower. */
const LEFT_MS = 10_000;
/** How long a wait spins before it lets the event loop go round, in milliseconds. */
const SPIN_MS = 0.1;
/** Looks at the stream for each look at NCCL and the peers. */
const LOOKS_PER_CHECK = 64;

/** The verbs, as NCCL has them. All ranks call them in the same order; a call while a stream captures is captured. */
export class DeviceCollectives {
  #g: NcclGroup;
  /** How long to wait for the others, unless a call says it. */
  readonly timeoutMs: number;
  #factors = new Map<string, number>();
  #connected = false;
  #checks: (() => void)[] = [];

  /** @internal Made by its communicator. */
  constructor(group: NcclGroup, timeoutMs: number) {
    this.#g = group;
    this.timeoutMs = timeoutMs;
  }

  /** Reduces all ranks' `send`, in place or into `recv`. @throws {UnavailableError} If NCCL cannot reduce this. */
  allReduce(send: DeviceBuffer, op: ReduceOp = "sum", recv: DeviceBuffer = send): void {
    this.#same(send, recv, send.count);
    const how = this.#how(send.dtype, op);
    this.#call(
      "ncclAllReduce",
      (raw, comm) => raw.ncclAllReduce(send.ptr, recv.ptr, BigInt(send.count), how.type, how.op, comm, send.stream),
    );
  }

  /** Reduces all ranks' `send` at `root`, in place or into its `recv`. @throws {UnavailableError} If NCCL cannot reduce this. */
  reduce(send: DeviceBuffer, root: number, op: ReduceOp = "sum", recv: DeviceBuffer = send): void {
    this.#rank(root);
    this.#same(send, recv, send.count);
    const how = this.#how(send.dtype, op);
    this.#call(
      "ncclReduce",
      (raw, comm) => raw.ncclReduce(send.ptr, recv.ptr, BigInt(send.count), how.type, how.op, root, comm, send.stream),
    );
  }

  /** Copies `buffer` of `root` to all. */
  broadcast(buffer: DeviceBuffer, root: number): void {
    this.#rank(root);
    const { ptr, stream } = buffer, bytes = this.#bytes(buffer);
    this.#call("ncclBroadcast", (raw, comm) => raw.ncclBroadcast(ptr, ptr, bytes, BYTE, root, comm, stream));
  }

  /** All ranks' `send`, one after the other, into `recv`; `send` may be this rank's part of it. */
  allGather(send: DeviceBuffer, recv: DeviceBuffer): void {
    this.#same(send, recv, send.count * this.#g.size);
    const bytes = this.#bytes(send);
    this.#call("ncclAllGather", (raw, comm) => raw.ncclAllGather(send.ptr, recv.ptr, bytes, BYTE, comm, send.stream));
  }

  /** Block `r` of all ranks' `send`, reduced, into `recv` of rank `r`, which may be that block. @throws {UnavailableError} */
  reduceScatter(send: DeviceBuffer, recv: DeviceBuffer, op: ReduceOp = "sum"): void {
    this.#same(recv, send, recv.count * this.#g.size);
    const how = this.#how(send.dtype, op);
    this.#call(
      "ncclReduceScatter",
      (raw, comm) => raw.ncclReduceScatter(send.ptr, recv.ptr, BigInt(recv.count), how.type, how.op, comm, send.stream),
    );
  }

  /** Sends `buffer` to `dest`, which receives as many elements. Pairs of ranks that send to each other do it in a `group`. */
  send(buffer: DeviceBuffer, dest: number): void {
    this.#rank(dest);
    const bytes = this.#bytes(buffer);
    this.#call("ncclSend", (raw, comm) => raw.ncclSend(buffer.ptr, bytes, BYTE, dest, comm, buffer.stream));
  }

  /** Receives as many elements as `buffer` holds from `source`. */
  recv(buffer: DeviceBuffer, source: number): void {
    this.#rank(source);
    const bytes = this.#bytes(buffer);
    this.#call("ncclRecv", (raw, comm) => raw.ncclRecv(buffer.ptr, bytes, BYTE, source, comm, buffer.stream));
  }

  /** What `calls` calls becomes one operation of NCCL: messages in any order, collectives fused. */
  group(calls: () => void): void {
    const { call } = this.#g.process.nccl;
    this.#g.guard(() => call.ncclGroupStart());
    try {
      calls();
    } finally {
      this.#call("ncclGroupEnd", (raw) => raw.ncclGroupEnd());
    }
  }

  /**
   * Lets NCCL make its connections, which it does at the first calls, and cannot do while a stream captures. All ranks call it, with
   * 16 bytes a rank of scratch memory on the GPU.
   */
  async warmUp(scratch: { readonly ptr: bigint; readonly stream: bigint }): Promise<void> {
    const { rank, size } = this.#g, whole = { ...scratch, dtype: "u8" as const, count: 16 * size };
    const own = { ...whole, ptr: scratch.ptr + BigInt(16 * rank), count: 16 };
    this.allReduce(whole);
    this.allGather(own, whole);
    this.reduceScatter(whole, own);
    this.broadcast(whole, 0);
    if (size > 1) {
      this.group(() => {
        this.send(own, (rank + 1) % size);
        this.recv(
          { ...whole, ptr: scratch.ptr + BigInt(16 * ((rank + size - 1) % size)), count: 16 },
          (rank + size - 1) % size,
        );
      });
    }
    await this.settled(scratch.stream);
    this.#connected = true;
  }

  /** `check` is called while `settled` waits, and once after: what it throws ends the group. For kernels that wait for other ranks themselves. */
  alsoCheck(check: () => void): void {
    this.#checks.push(check);
  }

  /** Whether `warmUp` has been done. */
  get connected(): boolean {
    return this.#connected;
  }

  /**
   * Waits until `stream` has done all its work, leaving the event loop free.
   *
   * @throws {PeerLost} @throws {CollectiveTimeout} @throws {CommunicatorError} And then the group, and this GPU's streams, are lost.
   */
  async settled(stream: bigint, o: { readonly timeoutMs?: number; readonly signal?: AbortSignal } = {}): Promise<void> {
    const started = performance.now();
    for (let looks = 0; !this.#done(stream); looks++) {
      o.signal?.throwIfAborted();
      if (looks % LOOKS_PER_CHECK === 0) this.#check(started, o.timeoutMs);
      if (performance.now() - started < SPIN_MS) continue;
      if (performance.now() - started < 3) await turn();
      else {
        await new Promise((go) => setTimeout(go, 1));
        this.#check(started, o.timeoutMs);
      }
    }
    this.#check(started, o.timeoutMs);
  }

  /** The same, blocking JavaScript. */
  settledSync(stream: bigint, o: { readonly timeoutMs?: number } = {}): void {
    const started = performance.now();
    for (let looks = 0; !this.#done(stream); looks++) {
      if (looks % LOOKS_PER_CHECK === 0) this.#check(started, o.timeoutMs);
      if (performance.now() - started > SPIN_MS) this.#g.process.libc.yieldNow();
    }
    this.#check(started, o.timeoutMs);
  }

  #done(stream: bigint): boolean {
    const { driver } = this.#g.process;
    return this.#g.guard(() => {
      const status = driver.raw.cuStreamQuery(stream);
      if (status === CU.notReady) return false;
      driver.check(status, "cuStreamQuery");
      return true;
    });
  }

  #check(started: number, timeoutMs = this.timeoutMs): void {
    this.#g.connected();
    this.#g.guard(() => this.#g.watch.checkPeers(this.#g.others, started, timeoutMs, undefined, LEFT_MS));
    for (const check of this.#checks) this.#g.guard(check);
  }

  /** Calls NCCL. Where it has to connect first, waits for that: until then nobody may use the stream. */
  #call(
    name: string,
    enqueue: (raw: NcclGroup["process"]["nccl"]["raw"], comm: bigint) => number,
  ): void {
    const { nccl, libc } = this.#g.process, { comm } = this.#g;
    const status = enqueue(nccl.raw, comm);
    if (status === NCCL_ENUM.ncclSuccess) return;
    this.#g.guard(() => nccl.check(status, name));
    for (const started = performance.now(); !this.#g.connected();) {
      this.#g.guard(() => this.#g.watch.checkPeers(this.#g.others, started, this.timeoutMs));
      libc.yieldNow();
    }
  }

  #how(dtype: CommDType, op: ReduceOp): { readonly type: number; readonly op: number } {
    requireReducible(dtype, op);
    const type = deviceType(dtype);
    if (typeof op === "string") return { type, op: deviceOp(op) };
    const key = `${dtype} ${op.preMulSum}`;
    let custom = this.#factors.get(key);
    if (custom === undefined) {
      custom = this.#makeFactor(dtype, type, op.preMulSum);
      this.#factors.set(key, custom);
    }
    return { type, op: custom };
  }

  #makeFactor(dtype: CommDType, type: number, factor: number): number {
    const scalar = dtype === "f64"
      ? Float64Array.of(factor)
      : dtype === "f16"
      ? Float16Array.of(factor)
      : dtype === "bf16"
      ? new Uint16Array(Float32Array.of(factor).buffer, 2)
      : Float32Array.of(factor);
    const made = new Int32Array(1), { nccl } = this.#g.process, hostImmediate = 1;
    this.#g.guard(() => nccl.call.ncclRedOpCreatePreMulSum(made, scalar, type, hostImmediate, this.#g.comm));
    return made[0]!;
  }

  #bytes({ dtype, count }: DeviceBuffer): bigint {
    return BigInt(byteLength(dtype as DType, count));
  }

  #rank(rank: number): void {
    if (Number.isInteger(rank) && rank >= 0 && rank < this.#g.size) return;
    throw new InputError(`Cannot use ${rank} as a rank: expected 0 to ${this.#g.size - 1}`);
  }

  #same(send: DeviceBuffer, recv: DeviceBuffer, count: number): void {
    if (send.dtype !== recv.dtype) throw new InputError(`Cannot receive ${send.dtype} into a buffer of ${recv.dtype}`);
    if (recv.count !== count) throw new InputError(`Cannot use ${recv.count} elements on the GPU: expected ${count}`);
    if (send.stream !== recv.stream) {
      throw new InputError("Cannot use two streams for one collective: let one wait for the other by an event");
    }
  }
}
