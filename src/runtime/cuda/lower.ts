/** From a local graph and sizes to what the GPU does: kernels, products and collectives, and where every value lies. */
import type { DType } from "../../core/dtype.ts";
import type { Bindings } from "../../core/dim.ts";
import { type Call, type Collective, type Graph, outputOf } from "../../graph/graph.ts";
import type { KernelTensor, Operand } from "../../ops/kernels/kernel.ts";
import { sizeOf } from "./host_values.ts";
import { Memory } from "./memory.ts";
import { Preparer, type Work } from "./prepare.ts";

/** Where a value lies. */
export type Place =
  /** A constant, by the value's name. */
  | { readonly in: "weights"; readonly name: string }
  /** An input of the step. */
  | { readonly in: "inputs"; readonly name: string }
  /** The next content of a state, by the name of its input. */
  | { readonly in: "next"; readonly name: string }
  /** In the arena, whose parts are used again and again within a step. */
  | { readonly in: "arena"; readonly offset: number }
  /** Among what is uploaded before the step. */
  | { readonly in: "sizes"; readonly offset: number };

/** Work with the places of its operands. */
export type Placed = Work & {
  readonly places: (operand: Operand) => Place;
  /** The node that it is of. */
  readonly of: string;
};

/** One thing that the GPU does. */
export type Command =
  | Placed
  | { readonly kind: "copy"; readonly from: Place; readonly to: Place; readonly bytes: number };

/** What a graph is lowered for. */
export interface LoweringTarget {
  readonly rank: number;
  readonly ranks: number;
  /** In which dtype values of a dtype are held; in their own by default. */
  readonly held?: (dtype: DType) => DType;
}

/** A step of the model at given sizes. */
export interface DeviceProgram {
  readonly commands: readonly Command[];
  readonly arenaBytes: number;
  /** To upload before: small integer tensors that the host knows. */
  readonly sizes: Uint8Array<ArrayBuffer>;
  /** Results by their position, but for states. */
  readonly outputs: readonly { readonly name: string; readonly place: Place; readonly tensor: KernelTensor }[];
}

/** States that stay on the device: the carried input that each value becomes. */
export type States = ReadonlyMap<string, string>;

/** Lowers `graph` once. @throws {GraphError} If an op does not run on a GPU. */
export function lowerGraph(
  graph: Graph<"local">,
  { bindings, states, ...target }: LoweringTarget & { readonly bindings: Bindings; readonly states?: States },
): DeviceProgram {
  return new Lowerer(graph, target).lower(bindings, states);
}

/** Lowers a graph at sizes that change. */
export class Lowerer {
  readonly #graph: Graph<"local">;
  readonly #preparer: Preparer;
  /** By node: the values of which it is the last reader. */
  readonly #lastReads: readonly (readonly string[])[];

  constructor(graph: Graph<"local">, { rank, ranks, held = (dtype) => dtype }: LoweringTarget) {
    this.#graph = graph;
    this.#preparer = new Preparer(graph, { rank, ranks, held });
    this.#lastReads = lastReads(graph);
  }

  /** The program at these sizes. Without `states`, they are results like others. @throws {GraphError} If an op does not run on a GPU. */
  lower(bindings: Bindings, states: States = new Map()): DeviceProgram {
    const preparer = this.#preparer, graph = this.#graph;
    preparer.bind(bindings);
    const memory = new Memory(preparer, states), commands: Command[] = [];
    graph.nodes.forEach((node, index) => {
      if (node.kind === "placeholder") memory.put(node.outputs[0], { in: "inputs", name: node.outputs[0] });
      else if (node.kind === "get_attr") memory.put(node.outputs[0], { in: "weights", name: node.outputs[0] });
      else if (node.kind !== "output") this.#node(node, memory, commands);
      for (const name of this.#lastReads[index]!) memory.release(name);
    });
    for (const [value, state] of states) {
      const from = memory.placeOf(value);
      if (from.in === "next" && from.name === state) continue;
      const bytes = sizeOf(preparer.tensorOf(value));
      if (bytes > 0) commands.push({ kind: "copy", from, to: { in: "next", name: state }, bytes });
    }
    const { names, inputs } = outputOf(graph),
      kept = new Set(states.size > 0 ? graph.carried.map((c) => c.output) : []);
    const outputs = inputs.flatMap((value, i) =>
      kept.has(i) ? [] : [{ name: names[i]!, place: memory.placeOf(value), tensor: preparer.tensorOf(value) }]
    );
    return { commands, arenaBytes: memory.arenaBytes, sizes: memory.sizes, outputs };
  }

  #node(node: Call | Collective, memory: Memory, commands: Command[]): void {
    const prepared = this.#preparer.prepare(node);
    if (!prepared) return;
    const { works, aliases, scratch } = prepared;
    for (const { input, output } of aliases) memory.alias(node.inputs[input]!, node.outputs[output]!);
    for (const name of node.outputs) if (this.#preparer.isRead(name)) memory.allocate(name);
    const own = memory.scratch(scratch);
    for (const work of works) {
      const known = new Map<string, Place>();
      const key = (o: Operand) => `${o.of} ${o.index}`;
      for (const operand of operandsOf(work)) {
        known.set(
          key(operand),
          operand.of === "scratch"
            ? own.places[operand.index]!
            : memory.placeOf((operand.of === "input" ? node.inputs : node.outputs)[operand.index]!),
        );
      }
      commands.push({ ...work, places: (operand) => known.get(key(operand))!, of: node.name });
    }
    own.free();
  }
}

function operandsOf(work: Work): Operand[] {
  if (work.kind === "gemm") return [work.step.a.operand, work.step.b.operand, work.step.c.operand];
  if (work.kind === "exchange") return [work.exchange.from, ...work.exchange.to];
  return work.launch.fields.flatMap((f) => (f.kind === "address" ? [f.operand] : []));
}

/** By node: the values of which it is the last reader; results of the graph have none. */
function lastReads(graph: Graph<"local">): string[][] {
  const last = new Map<string, number>(), out: string[][] = graph.nodes.map(() => []);
  graph.nodes.forEach((node, i) => {
    for (const name of "inputs" in node ? node.inputs : []) {
      if (name !== "") last.set(name, node.kind === "output" ? Infinity : i);
    }
  });
  for (const [name, i] of last) out[i]?.push(name);
  return out;
}
