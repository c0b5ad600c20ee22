/** Elementwise ops of one tensor: a row each. Source: ONNX operator documents; com.microsoft: ContribOperators.md. */
import type { DType } from "../core/dtype.ts";
import type { Attributes } from "../graph/graph.ts";
import { float, int, string } from "../graph/attributes.ts";
import type { OpDef, OpExample } from "./def.ts";
import { elementwise, elementwiseFactors, type ElementwiseRow } from "./elementwise.ts";
import type { Factor } from "./factors.ts";
import { constantInts, INT_UNARY } from "./known_ints.ts";

interface Row extends Partial<Pick<ElementwiseRow, "domain" | "dtype" | "linear">> {
  readonly since: number;
  /** dtype of the examples. */
  readonly on?: DType;
  readonly attributes?: Attributes;
}

const LINEAR = [[0]] as const;

// deno-fmt-ignore
const ROWS: Readonly<Record<string, Row>> = {
  Abs:        { since: 13 },
  Acos:       { since: 7 },
  Asin:       { since: 7 },
  Atan:       { since: 7 },
  BitwiseNot: { since: 18, on: "i32" },
  Ceil:       { since: 13 },
  Celu:       { since: 12 },
  Cos:        { since: 7 },
  Cosh:       { since: 9 },
  Elu:        { since: 6 },
  Erf:        { since: 13 },
  Exp:        { since: 13 },
  Floor:      { since: 13 },
  Gelu:       { since: 20, attributes: { approximate: string("tanh") } },
  HardSigmoid: { since: 6 },
  HardSwish:  { since: 14 },
  Identity:   { since: 13, linear: LINEAR },
  IsInf:      { since: 10, dtype: "bool" },
  IsNaN:      { since: 13, dtype: "bool" },
  LeakyRelu:  { since: 6, attributes: { alpha: float(0.1) } },
  Log:        { since: 13 },
  Mish:       { since: 18 },
  Neg:        { since: 13, linear: LINEAR },
  Not:        { since: 1, on: "bool" },
  Reciprocal: { since: 13 },
  Relu:       { since: 14 },
  Round:      { since: 11 },
  Selu:       { since: 6 },
  Sigmoid:    { since: 13 },
  Sign:       { since: 13 },
  Sin:        { since: 7 },
  Sinh:       { since: 9 },
  Softplus:   { since: 1 },
  Softsign:   { since: 1 },
  Sqrt:       { since: 13 },
  Swish:      { since: 24, attributes: { alpha: float(1) } },
  Tan:        { since: 7 },
  Tanh:       { since: 13 },
  ThresholdedRelu: { since: 10 },
  QuickGelu:  { since: 1, domain: "com.microsoft", attributes: { alpha: float(1.702) } },
};

/** All elementwise ops of one tensor. */
export function unaryOps(): OpDef[] {
  return Object.entries(ROWS).map(([op, row]) => elementwise(op, unaryRow(op, row)));
}

function unaryRow(op: string, row: Row): ElementwiseRow {
  const dtype = row.on ?? "f32";
  const ints = INT_UNARY[op];
  const extra = row.attributes ? { attributes: row.attributes } : {};
  const examples: OpExample[] = [[6], [2, 5], [2, 3, 4]].map((shape) => ({ inputs: [{ dtype, shape }], ...extra }));
  return {
    since: row.since,
    inputs: ["X"],
    ...(row.domain ? { domain: row.domain } : {}),
    ...(row.dtype ? { dtype: row.dtype } : {}),
    ...(row.linear ? { linear: row.linear } : {}),
    ...(ints ? { ints } : {}),
    examples,
  };
}

/** Dropout: at inference the identity, whose mask is all true. In training mode all ranks draw one mask, so all of it. */
export const DROPOUT: OpDef = {
  op: "Dropout",
  domain: "",
  since: 13,
  inputs: ["data", "ratio", "training_mode"],
  infer: ({ inputs, outputCount }) => {
    const [x] = inputs;
    const y = { dtype: x?.dtype, shape: x?.shape };
    return outputCount > 1 ? [y, { dtype: "bool", shape: x?.shape }] : [y];
  },
  factors: (context) => {
    if (context.inputs[2] && constantInts(context.ints[2])?.[0] !== 0) return { factors: [] };
    const linear = context.outputs.length === 1 ? [[0]] : undefined;
    const { factors } = elementwiseFactors({ ...context, inputs: context.inputs.slice(0, 1) });
    const inputs = (f: Factor) => context.inputs.map((_, i) => f.inputs[i] ?? null);
    return { factors: factors.map((f) => ({ ...f, inputs: inputs(f) })), ...(linear ? { linear } : {}) };
  },
  draws: (node) => ((node.inputs[2] ?? "") === "" ? undefined : "int"),
  examples: [{ inputs: [{ dtype: "f32", shape: [2, 5] }], attributes: { seed: int(1) } }],
};
