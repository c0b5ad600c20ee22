/**
 * The native libraries that parts of Shardwise can use: where they are looked for, and which version is there. Nothing is
 * initialised; only functions are called that work before that.
 */
import { describeError } from "../core/errors.ts";
import type { CudaLibraryName } from "./cuda_error.ts";
import { CudaLibraries, installHint } from "./cuda_libraries.ts";
import { type LibrarySpec, loadLibrary } from "./load.ts";
import { mappedFile } from "./mapped_library.ts";
import { MPI_SPEC } from "./mpi_library.ts";

/** What a look for one library gave. */
export interface LibraryFound {
  readonly name: string;
  readonly found: boolean;
  /** As the library tells it. */
  readonly version?: string;
  /** The file that the system's loader chose. */
  readonly path?: string;
  /** The paths that count, in order: the environment variable's alone if it is set. */
  readonly tried: readonly string[];
  /** Why none of them loads. */
  readonly problem?: string;
  /** Which packages have it, of a library that was not found. */
  readonly install?: string;
}

/** A library, and how to ask its version. */
interface Probe {
  readonly spec: LibrarySpec;
  readonly ask: (spec: LibrarySpec) => string | undefined;
}

const PROBES: readonly Probe[] = [
  {
    spec: {
      name: "libc",
      env: "SHARDWISE_LIBC",
      candidates: ["libc.so.6", `libc.musl-${Deno.build.arch}.so.1`, "libc.so"],
    },
    ask(spec) {
      const library = loadLibrary(spec, {
        gnu_get_libc_version: { parameters: [], result: "pointer", optional: true },
      });
      const text = library.symbols.gnu_get_libc_version?.() ?? null;
      return text === null ? undefined : `glibc ${new Deno.UnsafePointerView(text).getCString()}`;
    },
  },
  {
    spec: MPI_SPEC,
    ask(spec) {
      const library = loadLibrary(spec, {
        MPI_Get_library_version: {
          parameters: [
            "buffer", // char *version, of MPI_MAX_LIBRARY_VERSION_STRING
            "buffer", // int *resultlen
          ],
          result: "i32",
        },
      });
      // It stays open: MPI libraries register handlers that must not vanish before the process ends.
      const text = new Uint8Array(16_384), length = new Int32Array(1);
      if (library.symbols.MPI_Get_library_version(text, length) !== 0) return undefined;
      return new TextDecoder().decode(text.subarray(0, length[0]!)).split(/[,\n\0]/)[0]!.replace(/\s+/g, " ").trim();
    },
  },
];

/** How the CUDA libraries are asked for their versions. */
const CUDA_PROBES: readonly {
  readonly name: CudaLibraryName;
  readonly ask: (libraries: CudaLibraries) => { readonly version: string | undefined; readonly path: string };
}[] = [
  {
    name: "libcuda",
    ask(libraries) {
      const { library, path } = libraries.open("libcuda", {
        cuDriverGetVersion: { parameters: ["buffer"], result: "i32" }, // int *driverVersion
      });
      const version = new Int32Array(1);
      if (library.symbols.cuDriverGetVersion(version) !== 0) return { version: undefined, path };
      libraries.driverVersion = version[0]!;
      return { version: cudaVersion(version[0]!), path };
    },
  },
  ...(["libcublas", "libcublasLt"] as const).map((name) => ({
    name,
    ask(libraries: CudaLibraries) {
      const property = name === "libcublas" ? "cublasGetProperty" : "cublasLtGetProperty";
      const { library, path } = libraries.open(name, {
        property: {
          name: property,
          parameters: [
            "i32", // libraryPropertyType type: major, minor, patch
            "buffer", // int *value
          ],
          result: "i32",
        },
      });
      const parts = [0, 1, 2].map((type) => {
        const value = new Int32Array(1);
        library.symbols.property(type, value);
        return value[0]!;
      });
      return { version: parts.join("."), path };
    },
  })),
  {
    name: "libnvrtc",
    ask(libraries) {
      const { library, path } = libraries.open("libnvrtc", {
        nvrtcVersion: {
          parameters: [
            "buffer", // int *major
            "buffer", // int *minor
          ],
          result: "i32",
        },
      });
      const major = new Int32Array(1), minor = new Int32Array(1);
      const version = library.symbols.nvrtcVersion(major, minor) === 0 ? `${major[0]}.${minor[0]}` : undefined;
      return { version, path };
    },
  },
  {
    name: "libnccl",
    ask(libraries) {
      const { library, path } = libraries.open("libnccl", {
        ncclGetVersion: { parameters: ["buffer"], result: "i32" }, // int *version
      });
      const version = new Int32Array(1);
      const known = library.symbols.ncclGetVersion(version) === 0;
      return { version: known ? ncclVersion(version[0]!) : undefined, path };
    },
  },
];

/** Looks for all of them. Never throws. */
export function probeLibraries(): LibraryFound[] {
  return [...PROBES.map(probeOne), ...probeCuda(new CudaLibraries())];
}

function probeOne({ spec, ask }: Probe): LibraryFound {
  const override = env(spec.env);
  const tried = override === undefined ? spec.candidates : [override];
  try {
    const version = ask(spec), path = mappedFile(tried);
    return {
      name: spec.name,
      found: true,
      tried,
      ...(version === undefined ? {} : { version }),
      ...(path === undefined ? {} : { path }),
    };
  } catch (error) {
    return { name: spec.name, found: false, tried, problem: describeError(error) };
  }
}

/** The CUDA libraries as a program would open them: those that the driver is too old for are passed over. */
function probeCuda(libraries: CudaLibraries): LibraryFound[] {
  return CUDA_PROBES.map(({ name, ask }) => {
    const tried = libraries.candidates(name);
    try {
      const { version, path } = ask(libraries);
      return { name, found: true, tried, path, ...(version === undefined ? {} : { version }) };
    } catch (error) {
      return { name, found: false, tried, problem: describeError(error), install: installHint(name) };
    }
  });
}

/** `12040` is 12.4. Pure. */
export function cudaVersion(version: number): string {
  return `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;
}

/** `22707` is 2.27.7, and `2708`, by the scheme before 2.9, is 2.7.8. Pure. */
export function ncclVersion(version: number): string {
  const major = version < 10_000 ? 1000 : 10_000;
  return `${Math.floor(version / major)}.${Math.floor((version % major) / 100)}.${version % 100}`;
}

function env(name: string | undefined): string | undefined {
  try {
    return name === undefined ? undefined : Deno.env.get(name) || undefined;
  } catch {
    return undefined; // no permission to read the environment: then there is no override
  }
}
