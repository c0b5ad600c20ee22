/** A GPU with little around it, for test programs. */
import { CudaDriver } from "../../../src/ffi/cuda_driver.ts";
import { CudaContext, CudaModule, CudaStream, DeviceMemory, PinnedMemory } from "../../../src/ffi/cuda_handles.ts";
import { CudaLibraries } from "../../../src/ffi/cuda_libraries.ts";
import { Nvrtc } from "../../../src/ffi/nvrtc.ts";
import { addressOf } from "../../../src/ffi/symbols.ts";

/** A kernel's argument: an address, an int, or a float. */
export type Argument = bigint | number | { readonly f32: number };

/** The first GPU, a stream, and a compiler. */
export class Gpu {
  readonly libraries = new CudaLibraries();
  readonly driver = new CudaDriver(this.libraries);
  readonly context = new CudaContext(this.driver, 0);
  readonly stream = new CudaStream(this.driver);
  readonly nvrtc = new Nvrtc(this.libraries);

  compile(source: string): CudaModule {
    const arch = `--gpu-architecture=sm_${this.context.facts.architecture}`;
    return new CudaModule(this.driver, this.nvrtc.compile({ source, name: "test.cu", options: [arch] }).image);
  }

  launch(
    kernel: bigint,
    o: { grid: number; block: number; shared?: number; stream?: CudaStream },
    ...args: Argument[]
  ) {
    const block = new DataView(new ArrayBuffer(256));
    let at = 0;
    for (const arg of args) {
      if (typeof arg === "bigint") {
        at = Math.ceil(at / 8) * 8;
        block.setBigUint64(at, arg, true);
        at += 8;
      } else {
        if (typeof arg === "number") block.setInt32(at, arg, true);
        else block.setFloat32(at, arg.f32, true);
        at += 4;
      }
    }
    const bytes = new BigUint64Array([BigInt(at)]);
    const extra = new BigUint64Array([1n, addressOf(new Uint8Array(block.buffer)), 2n, addressOf(bytes), 0n]);
    const { grid, shared = 0, stream = this.stream } = o;
    this.driver.call.cuLaunchKernel(kernel, grid, 1, 1, o.block, 1, 1, shared, stream.value, 0n, extra);
  }

  alloc(bytes: number): DeviceMemory {
    return new DeviceMemory(this.driver, bytes);
  }

  pinned(bytes: number): PinnedMemory {
    return new PinnedMemory(this.driver, bytes);
  }

  upload(array: Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>): DeviceMemory {
    const memory = this.alloc(array.byteLength);
    this.driver.call.cuMemcpyHtoD_v2(memory.value, array, BigInt(array.byteLength));
    return memory;
  }

  download(memory: DeviceMemory, count: number): Float32Array {
    this.stream.synchronize(); // a synchronous copy does not wait for streams that do not block
    const array = new Float32Array(count);
    this.driver.call.cuMemcpyDtoH_v2(array, memory.value, BigInt(array.byteLength));
    return array;
  }
}
