/**
 * Memory of GPUs that all ranks of a host read and write: each rank allocates its part, and opens those of the others by handles of the
 * driver (CUDA IPC), so that a kernel of one GPU reaches the memory of another.
 */
import { ShardwiseError } from "../../../core/errors.ts";
import type { CudaDriver } from "../../../ffi/cuda_driver.ts";
import { DeviceMemory, IPC_HANDLE_BYTES, PeerMapping } from "../../../ffi/cuda_handles.ts";
import type { NcclCommunicator } from "./nccl_communicator.ts";

/** The driver shares whole blocks of this size: what others open has blocks of its own. */
export const SHARED_BLOCK_BYTES: number = 2 * 2 ** 20;

/** Bytes in which a rank says what it has: whether, and a handle or a reason. */
const SAID = 512;

/** A part on every rank. */
export interface PeerMemory {
  /** Where each rank's part lies, as this rank's kernels find it. */
  readonly addresses: readonly bigint[];
  /** Of each part: zeros at first. */
  readonly byteLength: number;
}

/** What a rank has open. */
export interface PeerParts extends PeerMemory {
  /** Forgets the parts of others; before they are freed there. */
  close(): void;
  /** Frees the own part; after the others have closed it. */
  free(): void;
}

/**
 * Memory of at least `bytes` a rank, or why there is none: all ranks call it together, and all get it or none does. Ranks are of one host.
 *
 * @throws {CommunicatorError} If a rank is lost meanwhile.
 */
export function openPeerMemory(comm: NcclCommunicator, bytes: number): PeerParts | { readonly refused: string } {
  const { driver, context } = comm.process, parts: (PeerMapping | undefined)[] = [];
  let own: DeviceMemory | undefined;
  const close = () => parts.forEach((part) => part?.[Symbol.dispose]());
  const free = () => own?.[Symbol.dispose]();
  context.makeCurrent();
  const byteLength = Math.ceil(bytes / SHARED_BLOCK_BYTES) * SHARED_BLOCK_BYTES;
  const exported = tell(comm, () => {
    own = new DeviceMemory(driver, byteLength);
    driver.call.cuMemsetD32Async(own.value, 0, BigInt(byteLength / 4), 0n);
    driver.call.cuCtxSynchronize(); // the others write there as soon as they know of it
    return own.exported();
  });
  if ("refused" in exported) {
    free();
    return exported;
  }
  const opened = tell(comm, () => {
    exported.said.forEach((handle, rank) => {
      if (rank !== comm.rank) parts[rank] = new PeerMapping(driver, handle.slice(0, IPC_HANDLE_BYTES));
    });
    return new Uint8Array();
  });
  if ("refused" in opened) {
    close();
    comm.barrierSync();
    free();
    return opened;
  }
  const addresses = exported.said.map((_, rank) => parts[rank]?.value ?? own!.value);
  return { addresses, byteLength, close, free };
}

/** Which of the GPUs that this process sees cannot reach each other's memory; undefined where all can, or none are two. */
export function unreachable(driver: CudaDriver): readonly [number, number] | undefined {
  const count = driver.deviceCount, can = new Int32Array(1);
  for (let a = 0; a < count; a++) {
    for (let b = 0; b < count; b++) {
      if (a === b) continue;
      driver.call.cuDeviceCanAccessPeer(can, a, b);
      if (can[0] === 0) return [a, b];
    }
  }
  return undefined;
}

/** What each rank has to say: bytes, or for all of them the reason of the first that has none. */
function tell(
  comm: NcclCommunicator,
  make: () => Uint8Array,
): { readonly said: readonly Uint8Array<ArrayBuffer>[] } | { readonly refused: string } {
  const mine = new Uint8Array(SAID), all = new Uint8Array(SAID * comm.size);
  try {
    mine.set(make(), 1);
    mine[0] = 1;
  } catch (error) {
    if (!(error instanceof ShardwiseError)) throw error;
    new TextEncoder().encodeInto(error.message, mine.subarray(1));
  }
  comm.allGather(mine, all).waitSync();
  const said = Array.from({ length: comm.size }, (_, rank) => all.slice(SAID * rank, SAID * (rank + 1)));
  const without = said.findIndex((bytes) => bytes[0] === 0);
  if (without < 0) return { said: said.map((bytes) => bytes.slice(1)) };
  const text = new TextDecoder().decode(said[without]!.slice(1)).replace(/\0[^]*$/, "");
  return { refused: `rank ${comm.ranks[without]} cannot share its GPU's memory: ${text}` };
}
