/** What all elementwise ops share: broadcasting types, and one factor a dim. */
import type { Dim } from "../core/dim.ts";
import { type DType, dtypeInfo } from "../core/dtype.ts";
import type { Shape, TensorType } from "../graph/types.ts";
import type { InferContext, Inferred, OpDef, OpExample, TypedContext } from "./def.ts";
import { einsumFactors, type FactorRule } from "./factors.ts";
import { isIntegral, mapKnown } from "./known_ints.ts";
import { oneNumber, type RowNumber, type RowNumbers, type RowsContext } from "./rows.ts";
import { broadcast } from "./shapes.ts";

/** The broadcast of all inputs that are given; undefined where one of them is open. */
export function broadcastInputs(inputs: readonly (TensorType | undefined)[]): Shape | undefined {
  let shape: Shape | undefined = [];
  for (const input of inputs) {
    if (!input) continue;
    if (!input.shape || !shape) shape = undefined;
    else shape = broadcast(shape, input.shape);
  }
  return shape;
}

/** One factor for every dim, aligned at the right. */
export function elementwiseFactors(
  { inputs, outputs }: TypedContext,
  linear?: readonly (readonly number[])[],
): FactorRule {
  const notation = `${inputs.map(() => "*").join(",")}->${outputs.map(() => "*").join(",")}`;
  return { factors: einsumFactors(notation, inputs, outputs), ...(linear ? { linear } : {}) };
}

/** What a row of an elementwise table says. */
export interface ElementwiseRow {
  readonly since: number;
  readonly inputs: readonly string[];
  readonly domain?: string;
  /** Input whose dtype the output has (0 by default), or the dtype itself. */
  readonly dtype?: number | DType;
  /** Sets of inputs in which the op is linear. */
  readonly linear?: readonly (readonly number[])[];
  /** Linear in floats only: integers are rounded. */
  readonly exact?: true;
  /** On known integer contents. */
  readonly ints?: (...elements: Dim[]) => Dim | undefined;
  /** On integers that tell rows. */
  readonly numbers?: (a: RowNumber, b: RowNumber) => RowNumber | undefined;
  readonly examples: readonly OpExample[];
}

/** The definition of an elementwise op. */
export function elementwise(op: string, row: ElementwiseRow): OpDef {
  return {
    op,
    domain: row.domain ?? "",
    since: row.since,
    inputs: row.inputs,
    infer: (context) => [inferElementwise(context, row)],
    factors: (context) => {
      const linear = row.exact && !isFloat(context.outputs[0]?.dtype) ? undefined : row.linear;
      return elementwiseFactors(context, linear);
    },
    ...(row.numbers ? { numbers: (context) => [combined(context, row.numbers!)] } : {}),
    examples: row.examples,
  };
}

/** The integers of a result, from those of two operands. */
function combined(
  { facts: [a, b] }: RowsContext,
  combine: NonNullable<ElementwiseRow["numbers"]>,
): RowNumbers | undefined {
  const x = oneNumber(a?.numbers), y = oneNumber(b?.numbers), number = x && y && combine(x, y);
  return number && { of: [number] };
}

function inferElementwise(context: InferContext, row: ElementwiseRow): Inferred {
  const dtype = typeof row.dtype === "string" ? row.dtype : context.inputs[row.dtype ?? 0]?.dtype;
  const shape = broadcastInputs(context.inputs);
  const ints = row.ints && isIntegral(dtype) ? mapKnown(presentInts(context), row.ints) : undefined;
  return { dtype, shape, ...(ints ? { ints } : {}) };
}

/** Contents of the inputs that are given. */
function presentInts(context: InferContext) {
  return context.inputs.flatMap((input, i) => (input ? [context.ints[i]] : []));
}

/** Whether elements of `dtype` are floats, so that no op rounds them to whole numbers. */
export function isFloat(dtype: DType | undefined): boolean {
  return dtype !== undefined && dtypeInfo(dtype).float;
}

/** Whether a cast between two dtypes loses nothing, so that it commutes with a sum of partial results. */
export function isWidening(from: DType | undefined, to: DType | undefined): boolean {
  if (from === undefined || to === undefined) return false;
  const [a, b] = [dtypeInfo(from), dtypeInfo(to)];
  if (from === to) return a.float;
  return a.float && b.float && b.bits > a.bits && a.bits >= 16;
}
