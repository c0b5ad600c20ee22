/**
 * `If` and `Loop` on a GPU. What decides is copied to the host; branches and bodies are graphs of their own, lowered for the sizes that come
 * and kept for when these come again. Source: ONNX If-21, Loop-21.
 */
import { GraphError } from "../../core/errors.ts";
import {
  fromNumbers,
  type HostTensor,
  hostTensorBytes,
  hostTensorFromBytes,
  toNumbers,
} from "../../core/host_tensor.ts";
import { inlineData } from "../../graph/builder.ts";
import { type Call, type GetAttr, type Graph, outputOf, type Value } from "../../graph/graph.ts";
import { inferTypes } from "../../passes/infer_types.ts";
import { opName } from "./host_nodes.ts";

/** Runs a graph whose input sizes are all numbers. */
export interface SubgraphRunner extends Disposable {
  run(inputs: ReadonlyMap<string, HostTensor>): Promise<Map<string, HostTensor>>;
}

/** A value of the enclosing graph: what a step computed, a size that the host knows, or a weight. */
export type Captured =
  | { readonly kind: "tensor" | "known"; readonly tensor: HostTensor }
  | { readonly kind: "constant"; readonly node: GetAttr };

/** What control flow asks of the graph that it is in. */
export interface Enclosing {
  readonly opsets: ReadonlyMap<string, number>;
  readonly capture: (name: string) => Captured;
  /** What runs a subgraph. */
  readonly open: (graph: Graph<"local">) => SubgraphRunner;
}

/** Programs that are kept, of one subgraph. */
const KEPT = 8;

/** One If or Loop. */
export class ControlFlow implements Disposable {
  readonly #node: Call;
  readonly #outer: Enclosing;
  readonly #programs = new Map<string, { readonly runner: SubgraphRunner; readonly inputs: readonly string[] }>();

  constructor(node: Call, outer: Enclosing) {
    this.#node = node;
    this.#outer = outer;
  }

