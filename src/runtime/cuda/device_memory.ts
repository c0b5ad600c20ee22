/** The memory of a GPU as a rank gives it out: for what, how much, and what can be done where there is no more. */
import { UnavailableError } from "../../core/errors.ts";
import type { CudaDriver } from "../../ffi/cuda_driver.ts";
import { CudaError } from "../../ffi/cuda_error.ts";
import { type CudaContext, DeviceMemory } from "../../ffi/cuda_handles.ts";

/** What memory is for. */
export type MemoryUse = "weights" | "caches" | "values of a step" | "work space";

const ADVICE: Readonly<Record<MemoryUse, string>> = {
  weights: "use more ranks, --dtype bf16 or fp16, or 4-bit weights",
  caches: "use more ranks, shorter or fewer texts at once, or --dtype bf16 or fp16",
  "values of a step": "use more ranks, a shorter prompt or a smaller batch, or --dtype bf16 or fp16",
  "work space": "use a GPU that others do not fill",
};

/** A size as people read it. */
function readable(bytes: number): string {
  return bytes < 2 ** 30 ? `${(bytes / 2 ** 20).toFixed(1)} MiB` : `${(bytes / 2 ** 30).toFixed(2)} GiB`;
}

/** What a process has of a GPU's memory. */
export class MemoryBook {
  readonly #driver: CudaDriver;
  readonly #context: CudaContext;
  readonly #given = new Map<MemoryUse, Set<DeviceMemory>>();

  constructor(driver: CudaDriver, context: CudaContext) {
    this.#driver = driver;
    this.#context = context;
  }

  /**
   * Memory for `bytes`. `total`: of which it is a part, where the whole of it is asked for piece by piece; `fits`: what would fit into
   * memory that is free, for people.
   *
   * @throws {UnavailableError} If there is no more: how much is free, what has the rest, what to do.
   */
  allocate(
    bytes: number,
    use: MemoryUse,
    o: { readonly total?: number; readonly fits?: (free: number) => string } = {},
  ): DeviceMemory {
    try {
      const memory = new DeviceMemory(this.#driver, bytes), given = this.#given.get(use) ?? new Set();
      this.#given.set(use, given.add(memory));
      return memory;
    } catch (error) {
      if (!(error instanceof CudaError) || error.codeName !== "CUDA_ERROR_OUT_OF_MEMORY") throw error;
      const { free, total } = this.#context.memory(), { ordinal, facts: { name } } = this.#context;
      const own = this.held, held = [...own.values()].reduce((a, b) => a + b, 0);
      const parts = [...own].map(([what, size]) => `${what} ${readable(size)}`);
      const others = total - free - held;
      // A context takes some hundreds of MiB by itself.
      if (others > 2 ** 30) parts.push(`other processes and CUDA ${readable(others)}`);
      throw new UnavailableError(
        `Cannot hold this rank's ${use} of ${readable(o.total ?? bytes)} on GPU ${ordinal} (${name}): ${
          readable(free)
        } of ${readable(total)} are free${parts.length > 0 ? `; ${parts.join(", ")}` : ""}${
          o.fits ? `; ${o.fits(free)}` : ""
        }`,
        { hint: `${ADVICE[use]}; nvidia-smi shows who else holds memory`, cause: error },
      );
    }
  }

  /** Bytes by what they are for. */
  get held(): Map<MemoryUse, number> {
    const out = new Map<MemoryUse, number>();
    for (const [use, given] of this.#given) {
      for (const memory of given) if (memory.value === 0n) given.delete(memory);
      const bytes = [...given].reduce((sum, memory) => sum + memory.byteLength, 0);
      if (bytes > 0) out.set(use, bytes);
    }
    return out;
  }
}
