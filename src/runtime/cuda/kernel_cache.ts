/** Compiled kernels: by NVRTC, once for a text, kept on disk for later processes. */
import { createHash } from "node:crypto";
import { dirname, join } from "node:path";
import { UnavailableError } from "../../core/errors.ts";
import { CU, type CudaDriver } from "../../ffi/cuda_driver.ts";
import { CudaError } from "../../ffi/cuda_error.ts";
import { CudaModule } from "../../ffi/cuda_handles.ts";
import type { Nvrtc } from "../../ffi/nvrtc.ts";
import type { NamedText } from "./kernel_texts.ts";
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

  /** Makes sure that all `kernels` can be called; those that are new become one module. @throws {KernelCompileError} */
  load(kernels: readonly NamedText[]): void {
    const texts = new Map(kernels.filter((k) => !this.#functions.has(k.name)).map((k) => [k.name, k.text]));
    if (texts.size === 0) return;
    const names = [...texts.keys()].sort();
    const source = PRELUDE + names.map((name) => texts.get(name)!).join("\n");
    const module = this.#module(source);
    this.#modules.push(module);
    for (const name of names) this.#functions.set(name, module.function(name));
  }

  /** The `CUfunction` of a kernel that was loaded. */
  function(name: string): bigint {
    return this.#functions.get(name)!;
  }

  #module(source: string): CudaModule {
    const { driver, nvrtc, folder } = this.#target, option = this.#architectureOption();
    const { major, minor } = nvrtc.version;
    const key = createHash("sha256").update(`${nvrtc.path} ${major}.${minor} ${option}\n${source}`).digest("hex");
    const path = folder === undefined ? undefined : join(folder, `${key}.cubin`);
    const compile = () => nvrtc.compile({ source, name: "shardwise.cu", options: [option, "--std=c++17"] }).image;
    if (path === undefined) return new CudaModule(driver, compile());
    const kept = kernelsIn(path, driver);
    if (kept) return kept;
    // Ranks start together and need the same kernels: one compiles, the others wait for its file.
    using turn = takeTurn(path);
    const made = turn.waited ? kernelsIn(path, driver) : undefined;
    if (made) return made;
    const image = compile();
    keep(path, image);
    return new CudaModule(driver, image);
  }

  /** What NVRTC is to compile for. @throws {UnavailableError} If it no longer knows GPUs as old as this one. */
  #architectureOption(): string {
    const { nvrtc, architecture } = this.#target, known = nvrtc.architectures;
    if (known.length === 0 || known.includes(architecture)) return `--gpu-architecture=sm_${architecture}`;
    // A GPU newer than the compiler gets PTX, which its driver translates.
    const older = known.filter((a) => a < architecture);
    if (older.length > 0) return `--gpu-architecture=compute_${Math.max(...older)}`;
    throw new UnavailableError(
      `Cannot compile kernels for this GPU (sm_${architecture}): ${nvrtc.path} begins with sm_${Math.min(...known)}`,
      {
        hint: "install an older NVRTC (pip install nvidia-cuda-nvrtc-cu12), and name its folder by SHARDWISE_CUDA_LIBS",
      },
    );
  }

  [Symbol.dispose](): void {
    for (const module of this.#modules.splice(0)) module[Symbol.dispose]();
    this.#functions.clear();
  }
}

/** The kernels in a file; undefined where there is none, or none that the driver takes: it is then made anew. */
function kernelsIn(path: string, driver: CudaDriver): CudaModule | undefined {
  const image = read(path);
  if (!image) return undefined;
  try {
    return new CudaModule(driver, image);
  } catch (error) {
    if (error instanceof CudaError && (error.code === CU.invalidImage || error.code === CU.invalidPtx)) {
      return undefined;
    }
    throw error;
  }
}

function read(path: string): Uint8Array<ArrayBuffer> | undefined {
  try {
    const image = Deno.readFileSync(path);
    return image.length > 0 ? image : undefined; // a host that lost power leaves files without content
  } catch {
    return undefined; // a cache that cannot be read is none
  }
}

/** Between two looks at a file that another process makes, and how long it may take, in milliseconds. */
const LOOK_MS = 20, PATIENCE_MS = 120_000;

/** Waits while another process of this host makes `path`; where none does, others wait for this one until it is disposed. */
function takeTurn(path: string): Disposable & { readonly waited: boolean } {
  const lock = `${path}.lock`, pause = new Int32Array(new SharedArrayBuffer(4));
  const none = { waited: true, [Symbol.dispose]() {} };
  for (const until = performance.now() + PATIENCE_MS; performance.now() < until;) {
    try {
      Deno.mkdirSync(dirname(path), { recursive: true });
      Deno.writeTextFileSync(lock, `${Deno.pid}`, { createNew: true });
      return { waited: false, [Symbol.dispose]: () => Deno.removeSync(lock) };
    } catch (error) {
      if (!(error instanceof Deno.errors.AlreadyExists)) return none; // a cache that cannot be written is none
    }
    if (!isRunning(lock)) return none;
    Atomics.wait(pause, 0, 0, LOOK_MS);
    if (read(path)) return none;
  }
  return none;
}

/** Whether the process that wrote `lock` still runs; one that was killed leaves a lock that means nothing. */
function isRunning(lock: string): boolean {
  try {
    const pid = Deno.readTextFileSync(lock);
    if (pid === "") return true; // it is being written
    if (Deno.statSync(`/proc/${pid}`)) return true;
  } catch {
    // It is gone, or its process is.
  }
  try {
    Deno.removeSync(lock);
  } catch {
    // Another one has.
  }
  return false;
}

/** Writes a file that other processes see whole or not at all; a cache that cannot be written is none. */
function keep(path: string, image: Uint8Array<ArrayBuffer>): void {
  const partial = `${path}.${Deno.pid}`;
  try {
    Deno.mkdirSync(dirname(path), { recursive: true });
    Deno.writeFileSync(partial, image);
    Deno.renameSync(partial, path);
  } catch {
    // No permission, a disk that is full or read-only: the next process compiles again.
    try {
      Deno.removeSync(partial);
    } catch {
      // It was not begun.
    }
  }
}
