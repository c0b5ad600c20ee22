/**
 * Leaving most of the equal blocks of a model out.
 */
import { type Graph, isCall, type Node, outputOf, readsOf, type Value, valueOf } from "../graph/graph.ts";
import { type BlockPlace, type Blocks, findBlocks } from "./blocks.ts";

/** A graph of fewer equal blocks, and which names stand for which others. */
export interface Repeats {
  /** The graph with `kept` blocks. */
  readonly graph: Graph<"global">;
  readonly kept: number;
  /** Blocks of the whole graph. */
  readonly blocks: number;
  /** By name of a call that each block has its own of: which, and in which block; also of those left out. */
  readonly nodes: ReadonlyMap<string, BlockPlace>;
  /** The same for values, those of constants and inputs included. */
  readonly values: ReadonlyMap<string, BlockPlace>;
  /** Names by number, then by block. */
  readonly names: readonly (readonly string[])[];
}

/** Fewer equal blocks are not worth looking for. */
const LEAST_BLOCKS = 4;

/** The graph with `kept` of its equal blocks; undefined where there are not many more, or they do not fit together. */
export function foldBlocks(graph: Graph<"global">, kept: number): Repeats | undefined {
  const found = findBlocks(graph, Math.max(LEAST_BLOCKS, 2 * kept));
  return found && foldFound(graph, found, kept);
}

/** The same for blocks that have been found. */
export function foldFound(graph: Graph<"global">, found: Blocks, kept: number): Repeats | undefined {
  return new Folding(graph, found, kept).fold();
}

class Folding {
  readonly #graph: Graph<"global">;
  readonly #found: Blocks;
  readonly #kept: number;

  constructor(graph: Graph<"global">, found: Blocks, kept: number) {
    this.#graph = graph;
    this.#found = found;
    this.#kept = kept;
  }

  fold(): Repeats | undefined {
    const { blocks, nodes, values, names } = this.#found, graph = this.#reduced();
    return graph && { graph, kept: this.#kept, blocks, nodes, values, names };
  }

  /** The name that what comes after the blocks reads instead; undefined where it reads of a block in the middle. */
  #instead(name: string): string | undefined {
    const place = this.#found.values.get(name), { blocks } = this.#found, kept = this.#kept;
    if (!place || place.block < kept) return name;
    return place.block >= blocks - kept ? this.#found.names[place.id]![place.block - (blocks - kept)] : undefined;
  }

  #reduced(): Graph<"global"> | undefined {
    const { start, period, blocks } = this.#found, kept = this.#kept, output = outputOf(this.#graph);
    const from = start + kept * period, to = start + blocks * period;
    const nodes: Node[] = [];
    let calls = 0;
    for (const node of this.#graph.nodes) {
      if (node.kind === "output") continue;
      if (!isCall(node)) {
        const place = this.#found.values.get(node.outputs[0]!);
        if (!place || place.block < kept) nodes.push(node);
        continue;
      }
      const at = calls++;
      if (at < from) nodes.push(node);
      if (at < to) continue;
      if (readsOf(node).some((name) => this.#instead(name) === undefined)) return undefined;
      if (node.captures?.some((name) => this.#instead(name) !== name)) return undefined;
      nodes.push({ ...node, inputs: node.inputs.map((name) => this.#instead(name)!) });
    }
    const given = new Set(output.inputs);
    const results = output.inputs.map((value, at) => ({ value, at, name: output.names[at]! })).flatMap((r) => {
      const place = this.#found.values.get(r.value);
      if (!place || place.block < kept) return [r];
      // What every block gives is left out with it; what only the last gives is that of the last that is kept.
      const every = this.#found.names[place.id]!.every((name) => given.has(name));
      return every ? [] : [{ ...r, value: this.#instead(r.value) ?? "" }];
    });
    if (results.some((r) => r.value === "")) return undefined;
    const remains = new Set(nodes.flatMap((n): readonly string[] => n.outputs));
    const at = new Map(results.map((r, i) => [r.at, i]));
    const carried = this.#graph.carried.flatMap(({ input, output: index }) => {
      // Of states that steps leave as they are, or that the graph begins, nothing is folded.
      const i = index === undefined ? undefined : at.get(index);
      return i === undefined && !remains.has(input) ? [] : [{ input, output: i ?? -1 }];
    });
    if (carried.some((c) => c.output < 0 || !remains.has(c.input))) return undefined;
    const values = new Map<string, Value>();
    for (const name of remains) if (name !== "") values.set(name, valueOf(this.#graph, name));
    const reads = nodes.every((n) => readsOf(n).every((name) => remains.has(name)));
    if (!reads || results.some((r) => !remains.has(r.value)) || blocks <= kept) return undefined;
    return {
      ...this.#graph,
      nodes: [...nodes, { ...output, inputs: results.map((r) => r.value), names: results.map((r) => r.name) }],
      values,
      carried,
    };
  }
}
