/**
 * Builds the stand-in: one shared object under the names of five CUDA libraries, in a folder of the user's cache that is named
 * after the sources' contents, so that it is built once.
 *
 *     SHARDWISE_CUDA_LIBS=$(deno task --quiet standin) deno test -A tests/cuda
 */

const SOURCES = [
  "device.cpp",
  "streams.cpp",
  "memory.cpp",
  "ipc.cpp",
  "nvrtc.cpp",
  "modules.cpp",
  "cublas.cpp",
  "nccl.cpp",
];
const HEADERS = ["state.h", "ipc.h", "kernel_shim.h"];
const NAMES = ["libcuda.so.1", "libnvrtc.so.13", "libcublas.so.13", "libcublasLt.so.13", "libnccl.so.2"];
/** Files of which the compiler's optimiser takes seconds, and which do nothing often. */
const SLOW = ["nvrtc.cpp", "modules.cpp", "device.cpp", "streams.cpp", "memory.cpp", "ipc.cpp"];
const FLAGS = ["-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"];

/** Why the stand-in cannot be built here; undefined if it can. */
export function standinMissing(): string | undefined {
  if (Deno.build.os !== "linux") return "the CUDA stand-in is for Linux";
  try {
    const found = new Deno.Command(compiler(), { args: ["--version"], stdout: "null", stderr: "null" }).outputSync();
    return found.success ? undefined : `${compiler()} --version fails`;
  } catch {
    return `there is no C++ compiler (${compiler()})`;
  }
}

/** The folder with the stand-in's libraries; builds them if they are not there. @throws {Error} If it does not compile. */
export async function buildStandin(): Promise<string> {
  const texts = await Promise.all([...SOURCES, ...HEADERS].map((file) => Deno.readFile(here(file))));
  const all = new Uint8Array(await new Blob([...texts, FLAGS.join(" "), Deno.build.arch]).arrayBuffer());
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", all)).toHex().slice(0, 16);
  const cache = `${cacheFolder()}/shardwise/standin`;
  const folder = `${cache}/${hash}`;
  if (await exists(folder)) return folder;
  await Deno.mkdir(cache, { recursive: true });
  // Test files run side by side; whoever comes second waits for the first.
  using lock = await Deno.open(`${cache}/lock`, { create: true, write: true });
  await lock.lock(true);
  if (await exists(folder)) return folder;
  const work = await Deno.makeTempDir({ dir: cache, prefix: "building-" });
  try {
    await Promise.all(
      SOURCES.map((file) =>
        compile([...FLAGS, ...(SLOW.includes(file) ? ["-O0"] : []), "-c", here(file), "-o", `${work}/${file}.o`])
      ),
    );
    const library = `${work}/libstandin.so`;
    await compile(["-shared", "-o", library, ...SOURCES.map((f) => `${work}/${f}.o`), "-lpthread", "-ldl", "-lrt"]);
    for (const file of SOURCES) await Deno.remove(`${work}/${file}.o`);
    await Deno.copyFile(here("kernel_shim.h"), `${work}/kernel_shim.h`);
    for (const name of NAMES) await Deno.symlink("libstandin.so", `${work}/${name}`);
    await Deno.rename(work, folder);
  } catch (error) {
    await Deno.remove(work, { recursive: true });
    throw error;
  }
  return folder;
}

async function compile(args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(compiler(), { args, stdin: "null" }).output();
  if (!success) throw new Error(`Cannot build the CUDA stand-in:\n${new TextDecoder().decode(stderr).slice(0, 4000)}`);
}

function compiler(): string {
  return Deno.env.get("CXX") || "c++";
}

function here(file: string): string {
  return new URL(file, import.meta.url).pathname;
}

function cacheFolder(): string {
  return Deno.env.get("XDG_CACHE_HOME") || `${Deno.env.get("HOME") ?? "/tmp"}/.cache`;
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.lstat(path);
    return true;
  } catch {
    return false;
  }
}

// deno-lint-ignore no-console -- the task's output is the folder
if (import.meta.main) console.log(await buildStandin());
