/** One layer of attention over a cache, as Optimum's TorchScript exporter writes it; for tests of rewrites. */
import { dimAdd, symbol } from "../../src/core/dim.ts";
import { fromNumbers } from "../../src/core/host_tensor.ts";
import { float as real, int, ints } from "../../src/graph/attributes.ts";
import { GraphBuilder, inlineData } from "../../src/graph/builder.ts";
import type { Attributes, Graph } from "../../src/graph/graph.ts";

/** What the layer is like. */
export interface AttentionForm {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** How many elements of a head are rotated by position: none, some or all. */
  readonly rotated: number;
  /** Whether neighbours are rotated, and where the dim of heads is then; else the halves of a head are. */
  readonly pairs?: "heads first" | "tokens first";
  /** Tokens see only so many before themselves. */
  readonly window?: number;
  readonly softcap?: number;
  /** Whether scores are scaled when they are masked. */
  readonly scaledLast?: boolean;
  /** Whether rows of NaN become 0. Default true. */
  readonly guard?: boolean;
  /** What the mask adds where nothing may be seen. Default -∞. */
  readonly hidden?: number;
  /**
   * How the mask is written: as conditions of which one Where makes numbers (default); as a triangle of numbers into which padding is
   * put by a ScatterND of everything; as a Where of scores for later tokens, and a sum for padding; or so with a table that says
   * which tokens are later.
   */
  readonly written?: "conditions" | "scatter" | "scores" | "table";
  /** Whether the attention is ONNX's op, with the conditions as its mask. */
  readonly asOp?: boolean;
  /** Whether the longer cache is a result by way of an Identity. */
  readonly named?: boolean;
  /** Default f32. */
  readonly dtype?: "f32" | "f16";
  /** Whether later tokens are hidden. Default true. */
  readonly causal?: boolean;
  /** Whether keys are transposed with batch and heads folded into one dim, as torch.export has it. */
  readonly folded?: boolean;
  /** Whether this step's tokens are counted from 0, with the past added. */
  readonly counted?: boolean;
  /** How heads are merged: to rows of batch and tokens, or after something else has read them; default `[batch, sequence, width]`. */
  readonly merged?: "rows" | "later";
  /** Whether the keys are a result under a second name too. */
  readonly keysRead?: boolean;
}

const HIDDEN = 24;

