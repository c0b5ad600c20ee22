/** One layer of attention without a growing cache, as exporters write it out; for tests of rewrites. */
import { symbol } from "../../src/core/dim.ts";
import { type DType } from "../../src/core/dtype.ts";
import { fromNumbers } from "../../src/core/host_tensor.ts";
import { float as real, int, ints } from "../../src/graph/attributes.ts";
import { GraphBuilder, inlineData } from "../../src/graph/builder.ts";
import type { Attributes, Graph } from "../../src/graph/graph.ts";

/** What the layer is like. */
export interface PlainAttentionForm {
  readonly heads: number;
  readonly size: number;
  /** Elements of a value's head; default `size`. */
  readonly valueSize?: number;
  /** Where keys and values come from: the input itself, another sequence, or a cache of these by heads. Default "itself". */
  readonly over?: "itself" | "others" | "cache";
  /**
   * How keys are turned: tokens first to `[batch, heads, dim, tokens]` at once (default), by heads first, or with batch and heads folded
   * into one dim.
   */
  readonly turned?: "at once" | "by heads" | "folded";
  /** Whether sequences are the first dim, and batch and heads are merged before attention, as in nn.MultiheadAttention. */
  readonly sequenceFirst?: boolean;
  /** What is added to scores: a row for each sequence, that of every token, one by head, both, or scores replaced. Default none. */
  readonly mask?: "row" | "tokens" | "heads" | "sum" | "replaced" | "replaced all";
  /** What hides a key. Default the lowest number. */
  readonly hidden?: number;
  /** Whether rows of NaN become 0. */
  readonly guard?: boolean;
  /** How scores are scaled: both factors by the fourth root (default), afterwards, or not at all. */
  readonly scaled?: "factors" | "after" | "not";
  readonly softcap?: number;
  /** Whether the attention is ONNX's op. */
  readonly asOp?: boolean;
  /** Whether the weights are a result as well. */
  readonly weightsRead?: boolean;
  /** Whether heads stay apart behind the attention. */
  readonly apart?: boolean;
  readonly dtype?: "f32" | "f16";
}

/** Width of the input. */
export const WIDTH = 24;

/**
 * `x: [batch,seq,24]`, `seen: i64[batch,keys]` (1 where a key is seen), and, by form, `others: [batch,keys,24]` or `keys` and `values`
 * `[batch,heads,keys,dim]`, to `y: [batch,seq,24]`. With `sequenceFirst`, x and y are `[seq,batch,24]`.
 */
