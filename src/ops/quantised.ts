/**
 * Quantised weights and activations.
 *
 * Weights quantised in blocks are cut by columns at any border, and by rows between blocks; what rounds activations over a
 * whole tensor keeps them whole, since a rank would round its own part otherwise. Source: ONNX Runtime
 * ContribOperators.md, ONNX DequantizeLinear-21, DynamicQuantizeLinear-11, MatMulInteger-10.
 */
import { type Dim, dimMul } from "../core/dim.ts";
import { dtypeFromOnnx, dtypeInfo } from "../core/dtype.ts";
import { int, intOf } from "../graph/attributes.ts";
import type { Inferred, LocalizeContext, OpDef, TypedContext } from "./def.ts";
import { type At, at, type Factor } from "./factors.ts";
import { emitZeros } from "./selected_rows.ts";
import { emitUnchanged, normalizeAxis, unknownShape } from "./shapes.ts";

function blockSizes({ attributes }: Pick<TypedContext, "attributes">) {
  return {
    k: intOf(attributes, "K")!,
    n: intOf(attributes, "N")!,
    bits: intOf(attributes, "bits") ?? 4,
    block: intOf(attributes, "block_size")!,
  };
}

const NBITS = { K: int(64), N: int(6), bits: int(4), block_size: int(16) };

/** `y[*,n] = x[*,k] · dequantised b[n,k]`. */
export const MATMUL_NBITS: OpDef = {
  op: "MatMulNBits",
  domain: "com.microsoft",
  since: 1,
  inputs: ["A", "B", "scales", "zero_points", "g_idx", "bias"],
  infer: (context) => {
    const [a] = context.inputs;
    if (!a?.shape) return [unknownShape(a)];
    return [{ dtype: a.dtype, shape: [...a.shape.slice(0, -1), blockSizes(context).n] }];
  },
  factors: (context) => ({ factors: nbitsFactors(context) }),
  flops: ({ inputs, outputs }) => outputs[0]!.shape!.reduce<Dim>(dimMul, dimMul(2, inputs[0]!.shape!.at(-1)!)),
  localize: (context) => {
    const { k, n } = blockSizes(context);
    const local = (t: LocalizeContext["inputTensors"][number]) => t?.localShape?.at(-1);
    const rows = local(context.inputTensors[0]), columns = local(context.outputTensors[0]);
    if (typeof rows !== "number" || typeof columns !== "number" || (rows === k && columns === n)) {
      return emitUnchanged(context);
    }
    const { emit, node, names } = context;
    // The first rank, which alone has a bias of partial results, always has rows.
    if (rows === 0 || columns === 0) {
      return [emitZeros(emit, context.outputs[0]!.dtype!, context.outputTensors[0]!.localShape!)];
    }
    const attributes = { ...context.attributes, K: int(rows), N: int(columns) };
    return emit.ops(node.op, names, attributes, { domain: node.domain, outputs: 1 });
  },
  examples: [
    {
      inputs: [
        { dtype: "f32", shape: [2, 3, 64] },
        { dtype: "u8", shape: [6, 4, 8] },
        { dtype: "f32", shape: [6, 4] },
        { dtype: "u8", shape: [6, 2] },
      ],
      attributes: NBITS,
      ranges: { 1: [0, 256], 3: [0, 256] },
    },
    {
      inputs: [
        { dtype: "f32", shape: [3, 64] },
        { dtype: "u8", shape: [6, 4, 8] },
        { dtype: "f32", shape: [24] },
      ],
      attributes: NBITS,
      ranges: { 1: [0, 256] },
    },
  ],
};

function nbitsFactors(context: TypedContext): Factor[] {
  const { inputs } = context;
  const { k, n, bits, block } = blockSizes(context);
  const x = inputs[0]?.shape;
  if (!x) return [];
  const blocks = Math.ceil(k / block);
  const places = (by: Readonly<Record<number, At | null>>) => inputs.map((_, i) => by[i] ?? null);
  const factors: Factor[] = x.slice(0, -1).flatMap((size, d): Factor[] =>
    size === 1 ? [] : [{ name: `*${d}`, size, inputs: places({ 0: at(d) }), outputs: [at(d)] }]
  );
  /** The place of columns in a tensor of n rows, flat or not; `null` where they cannot be told. */
  const columns = (i: number): At | null | undefined => {
    const shape = inputs[i]?.shape;
    if (!shape) return null;
    if (shape[0] === n) return at(0);
    const inner = typeof shape[0] === "number" ? shape[0] / n : 0;
    return shape.length === 1 && Number.isInteger(inner) && inner > 0 ? at(0, { inner }) : undefined;
  };
  const byColumn = [1, 2, 3, 5].map((i) => [i, columns(i)] as const);
  if (byColumn.every(([, p]) => p !== undefined)) {
    const by = Object.fromEntries(byColumn) as Record<number, At | null>;
    factors.push({ name: "n", size: n, inputs: places(by), outputs: [at(x.length - 1)] });
  }
  // Rows: between blocks, where the tensors have a dim of blocks; packed zero points are cut between bytes.
  const scales = inputs[2]?.shape, zeros = inputs[3]?.shape;
  const perByte = zeros && inputs[3]?.dtype === "u8" ? Math.max(1, 8 / bits) : 1;
  const cuttable = inputs[4] === undefined && k % block === 0 && scales?.length === 2 &&
    (!zeros || zeros.length === 2) &&
    blocks % perByte === 0;
  if (cuttable) {
    factors.push({
      name: "k",
      size: blocks / perByte,
      inputs: places({
        0: at(x.length - 1, { inner: block * perByte }),
        1: at(1, { inner: perByte }),
        2: at(1, { inner: perByte }),
        3: zeros ? at(1) : null,
      }),
      outputs: [null],
      reduce: "sum",
      ...(inputs[5] ? { addends: [5] } : {}),
    });
  }
  return factors;
}

