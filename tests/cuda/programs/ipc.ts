// deno-lint-ignore-file no-console -- a program reports to its test by its output
// Memory of this process that another one opens. Argument: nothing, or `mistakes`. The other is this program with a handle and what to do.
import { CudaError } from "../../../src/ffi/cuda_error.ts";
import { CudaContext, IPC_HANDLE_BYTES, PeerMapping } from "../../../src/ffi/cuda_handles.ts";
import { Gpu } from "./gpu.ts";
import { KERNELS, MISTAKES } from "./kernels.cu.ts";

const [role, handle, deed] = Deno.args, BYTES = 2 ** 21;

if (role === "other") await other(Uint8Array.fromHex(handle!), deed!);
else if (role === "mistakes") await mistakes();
else await right();
Deno.exit(0);

async function right(): Promise<void> {
  const gpu = new Gpu(), memory = gpu.upload(new Float32Array(BYTES / 4).fill(1)), exported = memory.exported();
  const damaged = exported.slice();
  damaged[63]! ^= 1;
  const copied = await does(exported, "copy"), byCopy = gpu.download(memory, 1)[0];
  const launched = await does(exported, "kernel"), byKernel = gpu.download(memory, 1)[0];
  const all = [copied, launched].every((answer) => answer === "done");
  console.log(JSON.stringify({
    "what the other wrote by a copy": all ? byCopy : copied,
    "what the other wrote by a kernel": all ? byKernel : launched,
    "opened twice": await does(exported, "twice"),
    "a handle with another byte": await does(damaged, "copy"),
    "flags that are none": await does(exported, "flags"),
  }));
}

async function mistakes(): Promise<void> {
  const gpu = new Gpu(), fresh = () => gpu.upload(new Float32Array(BYTES / 4).fill(1));
  const freed = fresh(), handle = freed.exported(), found: Record<string, unknown> = {};
  freed[Symbol.dispose]();
  found["a copy beyond the end"] = await does(fresh().exported(), "copy beyond");
  found["a copy after the owner has freed it"] = await late("copy");
  found["opening what was freed"] = await does(handle, "copy");
  found["a kernel beyond the end"] = await does(fresh().exported(), "kernel beyond");
  found["a kernel after the owner has freed it"] = await late("kernel");
  found["GPUs that do not reach each other"] = await does(fresh().exported(), "copy", { SHARDWISE_STANDIN_PEER: "0" });
  console.log(JSON.stringify(found));

  /** What becomes of `deed` when the memory is freed after it was opened. */
  async function late(deed: string): Promise<unknown> {
    const memory = fresh();
    return await does(memory.exported(), `${deed} late`, {}, () => memory[Symbol.dispose]());
  }
}

/** The other process's answer; `between` is done when it has the memory open and waits. */
async function does(
  handle: Uint8Array,
  deed: string,
  env: Record<string, string> = {},
  between?: () => void,
): Promise<unknown> {
  const args = ["run", "-A", import.meta.filename!, "other", handle.toHex(), deed];
  const child = new Deno.Command(Deno.execPath(), { args, env, stdin: "piped", stdout: "piped" }).spawn();
  const output = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await output.read();
    if (done) break;
    text += value;
    if (between && text.includes("open")) {
      between();
      between = undefined;
      await child.stdin.getWriter().write(new Uint8Array([10]));
    }
  }
  return JSON.parse(text.trim().split("\n").at(-1)!);
}

async function other(handle: Uint8Array<ArrayBuffer>, deed: string): Promise<void> {
  const gpu = new Gpu(), { driver, stream } = gpu;
  const context = new CudaContext(driver, 1); // memory of GPU 0, from GPU 1
  const answer = (value: unknown) => console.log(JSON.stringify(value));
  try {
    if (deed === "flags") {
      driver.check(
        driver.raw.cuIpcOpenMemHandle_v2!(new BigUint64Array(1), handle.slice(0, IPC_HANDLE_BYTES), 0),
        "open",
      );
    }
    const memory = new PeerMapping(driver, handle);
    if (deed === "twice") {
      using again = new PeerMapping(driver, handle);
      return answer(again.value === memory.value ? "the same address" : "another address");
    }
    if (deed.endsWith("late")) {
      console.log("open");
      await Deno.stdin.read(new Uint8Array(1));
    }
    const beyond = deed.endsWith("beyond");
    if (deed.startsWith("copy")) {
      const values = Float32Array.of(7);
      driver.call.cuMemcpyHtoD_v2(memory.value + BigInt(beyond ? BYTES : 0), values, 4n);
    } else {
      gpu.context.makeCurrent();
      if (beyond) {
        gpu.launch(gpu.compile(MISTAKES).function("sw_overrun"), { grid: 1, block: 1 }, memory.value, BYTES / 4 - 4096);
      } else {
        const scale = gpu.compile(KERNELS).function("sw_scale"), x = gpu.upload(Float32Array.of(1));
        gpu.launch(scale, { grid: 1, block: 1 }, memory.value, x.value, { f32: 2 }, 1);
      }
      stream.synchronize();
    }
    memory[Symbol.dispose]();
    context[Symbol.dispose]();
    answer("done");
  } catch (error) {
    if (!(error instanceof CudaError)) throw error;
    answer(error.code);
  }
}