export function plainAttentionGraph(form: PlainAttentionForm): Graph<"global"> {
  const { heads, size, over = "itself", turned = "at once", scaled = "factors" } = form;
  const valueSize = form.valueSize ?? size, dtype = form.dtype ?? "f32", hidden = form.hidden ?? LOWEST;
  const builder = new GraphBuilder("global", "attention", new Map([["", form.asOp ? 23 : 18]]));
  const [batch, seq] = ["batch", "seq"].map(symbol) as [ReturnType<typeof symbol>, ReturnType<typeof symbol>];
  const keysDim = over === "itself" ? seq : symbol("keys");
  let state = 7;
  const random = () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32 - 0.5;
  const constant = (name: string, type: DType, dims: readonly number[], numbers: readonly number[]) => {
    builder.getAttr(name, inlineData(type, dims, fromNumbers(type, dims, numbers).data));
    return name;
  };
  const weight = (name: string, ...dims: number[]) =>
    constant(name, dtype, dims, Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => 2 * random()));
  const number = (value: number) => constant(builder.freshValue("number"), dtype, [], [value]);
  const sizes = (...list: number[]) => constant(builder.freshValue("sizes"), "i64", [list.length], list);
  const index = (value: number) => constant(builder.freshValue("int"), "i64", [], [value]);
  const op = (name: string, inputs: readonly string[], attributes: Attributes = {}, output?: string) => {
    const out = output ?? builder.freshValue(name);
    builder.call({ kind: "call_function", domain: "", op: name, inputs, outputs: [out], attributes }, [
      { name: out, type: { dtype: undefined, shape: undefined } },
    ]);
    return out;
  };
  const transpose = (x: string, ...perm: number[]) => op("Transpose", [x], { perm: ints(perm) });
  const one = (x: string, dim: number) => op("Unsqueeze", [op("Gather", [op("Shape", [x]), index(dim)]), sizes(0)]);
  const join = (...parts: string[]) => op("Concat", parts, { axis: int(0) });

  builder.placeholder({
    name: "x",
    type: { dtype, shape: form.sequenceFirst ? [seq, batch, WIDTH] : [batch, seq, WIDTH] },
  });
  builder.placeholder({ name: "seen", type: { dtype: "i64", shape: [batch, keysDim] } });
  if (over === "others") builder.placeholder({ name: "others", type: { dtype, shape: [batch, keysDim, WIDTH] } });
  if (over === "cache") {
    builder.placeholder({ name: "keys", type: { dtype, shape: [batch, heads, keysDim, size] } });
    builder.placeholder({ name: "values", type: { dtype, shape: [batch, heads, keysDim, valueSize] } });
  }
  const batchSize = one("seen", 0), tokens = one("x", form.sequenceFirst ? 0 : 1), keysSize = one("seen", 1);

  // Queries, keys and values, as `[batch, tokens, heads, dim]`; sequences first, they come by heads.
  const project = (from: string, name: string, width: number) => op("MatMul", [from, weight(name, WIDTH, width)]);
  const split = (from: string, name: string, each: number) =>
    op("Reshape", [project(from, name, heads * each), sizes(0, 0, heads, each)]);
  const folded = (from: string, name: string, each: number) => {
    const merged = op("Mul", [batchSize, sizes(heads)]);
    const apart = op("Reshape", [project(from, name, heads * each), join(tokens, merged, sizes(each))]);
    return op("Reshape", [transpose(apart, 1, 0, 2), join(batchSize, sizes(heads, -1, each))]);
  };
  const source = over === "others" ? "others" : "x";
  const byHeads = (name: string, from: string, each: number) =>
    form.sequenceFirst ? folded(from, name, each) : transpose(split(from, name, each), 0, 2, 1, 3);
  const q = byHeads("q", "x", size);
  const v = over === "cache" ? "values" : byHeads("v", source, valueSize);
  const keys = () => (over === "cache" ? "keys" : byHeads("k", source, size));
  const turn = () => {
    if (turned === "at once") return transpose(split(source, "k", size), 0, 2, 3, 1);
    if (turned === "by heads") return transpose(keys(), 0, 1, 3, 2);
    const flat = op("Reshape", [keys(), join(sizes(-1), keysSize, sizes(size))]);
    return op("Reshape", [transpose(flat, 0, 2, 1), join(batchSize, sizes(heads, size), keysSize)]);
  };

  // Masks.
  const rows = op("Unsqueeze", [op("Cast", ["seen"], { to: int(9) }), sizes(1, 2)]);
  const row = () => op("Where", [rows, number(0), number(hidden)]);
  const square = (type: string) => op("Expand", [type, join(batchSize, sizes(1), tokens, keysSize)]);
  const bias = () => {
    const table = op("MatMul", [project("x", "position", heads), weight("spread", heads, 1)]);
    const each = op("Unsqueeze", [form.sequenceFirst ? transpose(table, 1, 0, 2) : table, sizes(1)]);
    return op("Mul", [each, weight("heads", 1, heads, 1, 1)]); // [batch, heads, seq, 1]
  };
  const last = () => op("Expand", [bias(), join(batchSize, sizes(heads), tokens, keysSize)]);
  const masked = (scores: string): string => {
    switch (form.mask) {
      case "row":
        return op("Add", [scores, row()]);
      case "tokens":
        return op("Add", [square(row()), scores]);
      case "heads":
        return op("Add", [scores, last()]);
      case "sum":
        return op("Add", [op("Add", [scores, last()]), row()]);
      case "replaced":
        return op("Where", [rows, scores, number(hidden)]);
      case "replaced all": {
        const isHidden = op("Expand", [op("Not", [rows]), join(batchSize, sizes(heads), tokens, keysSize)]);
        return op("Where", [isHidden, number(hidden), scores]);
      }
      default:
        return scores;
    }
  };

  const results = ["y"];
  const finish = (attended: string) => {
    if (form.apart) {
      op("ReduceSum", [op("MatMul", [attended, weight("o", valueSize, WIDTH)]), sizes(1)], { keepdims: int(0) }, "y");
    } else if (form.sequenceFirst) {
      const flat = op("Reshape", [transpose(attended, 2, 0, 1, 3), sizes(-1, heads * valueSize)]);
      op(
        "Reshape",
        [op("MatMul", [flat, weight("o", heads * valueSize, WIDTH)]), join(tokens, batchSize, sizes(WIDTH))],
        {},
        "y",
      );
    } else {
      const flat = op("Reshape", [transpose(attended, 0, 2, 1, 3), sizes(0, 0, heads * valueSize)]);
      op("MatMul", [flat, weight("o", heads * valueSize, WIDTH)], {}, "y");
    }
    return builder.finish({ inputs: results, names: results });
  };
  if (form.asOp) {
    const mask = form.mask === "row" ? [square(rows)] : form.mask === "heads" ? [last()] : [];
    return finish(op("Attention", [q, keys(), v, ...mask], { scale: real(size ** -0.5) }));
  }
  const root = number(size ** -0.25), factor = (x: string) => (scaled === "factors" ? op("Mul", [x, root]) : x);
  let scores = op("MatMul", [factor(q), factor(turn())]);
  if (scaled === "after") scores = op("Div", [scores, number(size ** 0.5)]);
  if (form.softcap !== undefined) {
    const cap = number(form.softcap);
    scores = op("Mul", [op("Tanh", [op("Div", [scores, cap])]), cap]);
  }
  let weights = op("Softmax", [masked(scores)], { axis: int(-1) });
  if (form.guard) weights = op("Where", [op("IsNaN", [weights]), number(0), weights]);
  if (form.weightsRead) {
    op("Identity", [weights], {}, "weights");
    results.push("weights");
  }
  return finish(op("MatMul", [weights, v]));
}

/** The lowest number of float32. */
const LOWEST = -3.4028234663852886e38;