  /** The results by name. */
  async run(inputs: readonly (HostTensor | undefined)[]): Promise<Map<string, HostTensor>> {
    const results = opName(this.#node) === "If" ? await this.#branch(inputs) : await this.#loop(inputs);
    return new Map(this.#node.outputs.flatMap((name, i) => (name === "" ? [] : [[name, results[i]!] as const])));
  }

  async #branch([condition]: readonly (HostTensor | undefined)[]): Promise<HostTensor[]> {
    return await this.#subgraph(isTrue(condition!) ? "then_branch" : "else_branch", []);
  }

  async #loop([count, condition, ...initial]: readonly (HostTensor | undefined)[]): Promise<HostTensor[]> {
    const limit = count === undefined ? Infinity : Number(toNumbers(count)[0]);
    let goes = condition === undefined || isTrue(condition), carried = initial as HostTensor[];
    const scanned: HostTensor[][] = [];
    for (let i = 0; i < limit && goes; i++) {
      const given = [fromNumbers("i64", [], [i]), fromNumbers("bool", [], [1]), ...carried];
      const [next, ...results] = await this.#subgraph("body", given);
      goes = isTrue(next!);
      carried = results.slice(0, initial.length);
      results.slice(initial.length).forEach((tensor, k) => (scanned[k] ??= []).push(tensor));
    }
    const { names, values } = { names: outputOf(this.#graph("body")).inputs, values: this.#graph("body").values };
    return [
      ...carried,
      ...names.slice(1 + initial.length).map((name, k) => stacked(scanned[k] ?? [], values.get(name))),
    ];
  }

  #graph(attribute: string): Graph<"global"> {
    const found = this.#node.attributes[attribute];
    if (found?.kind !== "graph") {
      throw new GraphError(`Cannot run ${opName(this.#node)} "${this.#node.name}": it has no ${attribute}`);
    }
    return found.value;
  }

  /** The results of a subgraph on `inputs`, in order. */
  async #subgraph(attribute: string, inputs: readonly HostTensor[]): Promise<HostTensor[]> {
    const graph = this.#graph(attribute), own = new Set(graph.values.keys());
    const names = graph.nodes.flatMap((n) => (n.kind === "placeholder" ? [n.outputs[0]] : []));
    const captured = new Map(
      (this.#node.captures ?? []).filter((n) => !own.has(n)).map((n) => [n, this.#outer.capture(n)]),
    );
    const tensors = new Map(names.map((name, i) => [name, inputs[i]!]));
    for (const [name, c] of captured) if (c.kind === "tensor") tensors.set(name, c.tensor);
    const sizes = [...captured].map(([n, c]) => (c.kind === "known" ? `${n}=${toNumbers(c.tensor)}` : ""));
    const key = [attribute, ...[...tensors].map(([n, t]) => `${n}:${t.dtype}[${t.shape}]`), ...sizes].join();
    let program = this.#programs.get(key);
    if (!program) {
      if (this.#programs.size >= KEPT) this.#forget(this.#programs.keys().next().value!);
      const typed = this.#typed(graph, tensors, captured);
      const read = typed.nodes.flatMap((n) => (n.kind === "placeholder" ? [n.outputs[0]] : []));
      this.#programs.set(key, program = { runner: this.#outer.open(typed), inputs: read });
    }
    const results = await program.runner.run(new Map(program.inputs.map((name) => [name, tensors.get(name)!])));
    return outputOf(graph).names.map((name) => results.get(name)!);
  }

  /** A subgraph with what it captures as inputs and constants, at the sizes of `tensors`. */
  #typed(
    graph: Graph<"global">,
    tensors: ReadonlyMap<string, HostTensor>,
    captured: ReadonlyMap<string, Captured>,
  ): Graph<"local"> {
    const constants = [...captured].flatMap(([name, c]): GetAttr[] => {
      if (c.kind === "tensor") return [];
      if (c.kind === "constant") return [c.node];
      const { dtype, shape, data } = c.tensor;
      return [{ kind: "get_attr", name, outputs: [name], data: inlineData(dtype, shape, data) }];
    });
    const outer = [...captured].flatMap(([name, c]) => (c.kind === "tensor" ? [name] : []));
    const values = new Map<string, Value>(graph.values);
    for (const [name, { dtype, shape }] of tensors) values.set(name, { name, type: { dtype, shape } });
    for (const { outputs: [name], data: { dtype, shape } } of constants) {
      values.set(name, { name, type: { dtype, shape } });
    }
    const typed = inferTypes<"local">({
      ...graph,
      stage: "local",
      opsets: this.#outer.opsets,
      nodes: [
        ...outer.map((name) => ({ kind: "placeholder", name: `captured ${name}`, outputs: [name] } as const)),
        ...constants,
        ...graph.nodes,
      ],
      values,
      carried: [],
    });
    return { ...typed, carried: [] };
  }

  #forget(key: string): void {
    this.#programs.get(key)?.runner[Symbol.dispose]();
    this.#programs.delete(key);
  }

  [Symbol.dispose](): void {
    for (const key of [...this.#programs.keys()]) this.#forget(key);
  }
}

function isTrue(tensor: HostTensor): boolean {
  return Number(toNumbers(tensor)[0]) !== 0;
}

/** What the iterations gave, one after another along a dim in front. */
function stacked(list: readonly HostTensor[], value: Value | undefined): HostTensor {
  const [first] = list;
  if (!first) {
    const shape = [0, ...(value?.type.shape ?? []).map((d) => (typeof d === "number" ? d : 0))];
    return fromNumbers(value?.type.dtype ?? "f32", shape, []);
  }
  const parts = list.map(hostTensorBytes), bytes = new Uint8Array(parts.reduce((sum, p) => sum + p.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return hostTensorFromBytes(first.dtype, [list.length, ...first.shape], bytes);
}
