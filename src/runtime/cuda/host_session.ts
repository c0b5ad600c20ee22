/** Nodes that the host runs between programs of a GPU: a session of ONNX Runtime, made when it is first needed. */
import type { HostTensor } from "../../core/host_tensor.ts";
import { exportOnnx } from "../../formats/export_onnx.ts";
import { type Graph, outputOf } from "../../graph/graph.ts";
import type { Engine, EngineSession } from "../cpu/engine.ts";

/** Where sessions come from. */
export interface HostEngine {
  readonly open: () => Promise<Engine>;
  /** Threads of each session. */
  readonly threads: number;
}

/** One graph without collectives, on the host. */
export class HostSession implements Disposable {
  readonly #graph: Graph<"local">;
  readonly #host: HostEngine;
  #opened: Promise<{ readonly engine: Engine; readonly session: EngineSession }> | undefined;

  /** `graph`: its constants can be read whenever it runs. */
  constructor(graph: Graph<"local">, host: HostEngine) {
    this.#graph = graph;
    this.#host = host;
  }

  /** The results by name. @throws {EngineError} If the engine refuses the nodes, or fails on the inputs. */
  async run(inputs: ReadonlyMap<string, HostTensor>): Promise<Map<string, HostTensor>> {
    const { engine, session } = await (this.#opened ??= this.#open());
    const feeds = [...inputs].map(([name, t]) => [name, engine.tensor(t.dtype, t.data, t.shape)] as const);
    const { names } = outputOf(this.#graph);
    const results = await session.run(Object.fromEntries(feeds), Object.fromEntries(names.map((n) => [n, null])));
    return new Map(names.map((name) => {
      const { dtype, dims, data } = results[name]!;
      return [name, { dtype, shape: [...dims], data: data.slice() }];
    }));
  }

  async #open() {
    const engine = await this.#host.open();
    return { engine, session: await engine.createSession(exportOnnx(this.#graph), { threads: this.#host.threads }) };
  }

  [Symbol.dispose](): void {
    // A session that is still being made is released when it is there; its failure has been told to who waits for it.
    this.#opened?.then(({ session }) => session.release(), () => {});
  }
}
