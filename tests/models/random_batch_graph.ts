/**
 * Random graphs of a batch: ops that keep samples apart and ops that mix them, row numbers and what is selected by them, in no
 * sensible order; for a property test of the proof that tells the two apart.
 */
import { type Dim, parseDim } from "../../src/core/dim.ts";
import type { DType } from "../../src/core/dtype.ts";
import { float, int, ints } from "../../src/graph/attributes.ts";
import { GraphBuilder, inlineData } from "../../src/graph/builder.ts";
import type { Attributes, Graph } from "../../src/graph/graph.ts";
import type { KnownInts } from "../../src/graph/types.ts";
import { opDef } from "../../src/ops/table.ts";

/** A value that further calls may read. */
interface Made {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly Dim[];
  readonly ints?: KnownInts | undefined;
}

const OPSET = 18;

/** Rows of 3 positions of 4 features, ids below 3, a mask, and numbers by row, for `rows` samples. */
export const INPUTS = {
  x: ["f32", ["b", 3, 4]],
  ids: ["i64", ["b", 3]],
  mask: ["bool", ["b", 3]],
  v: ["f32", ["b"]],
} as const;

/** A graph of about `size` calls over {@linkcode INPUTS}, drawn by `random`; its results are `results` of its last values. */
export function randomBatchGraph(random: () => number, size: number, results: number): Graph<"global"> {
  const builder = new GraphBuilder("global", "batch", new Map([["", OPSET]]));
  const pool: Made[] = [];
  for (const [name, [dtype, dims]] of Object.entries(INPUTS)) {
    const shape = dims.map((d) => (typeof d === "string" ? parseDim(d) : d));
    builder.placeholder({ name, type: { dtype, shape } });
    pool.push({ name, dtype, shape });
  }
  const below = (n: number) => Math.floor(random() * n);
  const pick = <T>(list: readonly T[]): T | undefined => list[below(list.length)];
  const constant = (dtype: "f32" | "i64", dims: readonly number[], numbers: readonly number[]): Made => {
    const name = builder.freshValue("c");
    const data = dtype === "f32" ? Float32Array.from(numbers) : BigInt64Array.from(numbers, BigInt);
    builder.getAttr(name, inlineData(dtype, dims, data));
    return { name, dtype, shape: dims, ...(dtype === "i64" ? { ints: { dims, elements: numbers } } : {}) };
  };
  const list = (...numbers: readonly number[]) => constant("i64", [numbers.length], numbers);
  const scalar = (n: number) => constant("i64", [], [n]);
  const floats = (...dims: readonly number[]) =>
    constant("f32", dims, Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => random() - 0.5));
  let fresh = 0;

  /** Appends a call; undefined where its inputs do not fit. */
  function call(op: string, inputs: readonly (Made | undefined)[], attributes: Attributes = {}, count = 1): Made[] {
    if (inputs.some((i) => i === undefined)) return [];
    const def = opDef({ domain: "", op });
    if (!def) throw new Error(`${op} is not described`);
    const operands = inputs as readonly Made[];
    const outputs = Array.from({ length: count }, (_, i) => `${op}${fresh++}_${i}`);
    const node = {
      kind: "call_function",
      domain: "",
      op,
      inputs: operands.map(({ name }) => name),
      outputs,
      attributes,
    } as const;
    let types;
    try {
      types = def.infer({
        node: { ...node, name: op },
        attributes,
        opset: OPSET,
        inputs: operands.map(({ dtype, shape }) => ({ dtype, shape })),
        ints: operands.map((o) => o.ints),
        outputCount: count,
        fresh: (label) => parseDim(`${label}#${fresh++}`),
      });
    } catch {
      return [];
    }
    if (types.some((t) => t.shape === undefined || t.dtype === undefined)) return [];
    builder.call(
      node,
      outputs.map((name, i) => ({ name, type: types[i]!, ...(types[i]!.ints ? { ints: types[i]!.ints } : {}) })),
    );
    return outputs.map((name, i) => ({ name, dtype: types[i]!.dtype!, shape: types[i]!.shape!, ints: types[i]!.ints }));
  }
  const one = (...args: Parameters<typeof call>): Made | undefined => call(...args)[0];
  // Mostly what is new, so that graphs are deep.
  const some = (test: (m: Made) => boolean): Made | undefined => {
    const fitting = pool.filter(test);
    return fitting[Math.max(below(fitting.length), below(fitting.length))];
  };
  const f32 = (least = 0) => some((m) => m.dtype === "f32" && m.shape.length >= least);
  const i64 = (least = 0) => some((m) => m.dtype === "i64" && m.shape.length >= least);
  const any = (least = 0) => some((m) => m.shape.length >= least);
  const axisOf = (m: Made | undefined) => (m ? below(Math.max(1, m.shape.length)) : 0);
  /** A size as a tensor of one element. */
  const sizeOf = (m: Made | undefined, dim: number, rank: 0 | 1 = 1) =>
    one("Gather", [one("Shape", [m]), rank === 1 ? list(dim) : scalar(dim)], { axis: int(0) });
  const range = (limit: Made | undefined) => one("Range", [scalar(0), limit, scalar(1)]);
  /** Numbers of rows, or of what is in dim `axis`, as `[n]` or `[n,1]`. */
  const numbered = (m: Made | undefined, axis: number) => {
    const numbers = range(sizeOf(m, axis, 0));
    return random() < 0.5 ? numbers : one("Unsqueeze", [numbers, list(-1)]);
  };
  const reduction = () => pick(["ReduceSum", "ReduceMax", "ReduceMean", "ReduceMin"])!;

  const templates: readonly (() => (Made | undefined)[])[] = [
    () => [one(pick(["Relu", "Neg", "Tanh", "Abs"])!, [f32()])],
    () => {
      const m = f32();
      return [one(pick(["Add", "Mul", "Sub"])!, [m, some((o) => o.dtype === "f32" && areBroadcast(o, m))])];
    },
    () => {
      const m = i64();
      return [one(pick(["Add", "Mul", "Sub"])!, [m, some((o) => o.dtype === "i64" && areBroadcast(o, m))])];
    },
    () => [one("Add", [f32(1), floats(...pick([[4], [3, 4], [3, 1], [1]])!)])],
    () => [one("Cast", [any()], { to: int(pick([1, 7, 9])!) })],
    () => [one(pick(["Less", "Equal", "GreaterOrEqual"])!, [i64(), random() < 0.5 ? scalar(1) : i64()])],
    () => [one("Where", [some((m) => m.dtype === "bool"), f32(), random() < 0.5 ? floats(1) : f32()])],
    () => [one("MatMul", [f32(2), random() < 0.5 ? floats(4, 4) : f32(2)])],
    () => {
      const m = f32(1);
      return [one("Softmax", [m], { axis: int(axisOf(m)) })];
    },
    () => {
      const m = some((o) => o.dtype === "f32" && o.shape.length > 1 && o.shape.at(-1) === 4);
      return [one("LayerNormalization", [m, floats(4)], { axis: int(-1), epsilon: float(1e-3) })];
    },
    () => {
      const m = f32(1);
      return [one(reduction(), [m, list(axisOf(m))], { keepdims: int(below(2)) })];
    },
    () => {
      const m = f32(1);
      return [one("CumSum", [m, scalar(axisOf(m))])];
    },
    () => {
      const m = f32(1);
      return [one("ArgMax", [m], { axis: int(axisOf(m)), keepdims: int(below(2)) })];
    },
    () => {
      const m = f32(1);
      return call("TopK", [m, list(1 + below(2))], { axis: int(axisOf(m)) }, 2);
    },
    () => {
      const m = any(1), other = some((o) => o.dtype === m?.dtype && o.shape.length === m.shape.length);
      return [one("Concat", [m, other], { axis: int(axisOf(m)) })];
    },
    () => {
      const m = any(1), start = below(2);
      return [one("Slice", [m, list(start), list(start + 1 + below(3)), list(axisOf(m))])];
    },
    () => {
      const m = any(2), perm = m?.shape.map((_, i) => i).sort(() => random() - 0.5) ?? [];
      return [one("Transpose", [m], { perm: ints(perm) })];
    },
    () => [one("Unsqueeze", [any(), list(0)])],
    () => [one("Unsqueeze", [any(), list(-1)])],
    () => [one("Flatten", [any(1)], { axis: int(below(3)) })],
    () => [one("Reshape", [any(), list(...pick([[-1], [0, -1], [-1, 4], [3, -1], [-1, 3, 4], [0, 0, 2, 2]])!)])],
    () => {
      const m = any(1);
      return [
        one("Reshape", [m, one("Concat", [sizeOf(some((o) => o.shape.length > 0), 0), list(-1)], { axis: int(0) })]),
      ];
    },
    () => {
      const m = any();
      const like = some((o) =>
        o.shape.length > 0 && (m?.shape ?? []).toReversed().every((d, i) => broadcasts(d, o.shape.at(-1 - i)))
      );
      return [one("Expand", [m, one("Shape", [like])])];
    },
    () => {
      const m = any(1), like = some((o) => o.shape.length > 0);
      const repeats = m
        ? m.shape.map((_, i) => (i === 0 && random() < 0.7 ? sizeOf(like, 0) : list(1 + below(2))))
        : [];
      return [one("Tile", [m, one("Concat", repeats, { axis: int(0) })])];
    },
    () => [one("ConstantOfShape", [one("Shape", [any(1)])])],
    // Numbers of rows, alone, times a size, and with something else added.
    () => [numbered(any(1), 0)],
    () => {
      const m = any(2), axis = below(2);
      return [numbered(m, axis), one("Mul", [numbered(m, 0), sizeOf(m, 1)])];
    },
    () => {
      const m = any(2), flat = one("Reshape", [m, list(-1, ...(random() < 0.5 ? [] : [1]))]);
      const rows = one("Mul", [one("Unsqueeze", [range(sizeOf(m, 0, 0)), list(-1)]), sizeOf(m, 1)]);
      return [one("Gather", [flat, one("Add", [rows, random() < 0.7 ? range(sizeOf(m, 1, 0)) : i64()])])];
    },
    () => {
      const m = any(1);
      return [one("Gather", [m, random() < 0.5 ? i64() : pick([list(0, 1), scalar(1)])], { axis: int(axisOf(m)) })];
    },
    () => [one("Gather", [floats(12, 4), i64()])],
    () => {
      const m = any(2), columns = i64(1);
      const rows = one("Expand", [one("Unsqueeze", [range(sizeOf(m, 0, 0)), list(-1)]), one("Shape", [columns])]);
      const pair = [rows, columns].map((c) => one("Unsqueeze", [c, list(-1)]));
      return [one("GatherND", [m, one("Concat", random() < 0.8 ? pair : pair.toReversed(), { axis: int(-1) })])];
    },
    () => {
      const m = any(2);
      return [one("GatherND", [m, one("Unsqueeze", [i64(1), list(-1)])], { batch_dims: int(below(2)) })];
    },
    () => {
      const m = f32(1), axis = axisOf(m), index = some((o) => o.dtype === "i64" && isAligned(o, m, axis));
      return [one("GatherElements", [m, index], { axis: int(axis) })];
    },
    () => {
      const m = f32(2), axis = axisOf(m), index = some((o) => o.dtype === "i64" && isAligned(o, m, axis));
      const updates = some((o) => o.dtype === "f32" && String(o.shape) === String(index?.shape));
      return [one("ScatterElements", [m, index, updates], { axis: int(axis) })];
    },
    () => {
      const m = f32(2), rows = one("Unsqueeze", [range(sizeOf(m, 0, 0)), list(-1)]);
      const updates = some((o) => o.dtype === "f32" && String(o.shape) === String(m?.shape));
      return [one("ScatterND", [m, rows, updates])];
    },
    () => [one("OneHot", [i64(), scalar(3), constant("f32", [2], [0, 1])], { axis: int(-1) })],
    // The tokens of an expert: chosen, worked on, and put back.
    () => {
      const x = pool[0]!, tokens = one("Reshape", [x, list(-1, 4)]);
      const chosen = one("Reshape", [some((m) => m.dtype === "bool"), list(-1)]);
      const where = one("Reshape", [one("NonZero", [chosen]), list(-1)]);
      const own = one("Gather", [tokens, where]), worked = one("MatMul", [own, floats(4, 4)]);
      const back = one("ScatterND", [tokens, one("Unsqueeze", [where, list(-1)]), worked]);
      return [one("Reshape", [back, one("Shape", [x])]), ...(random() < 0.3 ? [own, where] : [])];
    },
    () => [one("Mul", [i64(), sizeOf(any(1), 0)])],
    () => [one("Trilu", [f32(2)])],
  ];
  for (let i = 0; i < size; i++) for (const m of templates[below(templates.length)]!()) if (m) pool.push(m);
  const ends = pool.slice(Object.keys(INPUTS).length);
  const chosen = Array.from({ length: results }, () => ends[Math.max(below(ends.length), below(ends.length))]!);
  const names = [...new Set(chosen.filter((m) => m !== undefined).map(({ name }) => name))];
  return builder.finish({ inputs: names, names });
}

/** Whether a dim goes with another, as far as symbols tell. */
function broadcasts(d: Dim, other: Dim | undefined): boolean {
  return d === 1 || other === 1 || String(d) === String(other);
}

/** Whether dims beside the axis are equal. */
function isAligned(a: Made, b: Made | undefined, axis: number): boolean {
  return a.shape.length === b?.shape.length && a.shape.every((d, i) => i === axis || String(d) === String(b.shape[i]));
}

function areBroadcast(a: Made, b: Made | undefined): boolean {
  return b !== undefined && a.shape.every((_, i) => {
    const d = b.shape.at(-1 - i);
    return i >= b.shape.length || broadcasts(a.shape.at(-1 - i)!, d);
  });
}
