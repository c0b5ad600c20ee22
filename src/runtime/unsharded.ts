/** A model as one session of the engine, without any of our passes: what a split one has to agree with. */
import { dirname } from "node:path";
import type { HostTensor } from "../core/host_tensor.ts";
import { readOnnx } from "../formats/onnx_file.ts";
import type { EngineSession } from "./cpu/engine.ts";
import { openEngine } from "./cpu/open_engine.ts";

/** The outputs that a model gives, unsplit. */
export interface Unsharded extends AsyncDisposable {
  readonly run: (inputs: ReadonlyMap<string, HostTensor>) => Promise<Map<string, HostTensor>>;
}

/**
 * Opens the ONNX model at `path` as it is.
 *
 * @throws {FormatError} If it cannot be read. @throws {EngineError} If the engine refuses it.
 */
export async function openUnsharded(path: string): Promise<Unsharded> {
  const engine = await openEngine();
  using file = readOnnx(path);
  const names = file.graph.output.map(({ name }) => name);
  const session: EngineSession = await engine.createSession(Deno.readFileSync(path), {
    threads: 1,
    externalFolder: dirname(Deno.realPathSync(path)),
  });
  return {
    async run(inputs) {
      const feeds = [...inputs].map(([name, t]) => [name, engine.tensor(t.dtype, t.data, t.shape)] as const);
      const results = await session.run(
        Object.fromEntries(feeds),
        Object.fromEntries(names.map((name) => [name, null])),
      );
      return new Map(names.map((name) => {
        const { dtype, dims, data } = results[name]!;
        return [name, { dtype, shape: dims, data }] as const;
      }));
    },
    async [Symbol.asyncDispose]() {
      await session.release();
    },
  };
}
