/** What one step of a model is in numbers: its arithmetic, and the weights that a rank reads for it. */
import { type Bindings, type Dim, evalDim } from "../core/dim.ts";
import { type DType, dtypeInfo } from "../core/dtype.ts";
import { type Call, type Graph, isCall, valueOf } from "../graph/graph.ts";
import { localShape, REPLICATE } from "../graph/placement.ts";
import type { OpDef, TypedContext } from "../ops/def.ts";
import { NO_FACTORS } from "../ops/factors.ts";
import { opDef } from "../ops/table.ts";

/** The work of a step. */
export interface StepWork {
  /** Multiply-adds ×2 of the whole model, of ops that multiply. */
  readonly flops: number;
  /** Bytes of weights that a rank reads, each as often as an op reads it; of tables, the rows that are looked up. */
  readonly weightBytes: number;
}

/** Of which step, and for whom. */
export interface StepWorkOptions {
  readonly rank: number;
  /** Sizes of the step's symbols; what they do not tell counts as 1. */
  readonly sizes: Bindings;
  /** In which dtype weights of a dtype are held; in their own by default. */
  readonly held?: (dtype: DType) => DType;
}

/** The work of one step of `graph`. What runs inside `If` and `Loop` is not seen. */
export function stepWork(graph: Graph<"sharded">, options: StepWorkOptions): StepWork {
  const constants = new Set(graph.nodes.flatMap((n) => (n.kind === "get_attr" ? n.outputs : [])));
  let flops = 0, weightBytes = 0;
  for (const node of graph.nodes) {
    if (!isCall(node)) continue;
    const def = opDef(node), context = typed(graph, node, def);
    const known = context.inputs.every((t) => t === undefined || t.shape !== undefined);
    if (def?.flops && known) flops += sizeOf(def.flops(context), options);
    weightBytes += weightsRead(graph, { node, def, context, constants }, options);
  }
  return { flops, weightBytes };
}

function weightsRead(
  graph: Graph<"sharded">,
  { node, def, context, constants }: {
    readonly node: Call;
    readonly def: OpDef | undefined;
    readonly context: TypedContext;
    readonly constants: ReadonlySet<string>;
  },
  options: StepWorkOptions,
): number {
  if (!node.inputs.some((name) => constants.has(name))) return 0;
  const bytes = (name: string) => (name === "" ? 0 : localBytes(graph, name, options));
  const result = node.outputs.reduce((sum, name) => sum + bytes(name), 0);
  const typedAll = [...context.inputs, ...context.outputs].every((t) => t === undefined || t.shape !== undefined);
  const { factors } = typedAll && def?.factors ? def.factors(context) : NO_FACTORS;
  const looksUp = factors.some((f) => f.selected), part = def?.readsOf?.(context, (d) => sizeOf(d, options)) ?? 1;
  return node.inputs.reduce((sum, name, i) => {
    if (!constants.has(name)) return sum;
    // As the planner prices it: rows of a table, and what a plain move takes of a constant, are as large as the result.
    const some = (looksUp && i === 0) || !def?.flops;
    return sum + part * (some ? Math.min(bytes(name), result) : bytes(name));
  }, 0);
}

function typed(graph: Graph, node: Call, def: OpDef | undefined): TypedContext {
  const values = (names: readonly string[]) => names.map((name) => (name === "" ? undefined : valueOf(graph, name)));
  const inputs = values(node.inputs);
  return {
    node,
    attributes: node.attributes,
    opset: graph.opsets.get(node.domain) ?? def?.since ?? 1,
    inputs: inputs.map((v) => v?.type),
    ints: inputs.map((v) => v?.ints),
    outputs: values(node.outputs).map((v) => v?.type),
  };
}

/** Bytes of the rank's part of a value; 0 where its type is open. */
function localBytes(
  graph: Graph,
  name: string,
  { rank, held = (dtype) => dtype, ...options }: StepWorkOptions,
): number {
  const { type: { dtype, shape }, placement = REPLICATE } = valueOf(graph, name);
  if (!dtype || !shape) return 0;
  const bytes = dtypeInfo(held(dtype)).bits / 8;
  return localShape(shape, placement, rank).reduce<number>((n, d) => n * sizeOf(d, { rank, ...options }), bytes);
}

function sizeOf(dim: Dim, { sizes }: StepWorkOptions): number {
  return evalDim(dim, sizes) ?? 1;
}
