/** Sizes at which a model's fused ops do not run: looked at before each step, so found in the shapes of the inputs once. */
import { asSymbol, evalDim, symbolsOf } from "../core/dim.ts";
import { type Graph, isCall, valueOf } from "../graph/graph.ts";
import type { SizeLimit } from "../ops/def.ts";
import { opDef } from "../ops/table.ts";

/** The limits of all calls of a graph. */
export class SizeLimits {
  /** A step may not be above all limits of a set. */
  readonly #sets: readonly (readonly SizeLimit[])[];
  /** Where each symbol is read: an input and its dim. */
  readonly #sources: ReadonlyMap<string, readonly [input: string, dim: number]>;

  private constructor(sets: readonly (readonly SizeLimit[])[], graph: Graph) {
    this.#sets = sets;
    const wanted = new Set<string>(), sources = new Map<string, readonly [string, number]>();
    for (const set of sets) for (const { size } of set) symbolsOf(size, wanted);
    for (const node of graph.nodes) {
      if (node.kind !== "placeholder") continue;
      valueOf(graph, node.outputs[0]).type.shape?.forEach((d, dim) => {
        const name = asSymbol(d);
        if (name !== undefined && wanted.has(name) && !sources.has(name)) sources.set(name, [node.outputs[0], dim]);
      });
    }
    this.#sources = sources;
  }

  /** Those of `graph`; undefined where it has none. */
  static of(graph: Graph): SizeLimits | undefined {
    const sets = new Map<string, readonly SizeLimit[]>();
    for (const node of graph.nodes) {
      const limits = isCall(node) ? opDef(node)?.limits : undefined;
      if (!isCall(node) || !limits) continue;
      const value = (name: string) => (name === "" ? undefined : valueOf(graph, name));
      const set = limits({
        node,
        attributes: node.attributes,
        opset: graph.opsets.get(node.domain) ?? 1,
        inputs: node.inputs.map((n) => value(n)?.type),
        ints: node.inputs.map((n) => value(n)?.ints),
        outputs: node.outputs.map((n) => value(n)?.type),
      });
      sets.set(set.map(({ size, most }) => `${size}>${most}`).join(), set);
    }
    return sets.size === 0 ? undefined : new SizeLimits([...sets.values()], graph);
  }

  /** Whether inputs of these shapes are above all limits of some call. A size that no input tells counts as above. */
  areExceeded(shapeOf: (input: string) => readonly number[]): boolean {
    const bindings = new Map<string, number>();
    for (const [name, [input, dim]] of this.#sources) bindings.set(name, shapeOf(input)[dim]!);
    return this.#sets.some((set) => set.every(({ size, most }) => (evalDim(size, bindings) ?? Infinity) > most));
  }
}
