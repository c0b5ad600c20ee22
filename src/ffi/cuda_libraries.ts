/**
 * Where the CUDA libraries are. In this order: the file that `SHARDWISE_LIBCUBLAS` (…) names and nothing else; the folder that
 * `SHARDWISE_CUDA_LIBS` names; Python's packages (`pip install nvidia-…`); conda; what the system's loader finds; `CUDA_PATH`
 * and `CUDA_HOME`; `/usr/local/cuda`. In each place CUDA 13 comes before CUDA 12.
 */
import type { EnvRecord } from "../core/env_record.ts";
import { UnavailableError } from "../core/errors.ts";
import type { CudaLibraryName } from "./cuda_error.ts";
import { mappedFile } from "./mapped_library.ts";

interface LibraryRow {
  /** File names, the newest first, with the CUDA version that each needs of the driver. */
  readonly files: readonly { readonly file: string; readonly major?: number }[];
  /** Folders of Python packages below `site-packages/nvidia`. */
  readonly wheels: readonly string[];
  /** Folders that only this library may lie in. */
  readonly folders: readonly string[];
  /** Files of the same folder that the loader must have before this one. */
  readonly before: RegExp | undefined;
  readonly install: string;
}

const versions = (name: string) => [13, 12].map((major) => ({ file: `${name}.so.${major}`, major }));

const LIBRARIES: Readonly<Record<CudaLibraryName, LibraryRow>> = {
  libcuda: {
    files: [{ file: "libcuda.so.1" }],
    wheels: [],
    folders: ["/usr/lib/wsl/lib", "/usr/local/nvidia/lib64"],
    before: undefined,
    install: "install NVIDIA's driver, and give containers the GPU (docker run --gpus all)",
  },
  libnvrtc: {
    files: versions("libnvrtc"),
    wheels: ["cu13/lib", "cuda_nvrtc/lib"],
    folders: [],
    before: /^libnvrtc-builtins\.so\.\d/,
    install:
      "pip install nvidia-cuda-nvrtc (CUDA 13) or nvidia-cuda-nvrtc-cu12, conda install cuda-nvrtc, or the toolkit",
  },
  libcublas: {
    files: versions("libcublas"),
    wheels: ["cu13/lib", "cublas/lib"],
    folders: [],
    before: /^libcublasLt\.so\.\d+$/,
    install: "pip install nvidia-cublas (CUDA 13) or nvidia-cublas-cu12, conda install libcublas, or the toolkit",
  },
  libcublasLt: {
    files: versions("libcublasLt"),
    wheels: ["cu13/lib", "cublas/lib"],
    folders: [],
    before: undefined,
    install: "pip install nvidia-cublas (CUDA 13) or nvidia-cublas-cu12, conda install libcublas, or the toolkit",
  },
  libnccl: {
    files: [{ file: "libnccl.so.2" }],
    wheels: ["nccl/lib"],
    folders: [],
    before: undefined,
    install: "pip install nvidia-nccl-cu13 or nvidia-nccl-cu12, conda install nccl, or apt-get install libnccl2",
  },
};

/** The libraries' names. */
export const CUDA_LIBRARIES: readonly CudaLibraryName[] = Object.keys(LIBRARIES) as CudaLibraryName[];

/** Which packages have a library. */
export function installHint(name: CudaLibraryName): string {
  return LIBRARIES[name].install;
}

/** Where to look. */
export interface CudaSearch {
  /** The variables to read instead of the process's own. */
  readonly env?: EnvRecord;
  /** Python's package folders, instead of asking the environment and `python3`. */
  readonly sitePackages?: readonly string[];
}

/** A library that was opened. */
export interface OpenCudaLibrary<Table extends Deno.ForeignLibraryInterface> {
  readonly library: Deno.DynamicLibrary<Table>;
  /** Its file, as far as the system tells. */
  readonly path: string;
}

/** A search for the CUDA libraries; what it has found out about the machine serves all of them. */
export class CudaLibraries {
  /**
   * The CUDA version that the driver supports (13000 is 13.0), once somebody knows: libraries of a later major version are
   * then passed over, because they cannot run.
   */
  driverVersion: number | undefined;
  #env: EnvRecord;
  #sitePackages: readonly string[] | undefined;

  constructor(search: CudaSearch = {}) {
    this.#env = search.env ?? processEnv();
    this.#sitePackages = search.sitePackages;
  }

