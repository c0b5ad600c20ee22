/**
 * llama.cpp's side of a bench: one context on a .gguf file. Arguments: a file with the {@linkcode LlamaTask} as JSON.
 *
 * It is called through the npm package node-llama-cpp, whose binaries for this machine come with it. Writes `llama.json`
 * ({@linkcode Measured}).
 */
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { ownMemory } from "../../src/runtime/host/process_memory.ts";
import { longestSequence, measure, type Runner, type Workload } from "./workload.ts";

/** What llama.cpp is asked to do. */
export interface LlamaTask {
  /** The .gguf file. */
  readonly model: string;
  /** A folder in which node-llama-cpp is installed. */
  readonly folderOfPackage: string;
  readonly workload: Workload;
  readonly folder: string;
  readonly threads: number;
}

/** What is used of the package. */
interface Package {
  getLlama(options: object): Promise<{
    loadModel(options: { modelPath: string }): Promise<{
      createContext(options: object): Promise<{ getSequence(): Sequence }>;
    }>;
  }>;
}

interface Sequence {
  clearHistory(): Promise<void>;
  evaluate(tokens: readonly number[], options: { temperature: number }): AsyncGenerator<number>;
}

/** The module of the package that is installed in `folder`. */
export function packageModule(folder: string): string {
  return join(folder, "node_modules/node-llama-cpp/dist/index.js");
}

if (import.meta.main) {
  const task = JSON.parse(Deno.readTextFileSync(Deno.args[0]!)) as LlamaTask;
  const { getLlama } = await import(pathToFileURL(packageModule(task.folderOfPackage)).href) as Package;
  const began = performance.now(), { threads } = task;
  const llama = await getLlama({ build: "never", gpu: false, maxThreads: threads, logLevel: "error" });
  const model = await llama.loadModel({ modelPath: task.model });
  const context = await model.createContext({
    contextSize: longestSequence(task.workload) + 8,
    batchSize: 512,
    threads: { ideal: threads, min: threads },
  });
  const sequence = context.getSequence();
  let cleared: Promise<void> = Promise.resolve();
  const runner: Runner = {
    reset: () => void (cleared = sequence.clearHistory()),
    async step(ids) {
      await cleared;
      const tokens = sequence.evaluate(ids, { temperature: 0 });
      await tokens.next(); // the token that follows, for which the logits of the last position are needed
      await tokens.return(undefined);
      return new Float32Array(0);
    },
  };
  const load = { loadMs: performance.now() - began, loaded: ownMemory() };
  Deno.writeTextFileSync(`${task.folder}/llama.json`, JSON.stringify(await measure(runner, task.workload, load)));
  Deno.exit(0); // its threads would go on
}
