/** Rotary positions. Source: ONNX RotaryEmbedding-23; com.microsoft, ContribOperators.md. */
import { int, intOf } from "../graph/attributes.ts";
import type { OpDef, TypedContext } from "./def.ts";
import { at, type FactorRule, NO_FACTORS } from "./factors.ts";
import { batchFactor, emitHeads, f32, headFactor } from "./heads.ts";
import { emitUnchanged } from "./shapes.ts";

interface RotaryForm {
  readonly domain: string;
  readonly since: number;
  readonly inputs: readonly string[];
  /** Position of the cosine table. */
  readonly cos: number;
  readonly examples: OpDef["examples"];
}

/** RotaryEmbedding, in ONNX's form and in ONNX Runtime's older one. */
export function rotaryOps(): OpDef[] {
  const forms: RotaryForm[] = [
    {
      domain: "com.microsoft",
      since: 1,
      inputs: ["input", "position_ids", "cos_cache", "sin_cache"],
      cos: 2,
      examples: [
        {
          inputs: [f32(1, 3, 32), { dtype: "i64", shape: [1, 3] }, f32(16, 4), f32(16, 4)],
          ranges: { 1: [0, 16] },
        },
        {
          inputs: [f32(2, 3, 32), { dtype: "i64", shape: [2, 3] }, f32(16, 4), f32(16, 4)],
          ranges: { 1: [0, 16] },
        },
      ],
    },
    {
      domain: "",
      since: 23,
      inputs: ["X", "cos_cache", "sin_cache", "position_ids"],
      cos: 1,
      examples: [
        {
          inputs: [f32(1, 4, 3, 8), f32(16, 4), f32(16, 4), { dtype: "i64", shape: [1, 3] }],
          ranges: { 3: [0, 16] },
        },
        {
          inputs: [f32(1, 3, 32), f32(16, 4), f32(16, 4), { dtype: "i64", shape: [1, 3] }],
          ranges: { 3: [0, 16] },
          attributes: { num_heads: int(4) },
        },
        { inputs: [f32(2, 4, 3, 8), f32(2, 3, 4), f32(2, 3, 4)] },
      ],
    },
  ];
  return forms.map((form): OpDef => ({
    op: "RotaryEmbedding",
    domain: form.domain,
    since: form.since,
    inputs: form.inputs,
    infer: ({ inputs }) => [{ dtype: inputs[0]?.dtype, shape: inputs[0]?.shape }],
    factors: (context) => rotaryFactors(context, form.cos),
    localize: (context) => {
      const size = rotaryHeadSize(context, form.cos), local = context.outputTensors[0]?.localShape;
      const heads = local?.length === 4
        ? local[1]
        : typeof local?.[2] === "number" && size
        ? local[2] / size
        : undefined;
      if (typeof heads !== "number") return emitUnchanged(context);
      const stated = intOf(context.attributes, "num_heads") ?? 0;
      return emitHeads(
        context,
        stated > 0 ? { ...context.attributes, num_heads: int(heads) } : context.attributes,
        heads,
      );
    },
    examples: form.examples,
  }));
}

function rotaryHeadSize(context: TypedContext, cos: number): number | undefined {
  const heads = intOf(context.attributes, "num_heads") ?? 0;
  const width = context.inputs[0]?.shape?.at(-1), half = context.inputs[cos]?.shape?.at(-1);
  if (heads > 0) return typeof width === "number" ? width / heads : undefined;
  return typeof half === "number" ? half * 2 : undefined;
}

function rotaryFactors(context: TypedContext, cos: number): FactorRule {
  const shape = context.inputs[0]?.shape;
  if (!shape) return NO_FACTORS;
  // Tables of three dims are one for each sequence, as positions are.
  const tables = context.inputs[cos]?.shape?.length === 3 ? { [cos]: 0, [cos + 1]: 0 } : {};
  const sequences = batchFactor(context, { inputs: { 0: 0, [cos === 1 ? 3 : 1]: 0, ...tables }, outputs: { 0: 0 } });
  if (shape.length === 4) {
    const heads = headFactor(context, "h", shape[1]!, { inputs: { 0: at(1) }, outputs: { 0: at(1) } });
    return { factors: [heads, ...sequences] };
  }
  const size = rotaryHeadSize(context, cos), width = shape.at(-1);
  if (!size || typeof width !== "number" || width % size !== 0) return NO_FACTORS;
  const place = { 0: at(2, { inner: size }) };
  return { factors: [headFactor(context, "h", width / size, { inputs: place, outputs: place }), ...sequences] };
}
