/**
 * Tables of embeddings that are quantised in blocks along the hidden dim: cut by rows, or by columns between blocks.
 *
 * Source: ONNX Runtime ContribOperators.md, GatherBlockQuantized.
 */
import { type Dim, dimMul } from "../core/dim.ts";
import { dtypeInfo } from "../core/dtype.ts";
import { int, intOf } from "../graph/attributes.ts";
import type { TensorType } from "../graph/types.ts";
import type { OpDef, TypedContext } from "./def.ts";
import { at, type Factor } from "./factors.ts";
import { emitSelectedRows } from "./selected_rows.ts";
import { emitUnchanged, normalizeAxis, unknownShape } from "./shapes.ts";

/** Values of a byte of the table; a tensor of 4-bit type counts values itself. */
function perByte({ inputs, attributes }: Pick<TypedContext, "inputs" | "attributes">): number {
  return inputs[0]?.dtype === "u8" ? 8 / (intOf(attributes, "bits") ?? 4) : 1;
}

/** The rows of a table `[v, d]`, the blocks of its columns where `units` are told, and the dims of `ids`, the second input. */
function tableFactors(
  { inputs }: TypedContext,
  blocks: { readonly size: number; readonly inner: number; readonly places: Factor["inputs"] } | undefined,
): Factor[] {
  const table = inputs[0]!.shape!, ids = inputs[1]!.shape!;
  const factors: Factor[] = [
    {
      name: "v",
      size: table[0]!,
      inputs: inputs.map((t, i) => (t && i !== 1 ? at(0) : null)),
      outputs: [null],
      reduce: "sum",
      selected: true,
    },
    ...ids.map((size, d) => ({
      name: `i${d}`,
      size,
      inputs: inputs.map((_, i) => (i === 1 ? at(d) : null)),
      outputs: [at(d)],
    })),
  ];
  if (blocks) {
    const { size, inner, places } = blocks;
    factors.push({ name: "d", size, inputs: places, outputs: [at(ids.length, { inner })] });
  }
  return factors.filter((f) => f.size !== 1);
}

/** How many blocks a cut keeps together: those whose zero points share a byte. */
function blocksOfUnit(zeros: TensorType | undefined, bits: number): number {
  return zeros ? Math.max(1, 8 / (zeros.dtype === "u8" ? bits : dtypeInfo(zeros.dtype ?? "u8").bits)) : 1;
}

/** `y[*,d] = dequantised data[ids[*], d]`. */
export const GATHER_BLOCK_QUANTIZED: OpDef = {
  op: "GatherBlockQuantized",
  domain: "com.microsoft",
  since: 1,
  inputs: ["data", "indices", "scales", "zero_points"],
  infer: (context) => {
    const [data, indices, scales] = context.inputs;
    if (!data?.shape || !indices?.shape) return [unknownShape(scales)];
    const axis = normalizeAxis(intOf(context.attributes, "gather_axis") ?? 0, data.shape.length);
    const sizes = data.shape.map((d, i) => (i === data.shape!.length - 1 ? dimMul(d, perByte(context)) : d));
    return [{ dtype: scales?.dtype, shape: [...sizes.slice(0, axis), ...indices.shape, ...sizes.slice(axis + 1)] }];
  },
  factors: (context) => {
    const { inputs, attributes } = context;
    const [data, ids, scales, zeros] = inputs;
    const isTable = data?.shape?.length === 2 && ids?.shape && scales?.shape?.length === 2 &&
      normalizeAxis(intOf(attributes, "gather_axis") ?? 0, 2) === 0 &&
      normalizeAxis(intOf(attributes, "quantize_axis") ?? 1, 2) === 1;
    if (!isTable) return { factors: [] };
    const block = intOf(attributes, "block_size") ?? 128, unit = blocksOfUnit(zeros, 8 / perByte(context));
    const [columns] = data.shape!.slice(1), blocks = scales.shape![1];
    const even = typeof columns === "number" && typeof blocks === "number" &&
      columns * perByte(context) === blocks * block && blocks % unit === 0;
    const inner = block * unit;
    return {
      factors: tableFactors(
        context,
        even
          ? {
            size: blocks / unit,
            inner,
            places: inputs.map((t, i) => {
              if (!t || i === 1) return null;
              if (i === 0) return at(1, { inner: inner / perByte(context) });
              return at(1, { inner: i === 2 ? unit : zeros!.dtype === "u8" ? 1 : unit });
            }),
          }
          : undefined,
      ),
    };
  },
  localize: (context) => {
    const [data] = context.inputTensors;
    if (data?.placement.kind !== "S" || data.placement.dim !== 0) return emitUnchanged(context);
    const { emit, names, attributes, node } = context;
    const select = (index: string) => emit.op(node.op, names.with(1, index), attributes, { domain: node.domain });
    return [emitSelectedRows(context, { table: 0, ids: 1, wrap: true, select })];
  },
  examples: [
    {
      inputs: [
        { dtype: "u8", shape: [11, 32] },
        { dtype: "i64", shape: [2, 3] },
        { dtype: "f32", shape: [11, 4] },
        { dtype: "u8", shape: [11, 2] },
      ],
      attributes: { bits: int(4), block_size: int(16), gather_axis: int(0), quantize_axis: int(1) },
      ranges: { 0: [0, 256], 1: [-11, 11], 3: [0, 256] },
    },
    {
      inputs: [{ dtype: "u8", shape: [7, 48] }, { dtype: "i64", shape: [4] }, { dtype: "f32", shape: [7, 3] }],
      attributes: { bits: int(8), block_size: int(16), gather_axis: int(0), quantize_axis: int(1) },
      ranges: { 0: [0, 256], 1: [0, 7] },
    },
  ],
};

