/**
 * A graph of which a GPU runs what it can, and the host the rest: part after part. Values that cross from one part to another go through the
 * host, which then knows their sizes too.
 */
import { asSymbol, evalDim } from "../../core/dim.ts";
import { GraphError } from "../../core/errors.ts";
import { fromNumbers, type HostTensor } from "../../core/host_tensor.ts";
import { inlineData } from "../../graph/builder.ts";
import { type Call, type GetAttr, type Graph, outputOf, producers, valueOf } from "../../graph/graph.ts";
import { bindSymbols } from "../cpu/shapes.ts";
import { type Captured, ControlFlow, type SubgraphRunner } from "./control_flow.ts";
import { GpuExecutor, type GpuOptions } from "./executor.ts";
import { hostNodes, opsOf } from "./host_nodes.ts";
import { type HostEngine, HostSession } from "./host_session.ts";
import { LoweringError } from "./lowering_error.ts";
import { type Part, partsOf } from "./parts.ts";
import type { WeightPool } from "./weights.ts";

/** Where the parts run. */
export interface PartsExecutorOptions extends Omit<GpuOptions, "onDispose"> {
  /** Has the constants of the graph and of its subgraphs, whose file may be closed. */
  readonly weights: WeightPool;
  readonly host: HostEngine;
  /** Nodes that a GPU was found not to run. */
  readonly refused?: Iterable<string>;
}

/** A step of the graph: what is known so far. */
interface Step {
  readonly bindings: Map<string, number>;
  readonly values: Map<string, HostTensor>;
}

type Runner =
  | { readonly on: "device"; readonly executor: GpuExecutor }
  | { readonly on: "host"; readonly session: HostSession }
  | { readonly on: "control"; readonly flow: ControlFlow };

/** The parts of a graph. */
export class PartsExecutor implements SubgraphRunner {
  readonly #graph: Graph<"local">;
  readonly #options: PartsExecutorOptions;
  readonly #host: Set<string>;
  readonly #constants: ReadonlyMap<string, GetAttr>;
  #parts: readonly Part[];
  /** By the names of the nodes of a part. */
  readonly #runners = new Map<string, Runner>();
  /** The step that runs: what control flow captures from. */
  #step: Step = { bindings: new Map(), values: new Map() };

