/**
 * Mixtures of experts as one op. Every expert is cut alike, along the width of its hidden layer: rows of the first matrix, columns
 * of the second, whose products are partial sums. Or each rank has some of the experts whole (own_experts.ts). Routing is computed
 * by every rank.
 *
 * Source: ONNX Runtime ContribOperators.md, com.microsoft MoE and QMoE. SwiGLU in one matrix has gate and up rows
 * interleaved (`swiglu_fusion` 1) or one after the other (2).
 */
import { type Dim, dimMul, dimProduct } from "../core/dim.ts";
import { int, intOf, string as text } from "../graph/attributes.ts";
import type { OpDef, TypedContext } from "./def.ts";
import { type At, at, type Factor, type FactorRule } from "./factors.ts";
import { emitOwnExperts, workOfExperts } from "./own_experts.ts";
import { type RowsContext, type RowsOutcome, samePlace } from "./rows.ts";
import { emitUnchanged, unknownShape } from "./shapes.ts";

/** Positions of the inputs; undefined where the op has none. */
interface Positions {
  /** Of the first matrix `[experts, rows, width]` and all that has a value for each of its rows in dim 1. */
  readonly rows: readonly number[];
  /** The second matrix `[experts, width, hidden]`. */
  readonly second: number;
  /** Scales and zero points of the second matrix, with blocks of `hidden` in dim 2. */
  readonly blocks: readonly { readonly input: number; readonly packed: boolean }[];
  readonly secondBias: number;
}

const MOE_AT: Positions = { rows: [2, 3, 6, 7], second: 4, blocks: [], secondBias: 5 };
const QMOE_AT: Positions = {
  rows: [2, 3, 4, 8, 9, 10, 11, 13],
  second: 5,
  blocks: [{ input: 6, packed: false }, { input: 12, packed: true }],
  secondBias: 7,
};

/** Values in a byte of quantised weights. */
function perByte(context: Pick<TypedContext, "attributes">): number {
  return 8 / (intOf(context.attributes, "expert_weight_bits") ?? 4);
}

/** Elements of the hidden layer that must stay together: quantised values share bytes and blocks, and so do zero points. */
function hiddenUnit(context: TypedContext, positions: Positions, packed: boolean): number {
  if (!packed) return 1;
  const block = intOf(context.attributes, "block_size") ?? 0;
  const zeros = positions.blocks.some((b) => b.packed && context.inputs[b.input]);
  return block > 0 ? block * (zeros ? perByte(context) : 1) : perByte(context);
}

function factorsOf(context: TypedContext, positions: Positions, packed: boolean): FactorRule {
  const { inputs, attributes } = context;
  const first = inputs[positions.rows[0]!]?.shape, second = inputs[positions.second]?.shape;
  // The quantised kernel groups tokens, so that a part of them would round otherwise.
  const factors: Factor[] = [...(packed ? [] : tokenFactors(context)), ...expertFactors(context, positions)];
  const [rows, width] = [first?.[1], second?.[2]];
  if (typeof rows !== "number" || typeof width !== "number") return { factors };
  const unit = hiddenUnit(context, positions, packed), bytes = packed ? perByte(context) : 1;
  const hidden = width * bytes, times = rows / hidden;
  if (hidden % unit !== 0 || (times !== 1 && times !== 2)) return { factors };
  const fused = times === 2 ? intOf(attributes, "swiglu_fusion") ?? 0 : 1;
  if (fused !== 1 && fused !== 2) return { factors };
  const isFused = times === 2, block = intOf(attributes, "block_size") ?? 0;
  /** Places of the rows that begin at `offset`; a fused pair of rows is one unit where they are interleaved. */
  const places = (offset: number, withSecond: boolean): (At | null)[] =>
    inputs.map((input, i) => {
      if (!input?.shape) return null;
      if (positions.rows.includes(i)) {
        return at(1, { inner: unit * (isFused && fused === 1 ? 2 : 1), offset });
      }
      if (!withSecond) return null;
      if (i === positions.second) return at(2, { inner: unit / bytes });
      const scales = positions.blocks.find((b) => b.input === i);
      if (!scales || block === 0 || input.shape.length < 3) return null;
      return at(2, { inner: unit / block / (scales.packed ? bytes : 1) });
    });
  const addends = inputs[positions.secondBias] ? { addends: [positions.secondBias] } : {};
  const half = (name: string, offset: number, withSecond: boolean): Factor => ({
    name,
    size: hidden / unit,
    inputs: places(offset, withSecond),
    outputs: [null],
    reduce: "sum",
    ...addends,
  });
  if (isFused && fused === 2) {
    return { factors: [...factors, half("f", 0, true), half("u", hidden, false)], alike: true };
  }
  return { factors: [...factors, half("f", 0, true)] };
}

/** Every input but tokens and their routing has a row for each expert. */
function expertFactors({ inputs, attributes }: TypedContext, { rows }: Positions): Factor[] {
  const experts = inputs[rows[0]!]?.shape?.[0], k = intOf(attributes, "k") ?? 1;
  const [x, router] = inputs, known = router?.shape?.length === 2 && x?.shape !== undefined;
  if (typeof experts !== "number" || !known || intOf(attributes, "use_sparse_mixer") === 1) return [];
  const weights = inputs.slice(2);
  // What else a token may have a number for, such as weights of its own for each expert.
  if (weights.some((w) => w && w.shape?.[0] !== experts)) return [];
  return [{
    name: "e",
    size: experts,
    inputs: [null, null, ...weights.map((w) => (w ? at(0) : null))],
    outputs: [null],
    reduce: "sum",
    work: (units) => workOfExperts(units, k),
  }];
}

