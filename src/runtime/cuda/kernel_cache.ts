/** Compiled kernels: by NVRTC, once for a text, kept on disk for later processes. */
import { createHash } from "node:crypto";
import { dirname, join } from "node:path";
import { CudaModule } from "../../ffi/cuda_handles.ts";
import type { CudaDriver } from "../../ffi/cuda_driver.ts";
import type { Nvrtc } from "../../ffi/nvrtc.ts";
import type { Launch } from "./kernel_text.ts";
import { PRELUDE } from "./prelude.ts";

/** For whom kernels are compiled. */
export interface KernelTarget {
  readonly driver: CudaDriver;
  readonly nvrtc: Nvrtc;
  /** Compute capability: 90 is sm_90. */
  readonly architecture: number;
  /** A folder for compiled kernels; none are kept where undefined. */
  readonly folder: string | undefined;
}

/** The kernels of one GPU, by name. */
export class KernelCache implements Disposable {
  readonly #target: KernelTarget;
  readonly #functions = new Map<string, bigint>();
  readonly #modules: CudaModule[] = [];

  constructor(target: KernelTarget) {
    this.#target = target;
  }

  /** Makes sure that all kernels of `launches` can be called; those that are new become one module. @throws {KernelCompileError} */
  load(launches: readonly Launch[]): void {
    const texts = new Map(launches.filter((l) => !this.#functions.has(l.name)).map((l) => [l.name, l.text]));
    if (texts.size === 0) return;
    const names = [...texts.keys()].sort();
    const source = PRELUDE + names.map((name) => texts.get(name)!).join("\n");
    const module = new CudaModule(this.#target.driver, this.#image(source));
    this.#modules.push(module);
    for (const name of names) this.#functions.set(name, module.function(name));
  }

  /** The `CUfunction` of a kernel that was loaded. */
  function(name: string): bigint {
    return this.#functions.get(name)!;
  }

  #image(source: string): Uint8Array<ArrayBuffer> {
    const { nvrtc, architecture, folder } = this.#target;
    const known = nvrtc.architectures;
    // A GPU newer than the compiler gets PTX, which its driver translates.
    const newest = known.length === 0 ? architecture : Math.max(...known.filter((a) => a <= architecture), 0);
    const option = newest === architecture
      ? `--gpu-architecture=sm_${architecture}`
      : `--gpu-architecture=compute_${newest}`;
    const { major, minor } = nvrtc.version;
    const key = createHash("sha256").update(`${nvrtc.path} ${major}.${minor} ${option}\n${source}`).digest("hex");
    const path = folder === undefined ? undefined : join(folder, `${key}.cubin`);
    if (path !== undefined) {
      try {
        return Deno.readFileSync(path);
      } catch (error) {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
      }
    }
    const { image } = nvrtc.compile({ source, name: "shardwise.cu", options: [option, "--std=c++17"] });
    if (path !== undefined) keep(path, image);
    return image;
  }

  [Symbol.dispose](): void {
    for (const module of this.#modules.splice(0)) module[Symbol.dispose]();
    this.#functions.clear();
  }
}

/** Writes a file that other processes see whole or not at all; a cache that cannot be written is none. */
function keep(path: string, image: Uint8Array<ArrayBuffer>): void {
  const partial = `${path}.${Deno.pid}`;
  try {
    Deno.mkdirSync(dirname(path), { recursive: true });
    Deno.writeFileSync(partial, image);
    Deno.renameSync(partial, path);
  } catch (error) {
    if (!(error instanceof Deno.errors.PermissionDenied || error instanceof Deno.errors.NotCapable)) throw error;
  }
}