  constructor(graph: Graph<"local">, options: PartsExecutorOptions) {
    this.#graph = graph;
    this.#options = options;
    this.#host = new Set([...hostNodes(graph), ...options.refused ?? []]);
    options.weights.upload(graph);
    const makers = producers(graph);
    this.#constants = new Map(
      [...makers].flatMap(([n, node]) => (node.kind === "get_attr" ? [[n, node] as const] : [])),
    );
    this.#parts = partsOf(graph, { host: this.#host });
  }

  /** The ops that the host runs, for people. */
  get hostOps(): string {
    return opsOf(this.#graph, this.#host);
  }

  /** One run. @throws {GraphError} If neither the GPU nor the host runs a node. */
  async run(inputs: ReadonlyMap<string, HostTensor>): Promise<Map<string, HostTensor>> {
    const graph = this.#graph, values = new Map(inputs);
    const types = new Map([...inputs.keys()].map((name) => [name, valueOf(graph, name).type] as const));
    const step: Step = { bindings: bindSymbols(types, (name) => inputs.get(name)!.shape), values };
    this.#step = step;
    const done = new Set<string>();
    for (let queue = this.#parts; queue.length > 0;) {
      const [part, ...rest] = queue as readonly [Part, ...Part[]];
      try {
        for (const [name, tensor] of await this.#runPart(part, step)) this.#learn(name, tensor, step);
      } catch (error) {
        // Nothing of this part has run: it is lowered first.
        if (!(error instanceof LoweringError) || error.nodes.every((n) => this.#host.has(n))) throw error;
        for (const name of error.nodes) this.#host.add(name);
        this.#parts = partsOf(graph, { host: this.#host });
        queue = partsOf(graph, { host: this.#host, done });
        continue;
      }
      for (const node of part.nodes) done.add(node.name);
      queue = rest;
    }
    const { names, inputs: results } = outputOf(graph);
    return new Map(names.map((name, i) => [name, this.#tensor(results[i]!, step)]));
  }

  async #runPart(part: Part, step: Step): Promise<Map<string, HostTensor>> {
    const runner = this.#runner(part);
    if (runner.on === "control") {
      const [node] = part.nodes as readonly [Call];
      return await runner.flow.run(node.inputs.map((name) => (name === "" ? undefined : this.#tensor(name, step))));
    }
    const names = part.graph.nodes.flatMap((n) => (n.kind === "placeholder" ? [n.outputs[0]] : []));
    const inputs = new Map(names.map((name) => [name, this.#tensor(name, step)]));
    if (runner.on === "host") return await runner.session.run(inputs);
    const bindings = new Map([...step.bindings].filter(([name]) => part.symbols.has(name)));
    return await runner.executor.run(Object.fromEntries(inputs), bindings);
  }

  #runner(part: Part): Runner {
    const key = part.nodes.map((n) => n.name).join("\n");
    let runner = this.#runners.get(key);
    if (!runner) this.#runners.set(key, runner = this.#made(part));
    return runner;
  }

  #made({ on, nodes, graph }: Part): Runner {
    if (on === "device") return { on, executor: new GpuExecutor(graph, this.#options) };
    if (on === "host") return { on, session: new HostSession(this.#withWeights(graph), this.#options.host) };
    const flow = new ControlFlow(nodes[0] as Call, {
      opsets: this.#graph.opsets,
      capture: (name) => this.#captured(name),
      open: (body) => new PartsExecutor(body, { ...this.#options, refused: [], collectives: undefined }),
    });
    return { on, flow };
  }

  /** The graph with constants that come from the GPU, where they still are when the model's file is closed. */
  #withWeights(graph: Graph<"local">): Graph<"local"> {
    const nodes = graph.nodes.map((node) => {
      if (node.kind !== "get_attr") return node;
      const { dtype, shape, data } = this.#options.weights.read(node.data);
      return { ...node, data: inlineData(dtype, shape, data) };
    });
    return { ...graph, nodes };
  }

  #captured(name: string): Captured {
    const node = this.#constants.get(name);
    if (node) return { kind: "constant", node };
    return { kind: valueOf(this.#graph, name).ints ? "known" : "tensor", tensor: this.#tensor(name, this.#step) };
  }

  /** A value that has been computed, or that the host knows. */
  #tensor(name: string, { values, bindings }: Step): HostTensor {
    const known = values.get(name), constant = this.#constants.get(name);
    if (known) return known;
    if (constant) return this.#options.weights.read(constant.data);
    const { type, ints } = valueOf(this.#graph, name), elements = ints?.elements.map((d) => evalDim(d, bindings));
    if (!ints || elements!.includes(undefined)) {
      throw new GraphError(`Cannot find "${name}": nothing has computed it`);
    }
    return fromNumbers(type.dtype ?? "i64", ints.dims, elements as number[]);
  }

  /** Keeps a value, and the sizes that its shape tells. */
  #learn(name: string, tensor: HostTensor, { values, bindings }: Step): void {
    values.set(name, tensor);
    valueOf(this.#graph, name).type.shape?.forEach((dim, d) => {
      const symbol = asSymbol(dim);
      if (symbol !== undefined && !bindings.has(symbol)) bindings.set(symbol, tensor.shape[d]!);
    });
  }

  [Symbol.dispose](): void {
    for (const runner of this.#runners.values()) {
      (runner.on === "device" ? runner.executor : runner.on === "host" ? runner.session : runner.flow)
        [Symbol.dispose]();
    }
    this.#runners.clear();
  }
}