  /** Absolute paths, and names for the system's loader, in the order in which they are tried. */
  candidates(name: CudaLibraryName): string[] {
    const row = LIBRARIES[name], override = this.#env[`SHARDWISE_${name.toUpperCase()}`];
    if (override) return [override];
    const files = row.files.map((f) => f.file);
    const below = (folder: string | undefined) => folder ? files.map((file) => `${folder}/${file}`) : [];
    const toolkit = (root: string | undefined) => root ? [...below(`${root}/lib64`), ...below(`${root}/lib`)] : [];
    const wheels = row.wheels.length === 0
      ? []
      : this.#packageFolders().flatMap((site) => row.wheels.flatMap((wheel) => below(`${site}/nvidia/${wheel}`)));
    return [
      ...new Set([
        ...below(this.#env.SHARDWISE_CUDA_LIBS),
        ...wheels,
        ...below(this.#env.CONDA_PREFIX && `${this.#env.CONDA_PREFIX}/lib`),
        ...files,
        ...row.folders.flatMap(below),
        ...toolkit(this.#env.CUDA_PATH),
        ...toolkit(this.#env.CUDA_HOME),
        ...below("/usr/local/cuda/lib64"),
      ]),
    ];
  }

  /**
   * Opens the first candidate that loads and has all symbols of `table` that are not optional, after what it depends on. It is
   * never closed.
   *
   * @throws {UnavailableError} If none does, listing what was tried and which packages have it.
   */
  open<const Table extends Deno.ForeignLibraryInterface>(name: CudaLibraryName, table: Table): OpenCudaLibrary<Table> {
    const problems: string[] = [], absent: string[] = [];
    let cause: unknown;
    for (const path of this.candidates(name)) {
      if (path.startsWith("/") && !exists(path)) {
        absent.push(path);
        continue;
      }
      const major = LIBRARIES[name].files.find((f) => path.endsWith(f.file))?.major;
      if (this.driverVersion !== undefined && major !== undefined && major > Math.floor(this.driverVersion / 1000)) {
        problems.push(
          `  ${path}: needs a driver for CUDA ${major}, and this one is for ${cudaText(this.driverVersion)}`,
        );
        continue;
      }
      try {
        this.#openBefore(path, LIBRARIES[name].before);
        const library = Deno.dlopen(path, table);
        return { library, path: path.startsWith("/") ? path : mappedFile([path]) ?? path };
      } catch (error) {
        if (error instanceof Deno.errors.NotCapable || error instanceof Deno.errors.PermissionDenied) {
          throw new UnavailableError(`Cannot open ${name}: FFI is not allowed for ${path}`, {
            hint: "run deno with -A, or with --allow-ffi",
            cause: error,
          });
        }
        cause = error;
        problems.push(`  ${path}: ${reason(error)}`);
      }
    }
    if (absent.length > 0) problems.push(`  no such file: ${absent.join(", ")}`);
    throw new UnavailableError(`Cannot open ${name}: none of these loads\n${problems.join("\n")}`, {
      hint: `${LIBRARIES[name].install}; or set SHARDWISE_CUDA_LIBS to the folder that has it`,
      cause,
    });
  }

  /** The loader takes a library that is loaded already for one that is needed, so nothing has to be in its path. */
  #openBefore(path: string, before: RegExp | undefined): void {
    if (before === undefined || !path.startsWith("/")) return;
    const folder = path.slice(0, path.lastIndexOf("/"));
    for (const file of entries(folder).filter((entry) => before.test(entry)).sort().reverse()) {
      try {
        Deno.dlopen(`${folder}/${file}`, {});
      } catch {
        // The library itself then says what it misses.
      }
    }
  }

  #packageFolders(): readonly string[] {
    return this.#sitePackages ??= sitePackages(this.#env);
  }
}

/** Folders of Python's packages: of the active environment, of conda, else of the `python3` in the path. */
function sitePackages(env: EnvRecord): string[] {
  const found = [env.VIRTUAL_ENV, env.CONDA_PREFIX].flatMap((root) =>
    root
      ? entries(`${root}/lib`).filter((e) => /^python3/.test(e)).map((python) => `${root}/lib/${python}/site-packages`)
      : []
  );
  if (found.length > 0) return found;
  try {
    const script = "import site, sys; print('\\n'.join(p for p in sys.path if p.endswith('-packages')))";
    const { code, stdout } = new Deno.Command("python3", { args: ["-c", script], stdin: "null", stderr: "null" })
      .outputSync();
    return code === 0 ? new TextDecoder().decode(stdout).split("\n").filter(Boolean) : [];
  } catch {
    return []; // no Python, or no permission to run it: then there are no packages of it
  }
}

function processEnv(): EnvRecord {
  try {
    return Deno.env.toObject();
  } catch {
    return {}; // no permission to read the environment: then only fixed places are left
  }
}

function entries(folder: string): string[] {
  try {
    return [...Deno.readDirSync(folder)].map((e) => e.name);
  } catch {
    return []; // no such folder, or no permission to read it
  }
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch (error) {
    return !(error instanceof Deno.errors.NotFound); // without the permission to look, opening tells
  }
}

function reason(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.split("\n")[0]!.replaceAll("Could not open library: ", "");
}

function cudaText(version: number): string {
  return `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;
}
