/** Tests of CUDA code: over the stand-in, or over the real libraries where `SHARDWISE_TEST_CUDA=1` says that there is a GPU. */
import { buildStandin, standinMissing } from "../standin/build.ts";

/** Whether tests run on a real GPU. */
export const ON_GPU = Deno.env.get("SHARDWISE_TEST_CUDA") === "1";

const missing = ON_GPU ? undefined : standinMissing();

/**
 * Variables of a process that is to use the tests' CUDA libraries; builds the stand-in at the first call. Over the stand-in ranks reduce by NCCL
 * unless a test says otherwise: which means is the faster there says nothing, and changes from job to job.
 */
export async function cudaEnv(): Promise<Record<string, string>> {
  if (ON_GPU) return Deno.env.toObject();
  return { SHARDWISE_CUDA_LIBS: await buildStandin(), SHARDWISE_CUDA_ALL_REDUCE: "nccl" };
}

/** A test that needs CUDA libraries; skipped, saying what is missing, where there is neither a compiler nor enough GPUs. */
export function cudaTest(
  name: string,
  run: (env: Record<string, string>) => Promise<void>,
  o: { readonly gpus: number } = { gpus: 1 },
): void {
  const reason = missing ?? (ON_GPU && gpus() < o.gpus ? `${o.gpus} GPUs are needed, ${gpus()} are here` : undefined);
  Deno.test({
    name: reason === undefined ? name : `${name} (skipped: ${reason})`,
    ignore: reason !== undefined,
    fn: async () => await run(await cudaEnv()),
  });
}

/** The same for what only the stand-in notices: a GPU may do anything then. */
export function standinTest(name: string, run: (env: Record<string, string>) => Promise<void>): void {
  if (ON_GPU) Deno.test({ name: `${name} (skipped: undefined on a GPU)`, ignore: true, fn: () => {} });
  else cudaTest(name, run);
}

/** GPUs of this machine, as its driver lists them. */
function gpus(): number {
  try {
    const { stdout } = new Deno.Command("nvidia-smi", { args: ["-L"], stderr: "null" }).outputSync();
    return new TextDecoder().decode(stdout).split("\n").filter((line) => line.startsWith("GPU ")).length;
  } catch {
    return 0; // no driver
  }
}