/**
 * The same on a table in the layout of MatMulNBits, so that a tied head reads the same tensors: `packed [v, blocks, bytes]`,
 * `scales [v, blocks]`, `zero_points [v, bytes]`; attributes `bits` and `block_size`.
 */
export const EMBEDDING_NBITS: OpDef = {
  op: "EmbeddingNBits",
  domain: "shardwise",
  since: 1,
  inputs: ["packed", "ids", "scales", "zero_points"],
  infer: ({ inputs, attributes }) => {
    const [packed, ids, scales] = inputs;
    if (!packed?.shape || !ids?.shape) return [unknownShape(scales)];
    return [{
      dtype: scales?.dtype,
      shape: [...ids.shape, dimMul(packed.shape[1]!, intOf(attributes, "block_size")!)],
    }];
  },
  factors: (context) => {
    const { inputs, attributes } = context;
    const packed = inputs[0]?.shape, zeros = inputs[3];
    if (!packed || !inputs[1]?.shape) return { factors: [] };
    const unit = blocksOfUnit(zeros, intOf(attributes, "bits")!), blocks = packed[1] as number;
    const block = intOf(attributes, "block_size")!;
    const places = inputs.map((t, i) => (!t || i === 1 ? null : at(1, { inner: i === 3 ? 1 : unit })));
    return {
      factors: tableFactors(
        context,
        blocks % unit === 0 ? { size: blocks / unit, inner: block * unit, places } : undefined,
      ),
    };
  },
  localize: (context) => {
    const { emit, names, inputTensors } = context;
    const [packed] = inputTensors;
    const [rows, blocks, bytes] = packed!.localShape as [Dim, number, number];
    const flat = emit.op("Reshape", [names[0]!, emit.sizes([rows, blocks * bytes])]);
    const { bits, block_size } = context.attributes;
    const attributes = { bits: bits!, block_size: block_size!, gather_axis: int(0), quantize_axis: int(1) };
    const select = (index: string) =>
      emit.op("GatherBlockQuantized", [flat, index, ...names.slice(2)], attributes, { domain: "com.microsoft" });
    const cut = packed!.placement.kind === "S" && packed!.placement.dim === 0;
    return [cut ? emitSelectedRows(context, { table: 0, ids: 1, wrap: true, select }) : select(names[1]!)];
  },
  examples: [
    {
      inputs: [
        { dtype: "u8", shape: [11, 4, 8] },
        { dtype: "i64", shape: [2, 3] },
        { dtype: "f32", shape: [11, 4] },
        { dtype: "u8", shape: [11, 2] },
      ],
      attributes: { bits: int(4), block_size: int(16) },
      ranges: { 0: [0, 256], 1: [-11, 11], 3: [0, 256] },
    },
    {
      inputs: [{ dtype: "u8", shape: [7, 3, 16] }, { dtype: "i32", shape: [4] }, { dtype: "f32", shape: [7, 3] }],
      attributes: { bits: int(8), block_size: int(16) },
      ranges: { 0: [0, 256], 1: [0, 7] },
    },
  ],
};
