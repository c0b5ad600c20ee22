/** Whether kernel texts compile for GPUs: by nvcc, by NVRTC, each for every architecture that Shardwise supports. */
import { run } from "./wheels.ts";

/** Compute capabilities: Turing, Ampere, Hopper, Blackwell. */
export const ARCHITECTURES: readonly number[] = [75, 80, 90, 100];

/** A CUDA C text, and the name that messages print. */
export interface KernelText {
  readonly name: string;
  readonly source: string;
}

/** Whether there is a nvcc. */
export async function nvccMissing(): Promise<string | undefined> {
  return (await run("nvcc", ["--version"])).success ? undefined : "there is no nvcc";
}

/** Compiles `texts` by nvcc to PTX. @throws {Error} With what it says, if one does not compile. */
export async function requireNvcc(texts: readonly KernelText[], architectures = ARCHITECTURES): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    for (const { name, source } of texts) {
      await Deno.writeTextFile(`${folder}/kernel.cu`, source);
      const targets = architectures.flatMap((a) => ["-gencode", `arch=compute_${a},code=sm_${a}`]);
      const args = [...targets, "-std=c++17", "-fatbin", `${folder}/kernel.cu`, "-o", `${folder}/kernel.fatbin`];
      const { success, stderr } = await run("nvcc", args);
      if (!success) throw new Error(`nvcc refuses ${name} for ${architectures.join(", ")}:\n${stderr.slice(0, 4000)}`);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
