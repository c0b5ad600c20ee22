/** Elementwise ops of several tensors: a row each. Source: ONNX operator documents. */
import type { DType } from "../core/dtype.ts";
import type { OpDef, OpExample } from "./def.ts";
import { broadcastInputs, elementwise, elementwiseFactors, type ElementwiseRow } from "./elementwise.ts";
import { dimEquals } from "../core/dim.ts";
import { INT_FUNCTIONS, mapKnown } from "./known_ints.ts";
import { addNumbers, scaleNumber } from "./rows.ts";

interface Row {
  readonly since: number;
  readonly dtype?: number | DType;
  readonly linear?: ElementwiseRow["linear"];
  readonly exact?: true;
  readonly numbers?: ElementwiseRow["numbers"];
  readonly on?: DType;
}

const SUM = [[0, 1]] as const;

// deno-fmt-ignore
const ROWS: Readonly<Record<string, Row>> = {
  Add:            { since: 14, linear: SUM, numbers: addNumbers },
  Sub:            { since: 14, linear: SUM },
  Mul:            { since: 14, linear: [[0], [1]], numbers: scaleNumber },
  Div:            { since: 14, linear: [[0]], exact: true },
  Pow:            { since: 15 },
  Mod:            { since: 13, on: "i64" },
  PRelu:          { since: 16 },
  And:            { since: 7, dtype: "bool", on: "bool" },
  Or:             { since: 7, dtype: "bool", on: "bool" },
  Xor:            { since: 7, dtype: "bool", on: "bool" },
  BitwiseAnd:     { since: 18, on: "i64" },
  BitwiseOr:      { since: 18, on: "i64" },
  BitwiseXor:     { since: 18, on: "i64" },
  Equal:          { since: 13, dtype: "bool" },
  Less:           { since: 13, dtype: "bool" },
  LessOrEqual:    { since: 16, dtype: "bool" },
  Greater:        { since: 13, dtype: "bool" },
  GreaterOrEqual: { since: 16, dtype: "bool" },
};

const SHAPES = [[[2, 5], [2, 5]], [[2, 3, 4], [4]], [[2, 1, 4], [3, 1]], [[3, 4], []], [[1, 4], [3, 1]]];

/** All elementwise ops of two tensors. */
export function binaryOps(): OpDef[] {
  return Object.entries(ROWS).map(([op, row]) => {
    const dtype = row.on ?? "f32";
    const ints = INT_FUNCTIONS[op];
    const ranges = op === "Mod" ? { ranges: { 0: [0, 50] as const, 1: [1, 9] as const } } : {};
    // PRelu's slope broadcasts one way only.
    const shapes = op === "PRelu" ? SHAPES.slice(0, 2) : SHAPES;
    const examples: OpExample[] = shapes.map(([a, b]) => ({
      inputs: [{ dtype, shape: a! }, { dtype, shape: b! }],
      ...ranges,
    }));
    if (row.linear) examples.push({ inputs: [{ dtype: "i64", shape: [2, 5] }, { dtype: "i64", shape: [2, 5] }] });
    const full: ElementwiseRow = {
      since: row.since,
      inputs: ["A", "B"],
      ...(row.dtype ? { dtype: row.dtype } : {}),
      ...(row.linear ? { linear: row.linear } : {}),
      ...(row.exact ? { exact: row.exact } : {}),
      ...(ints ? { ints } : {}),
      ...(row.numbers ? { numbers: row.numbers } : {}),
      examples,
    };
    return elementwise(op, full);
  });
}

/** Min, Max, Sum and Mean take any number of tensors. */
export function variadicOps(): OpDef[] {
  return ["Min", "Max", "Sum", "Mean"].map((op) => {
    const f = INT_FUNCTIONS[op === "Sum" ? "Add" : op];
    return {
      op,
      domain: "",
      since: 13,
      inputs: ["...data"],
      infer: ({ inputs, ints }) => {
        const type = { dtype: inputs[0]?.dtype, shape: broadcastInputs(inputs) };
        const content = f &&
          mapKnown(
            ints.slice(0, inputs.length),
            (first, ...rest) => rest.reduce<ReturnType<typeof f>>((a, b) => (a === undefined ? a : f(a, b)), first),
          );
        return [content ? { ...type, ints: content } : type];
      },
      factors: (context) =>
        elementwiseFactors(context, op === "Sum" || op === "Mean" ? [context.inputs.map((_, i) => i)] : undefined),
      examples: [
        { inputs: [{ dtype: "f32", shape: [3, 4] }, { dtype: "f32", shape: [4] }, { dtype: "f32", shape: [3, 1] }] },
        { inputs: [{ dtype: "f32", shape: [6] }] },
      ],
    };
  });
}

/** Where: each element comes from one of the branches. */
export const WHERE: OpDef = elementwise("Where", {
  since: 16,
  inputs: ["condition", "X", "Y"],
  dtype: 1,
  // Where both branches are partial sums and the condition is replicated, so is the result.
  linear: [[1, 2]],
  ints: (c, x, y) => (typeof c !== "number" ? (dimEquals(x!, y!) ? x : undefined) : c !== 0 ? x : y),
  examples: [
    { inputs: [{ dtype: "bool", shape: [2, 5] }, { dtype: "f32", shape: [2, 5] }, { dtype: "f32", shape: [] }] },
    { inputs: [{ dtype: "bool", shape: [1, 4] }, { dtype: "f32", shape: [3, 1] }, { dtype: "f32", shape: [3, 4] }] },
  ],
});

/** Clip with bounds as inputs. */
export const CLIP: OpDef = {
  op: "Clip",
  domain: "",
  since: 13,
  inputs: ["input", "min", "max"],
  infer: ({ inputs }) => [{ dtype: inputs[0]?.dtype, shape: inputs[0]?.shape }],
  factors: (context) => elementwiseFactors(context),
  examples: [
    { inputs: [{ dtype: "f32", shape: [2, 5] }, { dtype: "f32", shape: [] }] },
    { inputs: [{ dtype: "f32", shape: [7] }] },
  ],
};

/** The bias-and-activation fusions of ONNX Runtime. */
export function biasActivationOps(): OpDef[] {
  const base = { domain: "com.microsoft", since: 1 };
  const x = { dtype: "f32", shape: [2, 3, 8] } as const, b = { dtype: "f32", shape: [8] } as const;
  return [
    elementwise("BiasGelu", { ...base, inputs: ["A", "B"], examples: [{ inputs: [x, b] }] }),
    elementwise("FastGelu", { ...base, inputs: ["X", "bias"], examples: [{ inputs: [x, b] }, { inputs: [x] }] }),
    elementwise("Gelu", { ...base, inputs: ["X"], examples: [{ inputs: [x] }] }),
  ];
}