/** Tokens are independent; router and input may have them in dims of their own, or merged. */
function tokenFactors({ inputs }: TypedContext): Factor[] {
  const [x, router] = inputs.map((i) => i?.shape);
  if (x?.length !== 2 || router?.length !== 2 || x[0] === 1) return [];
  return [{ name: "t", size: x[0]!, inputs: inputs.map((_, i) => (i < 2 ? at(0) : null)), outputs: [at(0)] }];
}

/** Samples are apart as their tokens are, which the router has merged in one dim. */
function tokenRows({ inputs, facts: [x, router, ...weights] }: RowsContext, packed: boolean): RowsOutcome {
  const place = x?.place, shape = inputs[0]?.shape;
  if (!place || weights.some((w) => w.place)) return undefined;
  if (packed) return { mixes: "its kernel groups tokens, and rounds what a group has" };
  if (!shape || place.dim === shape.length - 1) return undefined;
  const dims = shape.slice(0, -1),
    merged = {
      dim: 0,
      outer: dimMul(dimProduct(dims.slice(0, place.dim)), place.outer),
      inner: dimMul(dimProduct(dims.slice(place.dim + 1)), place.inner),
      of: place.of,
    };
  return samePlace(router?.place, merged) ? [{ place }] : { mixes: "its routing has other samples than its tokens" };
}

/** Two products a token, for each of its `k` experts. */
function moeFlops({ inputs, outputs, attributes }: TypedContext, positions: Positions): Dim {
  const first = inputs[positions.rows[0]!]?.shape, tokens = inputs[1]?.shape?.[0] ?? 1;
  const width = outputs[0]?.shape?.at(-1) ?? 1, k = intOf(attributes, "k") ?? 1;
  return [tokens, width, first?.[1] ?? 1].reduce<Dim>(dimMul, 4 * k);
}

/** Of all experts, those that tokens choose, if each chooses others. */
function chosenPart({ inputs, attributes }: TypedContext, size: (dim: Dim) => number): number {
  const [tokens = 1, experts = 1] = inputs[1]?.shape ?? [], k = intOf(attributes, "k") ?? 1;
  return Math.min(1, size(tokens) * k / size(experts));
}

function moe(op: "MoE" | "QMoE", inputs: readonly string[], examples: OpDef["examples"]): OpDef {
  const positions = op === "MoE" ? MOE_AT : QMOE_AT;
  return {
    op,
    domain: "com.microsoft",
    since: 1,
    inputs,
    infer: (context) => [context.inputs[0] ?? unknownShape(undefined)],
    factors: (context) => factorsOf(context, positions, op === "QMoE"),
    rows: (context) => tokenRows(context, op === "QMoE"),
    localize: (context) => {
      const weights = positions.rows[0]!, placement = context.inputTensors[weights]?.placement;
      return placement?.kind === "S" && placement.dim === 0 ? emitOwnExperts(context, weights) : emitUnchanged(context);
    },
    flops: (context) => moeFlops(context, positions),
    readsOf: chosenPart,
    examples,
  };
}

const f32 = (...shape: number[]) => ({ dtype: "f32" as const, shape });
const u8 = (...shape: number[]) => ({ dtype: "u8" as const, shape });

const QMOE_EXAMPLE = {
  inputs: [
    f32(5, 32),
    f32(5, 3),
    u8(3, 128, 16),
    f32(3, 128, 2),
    f32(3, 128),
    u8(3, 32, 32),
    f32(3, 32, 4),
    f32(3, 32),
  ],
  ranges: { 2: [0, 256], 5: [0, 256] },
  attributes: {
    activation_type: text("swiglu"),
    k: int(2),
    swiglu_fusion: int(1),
    expert_weight_bits: int(4),
    block_size: int(16),
  },
} as const;

/** MoE, QMoE. */
export function moeOps(): OpDef[] {
  return [
    moe("MoE", [
      "input",
      "router_probs",
      "fc1_experts_weights",
      "fc1_experts_bias",
      "fc2_experts_weights",
      "fc2_experts_bias",
      "fc3_experts_weights",
      "fc3_experts_bias",
    ], [
      {
        inputs: [f32(5, 8), f32(5, 3), f32(3, 12, 8), f32(3, 12), f32(3, 8, 12), f32(3, 8)],
        attributes: { activation_type: text("relu"), k: int(2), normalize_routing_weights: int(1) },
      },
      {
        inputs: [f32(5, 8), f32(5, 3), f32(3, 12, 8), f32(3, 12), f32(3, 8, 6), f32(3, 8)],
        attributes: { activation_type: text("swiglu"), k: int(2), swiglu_fusion: int(1) },
      },
      {
        inputs: [f32(2, 3, 8), f32(6, 5), f32(5, 12, 8), undefined, f32(5, 8, 12)],
        attributes: { activation_type: text("relu"), k: int(3) },
      },
    ]),
    moe("QMoE", [
      "input",
      "router_probs",
      "fc1_experts_weights",
      "fc1_scales",
      "fc1_experts_bias",
      "fc2_experts_weights",
      "fc2_scales",
      "fc2_experts_bias",
      "fc3_experts_weights",
      "fc3_scales",
      "fc3_experts_bias",
      "fc1_zero_points",
      "fc2_zero_points",
      "fc3_zero_points",
    ], [
      QMOE_EXAMPLE,
      { ...QMOE_EXAMPLE, attributes: { ...QMOE_EXAMPLE.attributes, normalize_routing_weights: int(1) } },
    ]),
  ];
}
