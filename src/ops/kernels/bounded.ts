/**
 * Sizes that only data tells (how many elements of a mask are set), on a GPU whose memory and launches are laid out before a step: tensors get
 * as many rows as there could be, and rows that are not there hold anything.
 *
 * That is right as long as no row is mixed with another one, and rows end where indices put them: in a scatter, which leaves out the rows of
 * which the index is that of no element (`NO_INDEX`). Whether ops mix rows is what their factors say.
 */
import { asSymbol, type Bindings, dependsOnData, evalDim } from "../../core/dim.ts";
import { GraphError } from "../../core/errors.ts";
import { type Call, type Graph, isCall, outputOf, valueOf } from "../../graph/graph.ts";
import type { TensorType } from "../../graph/types.ts";
import type { TypedContext } from "../def.ts";
import { opDef } from "../table.ts";

/** Ops that give indices of elements, as many as data says: the dim that counts them. */
const COUNTING: Readonly<Record<string, number>> = { NonZero: 1 };

/** Ops whose elements are those of input 0, whole, in another order or more often: an index that is none stays none. */
const MOVING = new Set([
  "Expand",
  "Flatten",
  "Identity",
  "Reshape",
  "Slice",
  "Split",
  "Squeeze",
  "Transpose",
  "Unsqueeze",
]);

/** Ops that put the rows of some inputs where another one says. */
const SCATTERING: Readonly<Record<string, { readonly indices: number; readonly rows: readonly number[] }>> = {
  ScatterElements: { indices: 1, rows: [1, 2] },
  ScatterND: { indices: 1, rows: [1, 2] },
};

const keyOf = ({ domain, op }: Call) => (domain === "" ? op : `${domain}.${op}`);

/** Whether only data tells how many rows a call gives, of which there could be as many as there are elements. */
export function countsRows(node: Call): boolean {
  return Object.hasOwn(COUNTING, keyOf(node));
}

/** `bindings`, and for each size that only data tells the largest that it could be. */
export function withBounds(graph: Graph<"local">, bindings: Bindings): Bindings {
  const all = new Map(bindings);
  for (const node of graph.nodes) {
    const dim = isCall(node) ? COUNTING[keyOf(node)] : undefined;
    if (dim === undefined || !isCall(node)) continue;
    const counted = asSymbol(valueOf(graph, node.outputs[0]!).type.shape?.[dim] ?? 0);
    const sizes = valueOf(graph, node.inputs[0]!).type.shape?.map((d) => evalDim(d, all)) ?? [undefined];
    if (counted === undefined || sizes.includes(undefined)) continue;
    all.set(counted, (sizes as number[]).reduce((a, b) => a * b, 1));
  }
  return all;
}

const isUncertain = (type: TensorType | undefined) => type?.shape?.some(dependsOnData) ?? false;

/** @throws {GraphError} If rows that may not be there are mixed with others, or are a result. */
export function requireSeparateRows(graph: Graph<"local">): void {
  const indices = new Set<string>(), typeOf = (name: string) => (name === "" ? undefined : valueOf(graph, name).type);
  for (const node of graph.nodes) {
    if (!isCall(node)) continue;
    const key = keyOf(node);
    if (key in COUNTING) indices.add(node.outputs[0]!);
    if (MOVING.has(key) && indices.has(node.inputs[0]!)) { for (const name of node.outputs) indices.add(name); }
    const uncertain = node.inputs.flatMap((name, i) => (isUncertain(typeOf(name)) ? [i] : []));
    // What the host knows is computed from the sizes that memory has.
    if (uncertain.length === 0 || node.outputs.every((n) => n === "" || valueOf(graph, n).ints)) continue;
    const scatter = SCATTERING[key];
    const isSafe = scatter
      ? uncertain.every((i) => scatter.rows.includes(i)) && indices.has(node.inputs[scatter.indices]!)
      : keepsRows(graph, node, uncertain);
    if (!isSafe) {
      throw new GraphError(`Cannot run ${key} "${node.name}" on a GPU: only data tells how many rows it has`, {
        hint: "run this model with device cpu",
      });
    }
  }
  for (const name of outputOf(graph).inputs) {
    if (!isUncertain(typeOf(name))) continue;
    throw new GraphError(`Cannot give "${name}" from a GPU: only data tells its size`, {
      hint: "run this model with device cpu",
    });
  }
}

/** Whether every uncertain dim of these inputs is a dim of all outputs, element by element. */
function keepsRows(graph: Graph<"local">, node: Call, uncertain: readonly number[]): boolean {
  const value = (name: string) => (name === "" ? undefined : valueOf(graph, name));
  const context: TypedContext = {
    node,
    attributes: node.attributes,
    opset: graph.opsets.get(node.domain) ?? 1,
    inputs: node.inputs.map((n) => value(n)?.type),
    ints: node.inputs.map((n) => value(n)?.ints),
    outputs: node.outputs.map((n) => value(n)?.type),
  };
  const factors = opDef(node)?.factors?.(context).factors ?? [];
  return uncertain.every((i) =>
    context.inputs[i]!.shape!.every((size, d) =>
      !dependsOnData(size) ||
      factors.some((f) =>
        f.inputs[i]?.dim === d && !f.reduce && !f.selected && f.outputs.every((o, k) => o || !context.outputs[k])
      )
    )
  );
}