/** `x: f32[batch,seq,24]`, a mask, positions and a cache, to `y` of the same shape and the longer cache. */
export function attentionGraph(form: AttentionForm): Graph<"global"> {
  const { heads, kvHeads, headDim, rotated } = form;
  const builder = new GraphBuilder("global", "attention", new Map([["", form.asOp ? 23 : 18]]));
  const [batch, seq, past] = ["batch", "seq", "past"].map(symbol) as [ReturnType<typeof symbol>, never, never];
  const total = dimAdd(past, seq);
  let state = 7;
  const random = () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32 - 0.5;
  const dtype = form.dtype ?? "f32", float = dtype === "f32" ? 1 : 10;
  const tensor = (dims: readonly number[], numbers: readonly number[]) =>
    inlineData(dtype, dims, fromNumbers(dtype, dims, numbers).data);
  const weight = (name: string, ...dims: number[]) => {
    builder.getAttr(name, tensor(dims, Array.from({ length: dims.reduce((a, b) => a * b, 1) }, random)));
    return name;
  };
  const number = (value: number) => {
    const name = builder.freshValue("number");
    builder.getAttr(name, tensor([], [value]));
    return name;
  };
  const sizes = (...list: number[]) => {
    const name = builder.freshValue("sizes");
    builder.getAttr(name, inlineData("i64", [list.length], BigInt64Array.from(list, BigInt)));
    return name;
  };
  const scalarInt = (value: number) => {
    const name = builder.freshValue("int");
    builder.getAttr(name, inlineData("i64", [], BigInt64Array.of(BigInt(value))));
    return name;
  };
  const op = (name: string, inputs: readonly string[], attributes: Attributes = {}, output?: string) => {
    const out = output ?? builder.freshValue(name);
    builder.call({ kind: "call_function", domain: "", op: name, inputs, outputs: [out], attributes }, [
      { name: out, type: { dtype: undefined, shape: undefined } },
    ]);
    return out;
  };
  const slice = (x: string, dim: number, from: number, to: number) =>
    op("Slice", [x, sizes(from), sizes(to), sizes(dim), sizes(1)]);

  builder.placeholder({ name: "x", type: { dtype, shape: [batch, seq, HIDDEN] } });
  builder.placeholder({ name: "attention_mask", type: { dtype: "i64", shape: [batch, total] } });
  builder.placeholder({ name: "position_ids", type: { dtype: "i64", shape: [batch, seq] } });
  for (const name of ["past.key", "past.value"]) {
    builder.placeholder({ name, type: { dtype, shape: [batch, kvHeads, past, headDim] } });
  }
  const dimOf = (name: string, dim: number) => op("Gather", [op("Shape", [name]), scalarInt(dim)]);
  const pastSize = dimOf("past.key", 2), totalSize = dimOf("attention_mask", 1);

  // The mask: key <= token, and no padding, and within the window.
  const counted = op("Add", [op("Range", [scalarInt(0), dimOf("x", 1), scalarInt(1)]), pastSize]);
  const stepsAt = form.counted ? counted : op("Range", [pastSize, totalSize, scalarInt(1)]);
  const tokens = op("Unsqueeze", [stepsAt, sizes(0, 1, 3)]);
  const keysAt = op("Unsqueeze", [op("Range", [scalarInt(0), totalSize, scalarInt(1)]), sizes(0, 1, 2)]);
  const padding = op("Unsqueeze", [op("Cast", ["attention_mask"], { to: int(9) }), sizes(1, 2)]);
  let allowed = form.causal === false ? padding : op("And", [op("LessOrEqual", [keysAt, tokens]), padding]);
  if (form.window !== undefined) {
    const first = op("Sub", [tokens, scalarInt(form.window)]);
    allowed = op("And", [op("Greater", [keysAt, first]), allowed]);
  }
  const ones = op("Concat", [
    op("Unsqueeze", [dimOf("x", 0), sizes(0)]),
    sizes(1),
    op("Unsqueeze", [dimOf("x", 1), sizes(0)]),
    op("Unsqueeze", [totalSize, sizes(0)]),
  ], { axis: int(0) });
  allowed = op("Expand", [allowed, ones]);
  const hidden = form.hidden ?? -Infinity, written = form.written ?? "conditions";
  let mask = op("Where", [allowed, number(0), number(hidden)]);
  if (written === "scatter") {
    const square = op("Concat", [op("Unsqueeze", [dimOf("x", 1), sizes(0)]), op("Unsqueeze", [totalSize, sizes(0)])], {
      axis: int(0),
    });
    const full = op("ConstantOfShape", [square], {
      value: { kind: "tensor", value: tensor([1], [hidden]) },
    });
    const triangle = op("Trilu", [full, scalarInt(1)], { upper: int(1) });
    const later = op("Cast", [op("Greater", [keysAt, tokens])], { to: int(float) });
    const causal = op("Expand", [op("Mul", [triangle, later]), ones]);
    const padded = op("Cast", [op("Unsqueeze", ["attention_mask", sizes(1, 2)])], { to: int(float) });
    const isPadding = op("Equal", [op("Add", [causal, padded]), number(0)]);
    const updates = op("Where", [isPadding, number(hidden), causal]);
    const rows = op("Reshape", [op("Range", [scalarInt(0), dimOf("x", 0), scalarInt(1)]), sizes(-1, 1, 1, 1)]);
    const steps = op("Reshape", [op("Range", [scalarInt(0), dimOf("x", 1), scalarInt(1)]), sizes(-1, 1)]);
    const index = [rows, sizes(0), steps, keysAt].map((x) => op("Unsqueeze", [op("Expand", [x, ones]), sizes(-1)]));
    mask = op("ScatterND", [causal, op("Concat", index, { axis: int(-1) }), updates]);
  }
  const tableOfEarlier = () => {
    const bits = Uint8Array.from({ length: 256 }, (_, i) => Number(i % 16 <= Math.floor(i / 16)));
    builder.getAttr("table", inlineData("bool", [1, 1, 16, 16], bits));
    const [from, to] = [pastSize, totalSize].map((x) => op("Unsqueeze", [x, sizes(0)]));
    const rows = op("Slice", ["table", from!, to!, sizes(2), sizes(1)]);
    return op("Slice", [rows, sizes(0), to!, sizes(3), sizes(1)]);
  };
  const masked = (scores: string): string => {
    if (written !== "scores" && written !== "table") return op("Add", [scores, mask]);
    const isLater = () => op("Greater", [keysAt, tokens]);
    const later = written === "table"
      ? op("Where", [tableOfEarlier(), scores, number(hidden)])
      : op("Where", [isLater(), number(hidden), scores]);
    return op("Add", [later, op("Where", [padding, number(0), number(hidden)])]);
  };

  // Angles of this step's positions.
  const half = rotated / 2;
  let cos = "", sin = "";
  if (rotated > 0) {
    const positions = op("Cast", [op("Unsqueeze", ["position_ids", sizes(1)])], { to: int(float) });
    const angles = op("Transpose", [op("MatMul", [weight("inv_freq", 1, half, 1), positions])], {
      perm: ints([0, 2, 1]),
    });
    const repeated = () => {
      const both = op("Tile", [op("Unsqueeze", [angles, sizes(3)]), sizes(1, 1, 1, 2)]);
      return op("Reshape", [both, sizes(0, 0, rotated)]);
    };
    const twice = form.pairs ? repeated() : op("Concat", [angles, angles], { axis: int(-1) });
    const heads = sizes(form.pairs === "tokens first" ? 2 : 1);
    cos = op("Unsqueeze", [op("Mul", [op("Cos", [twice]), number(1)]), heads]);
    sin = op("Unsqueeze", [op("Mul", [op("Sin", [twice]), number(1)]), heads]);
  }
  const rotate = (x: string, count: number) => {
    if (rotated === 0) return x;
    const turned = rotated === headDim ? x : slice(x, 3, 0, rotated);
    const every = (from: number) => op("Slice", [turned, sizes(from), sizes(2 ** 40), sizes(3), sizes(2)]);
    const open = (part: string) => op("Unsqueeze", [part, sizes(-1)]);
    const pairs = () => op("Concat", [open(op("Neg", [every(1)])), open(every(0))], { axis: int(-1) });
    const [first, second] = form.pairs === "heads first" ? [count, -1] : [-1, count];
    const swapped = form.pairs
      ? op("Reshape", [pairs(), sizes(0, first, second, rotated)])
      : op("Concat", [op("Neg", [slice(turned, 3, half, 2 ** 40)]), slice(turned, 3, 0, half)], { axis: int(-1) });
    const sum = op("Add", [op("Mul", [turned, cos]), op("Mul", [swapped, sin])]);
    return rotated === headDim ? sum : op("Concat", [sum, slice(x, 3, rotated, 2 ** 40)], { axis: int(-1) });
  };
  const project = (name: string, count: number) => {
    const flat = op("MatMul", ["x", weight(name, HIDDEN, count * headDim)]);
    return op("Reshape", [flat, sizes(0, 0, count, headDim)]);
  };
  const headsFirst = (x: string) => op("Transpose", [x], { perm: ints([0, 2, 1, 3]) });
  const turnedHeads = (name: string, count: number) =>
    form.pairs === "tokens first"
      ? headsFirst(rotate(project(name, count), count))
      : rotate(headsFirst(project(name, count)), count);
  const q = turnedHeads("q", heads), k = turnedHeads("k", kvHeads), v = headsFirst(project("v", kvHeads));
  const longer = (name: string, step: string) => {
    const joined = op("Concat", [`past.${name}`, step], { axis: int(-2) }, form.named ? undefined : `present.${name}`);
    if (form.named) op("Identity", [joined], {}, `present.${name}`);
    return joined;
  };
  const keys = longer("key", k), values = longer("value", v);
  const repeat = (x: string) => {
    if (heads === kvHeads) return x;
    const wide = op("Expand", [op("Unsqueeze", [x, sizes(2)]), sizes(1, 1, heads / kvHeads, 1, 1)]);
    return op("Reshape", [wide, sizes(0, heads, -1, headDim)]);
  };
  const root = number(headDim ** -0.25);
  const turn = (x: string) => {
    if (!form.folded) return op("Transpose", [x], { perm: ints([0, 1, 3, 2]) });
    const folded = op("Reshape", [
      x,
      op("Concat", [sizes(-1), op("Unsqueeze", [totalSize, sizes(0)]), sizes(headDim)], {
        axis: int(0),
      }),
    ]);
    const batchSize = op("Unsqueeze", [dimOf("x", 0), sizes(0)]);
    const target = op("Concat", [batchSize, sizes(heads, headDim), op("Unsqueeze", [totalSize, sizes(0)])], {
      axis: int(0),
    });
    return op("Reshape", [op("Transpose", [folded], { perm: ints([0, 2, 1]) }), target]);
  };
  const joinHeads = (x: string) => {
    const read = form.merged === "later" ? op("Mul", [x, number(2)]) : x;
    const turned = op("Transpose", [read], { perm: ints([0, 2, 1, 3]) });
    return op("Reshape", [turned, form.merged === "rows" ? sizes(-1, heads * headDim) : sizes(0, 0, -1)]);
  };
  const output = (x: string) => {
    if (form.merged !== "rows") return op("MatMul", [x, weight("o", heads * headDim, HIDDEN)], {}, "y");
    return op("Reshape", [op("MatMul", [x, weight("o", heads * headDim, HIDDEN)]), op("Shape", ["x"])], {}, "y");
  };
  if (form.asOp) {
    output(joinHeads(op("Attention", [q, repeat(keys), repeat(values), allowed], { scale: real(headDim ** -0.5) })));
    const results = ["y", "present.key", "present.value"];
    return builder.finish({ inputs: results, names: results });
  }
  let scores = op("MatMul", [op("Mul", [q, root]), op("Mul", [turn(repeat(keys)), root])]);
  if (form.softcap !== undefined) {
    const cap = number(form.softcap);
    scores = op("Mul", [op("Tanh", [op("Div", [scores, cap])]), cap]);
  }
  const last = (x: string) => form.scaledLast ? op("Div", [x, number(2)]) : x;
  let weights = op("Softmax", [last(masked(scores))], { axis: int(-1) });
  if (form.guard !== false) weights = op("Where", [op("IsNaN", [weights]), number(0), weights]);
  output(joinHeads(op("MatMul", [weights, repeat(values)])));
  if (form.keysRead) op("ReduceSum", [keys], { keepdims: int(0) }, "sum");
  const results = ["y", "present.key", "present.value", ...(form.keysRead ? ["sum"] : [])];
  return builder.finish({ inputs: results, names: results });
}