export const DEQUANTIZE_LINEAR: OpDef = {
  op: "DequantizeLinear",
  domain: "",
  since: 13,
  inputs: ["x", "x_scale", "x_zero_point"],
  infer: ({ inputs }) => [{ dtype: inputs[1]?.dtype, shape: inputs[0]?.shape }],
  factors: ({ inputs, attributes }) => {
    const x = inputs[0]?.shape, scale = inputs[1]?.shape;
    if (!x || !scale) return { factors: [] };
    const axis = x.length > 0 ? normalizeAxis(intOf(attributes, "axis") ?? 1, Math.max(x.length, 2)) : 0;
    const block = intOf(attributes, "block_size") ?? 0;
    // Values that share a byte stay together, those of zero points too.
    const perByte = Math.max(1, 8 / dtypeInfo(inputs[0]!.dtype ?? "u8").bits);
    const factors = x.flatMap((size, d): Factor[] => {
      if (size === 1) return [];
      const isLast = d === x.length - 1;
      // A size that is no number is none of a weight: activations, of which a dim is cut anywhere.
      if (typeof size !== "number") {
        const isPlain = perByte === 1 && (d !== axis || scale.length === 0);
        return isPlain
          ? [{ name: `d${d}`, size, inputs: inputs.map((_, i) => (i === 0 ? at(d) : null)), outputs: [at(d)] }]
          : [];
      }
      const inBlock = block > 0 && d === axis ? block : 1;
      const inner = inBlock * (isLast ? (inBlock === 1 || inputs[2] ? perByte : 1) : 1);
      if (size % inner !== 0) return [];
      const ofScale = block > 0
        ? at(d, { inner: inner / inBlock })
        : scale.length === 1 && d === axis && scale[0] === size
        ? at(0, { inner })
        : null;
      return [{
        name: `d${d}`,
        size: size / inner,
        inputs: inputs.map((input, i) => (i === 0 ? at(d, { inner }) : input ? ofScale : null)),
        outputs: [at(d, { inner })],
      }];
    });
    return { factors };
  },
  // Work, so that a constant that is cut counts as a weight.
  flops: ({ outputs }) => (outputs[0]?.shape ?? []).reduce<Dim>(dimMul, 1),
  examples: [
    {
      inputs: [{ dtype: "u8", shape: [4, 6] }, { dtype: "f32", shape: [4] }, { dtype: "u8", shape: [4] }],
      attributes: { axis: int(0) },
    },
    { inputs: [{ dtype: "i8", shape: [4, 6] }, { dtype: "f32", shape: [] }] },
  ],
};

export const QUANTIZE_LINEAR: OpDef = {
  op: "QuantizeLinear",
  domain: "",
  since: 13,
  inputs: ["x", "y_scale", "y_zero_point"],
  infer: ({ inputs, attributes }) => {
    const code = intOf(attributes, "output_dtype") ?? 0;
    const dtype = inputs[2]?.dtype ?? (code > 0 ? dtypeFromOnnx(code) : "u8");
    return [{ dtype, shape: inputs[0]?.shape }];
  },
  examples: [{ inputs: [{ dtype: "f32", shape: [4, 6] }, { dtype: "f32", shape: [] }, { dtype: "u8", shape: [] }] }],
};

export const DYNAMIC_QUANTIZE_LINEAR: OpDef = {
  op: "DynamicQuantizeLinear",
  domain: "",
  since: 11,
  inputs: ["x"],
  infer: ({ inputs }) => [
    { dtype: "u8", shape: inputs[0]?.shape },
    { dtype: "f32", shape: [] },
    { dtype: "u8", shape: [] },
  ],
  rows: ({ facts: [x] }) => (x?.place ? { mixes: "it rounds by the largest value of all samples" } : undefined),
  examples: [{ inputs: [{ dtype: "f32", shape: [4, 6] }], outputs: 3 }],
};

export const MATMUL_INTEGER: OpDef = {
  op: "MatMulInteger",
  domain: "",
  since: 10,
  inputs: ["A", "B", "a_zero_point", "b_zero_point"],
  infer: ({ inputs }): Inferred[] => {
    const a = inputs[0]?.shape, b = inputs[1]?.shape;
    if (!a || b?.length !== 2) return [{ dtype: "i32", shape: undefined }];
    return [{ dtype: "i32", shape: [...a.slice(0, -1), b[1]!] }];
  },
  factors: ({ inputs }) => {
    const a = inputs[0]?.shape, b = inputs[1]?.shape;
    if (!a || b?.length !== 2) return { factors: [] };
    const zero = inputs[3]?.shape;
    const perColumn = zero?.length === 1 && zero[0] === b[1];
    const places = (by: Readonly<Record<number, At | null>>) => inputs.map((_, i) => by[i] ?? null);
    const lead = a.slice(0, -1).flatMap((size, d): Factor[] =>
      size === 1 ? [] : [{ name: `*${d}`, size, inputs: places({ 0: at(d) }), outputs: [at(d)] }]
    );
    const n = {
      name: "n",
      size: b[1]!,
      inputs: places({ 1: at(1), 3: perColumn ? at(0) : null }),
      outputs: [at(a.length - 1)],
    };
    return { factors: [...lead, n] };
  },
  flops: ({ inputs, outputs }) => outputs[0]!.shape!.reduce<Dim>(dimMul, dimMul(2, inputs[0]!.shape!.at(-1)!)),
  examples: [
    {
      inputs: [{ dtype: "u8", shape: [3, 8] }, { dtype: "i8", shape: [8, 6] }, { dtype: "u8", shape: [] }, {
        dtype: "i8",
        shape: [6],
      }],
    },
  ],
};
