/** Small transformers of any shape as graphs, in the forms in which exporters write them; for property tests. */
import { GraphBuilder, inlineData } from "../../src/graph/builder.ts";
import type { Attributes, Graph } from "../../src/graph/graph.ts";
import { float, int, ints } from "../../src/graph/attributes.ts";
import { symbol } from "../../src/core/dim.ts";

/** What a transformer is made of. */
export interface TransformerShape {
  /** Query heads a kv head. */
  readonly group: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly hidden: number;
  readonly ffn: number;
  readonly vocab: number;
  readonly layers: number;
  readonly bias: boolean;
  readonly fusedQkv: boolean;
  readonly gated: boolean;
  /** gate and up in one matrix. */
  readonly fusedGateUp: boolean;
  readonly norm: "layer" | "rms";
  readonly tied: boolean;
  /** Attention and MLP read the same norm's output and are added together. */
  readonly parallel: boolean;
  readonly seed: number;
}

/** A decoder without cache: `ids : i64[batch,seq]` to `logits : f32[batch,seq,vocab]`. All weights are random, biases and norms too. */
export function randomTransformer(shape: TransformerShape): Graph<"global"> {
  const { group, kvHeads, headDim, hidden, ffn, vocab, bias } = shape;
  const heads = group * kvHeads;
  const builder = new GraphBuilder("global", "transformer", new Map([["", 17]]));
  let state = shape.seed % 2 ** 32;
  const random = () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32 - 0.5;

  function weight(name: string, dims: readonly number[], around = 0): string {
    const count = dims.reduce((a, b) => a * b, 1);
    builder.getAttr(name, inlineData("f32", dims, Float32Array.from({ length: count }, () => around + random())));
    return name;
  }
  function sizes(...elements: readonly number[]): string {
    const name = builder.freshValue("sizes");
    builder.getAttr(name, inlineData("i64", [elements.length], BigInt64Array.from(elements, (n) => BigInt(n))));
    return name;
  }
  function ops(op: string, inputs: readonly string[], count: number, attributes: Attributes = {}): string[] {
    const outputs = Array.from({ length: count }, (_, i) => builder.freshValue(`${op}_${i}`)).map((n, i, all) =>
      all.indexOf(n) === i ? n : `${n}_${i}`
    );
    builder.call(
      { kind: "call_function", domain: "", op, inputs, outputs, attributes },
      outputs.map((name) => ({ name, type: { dtype: undefined, shape: undefined } })),
    );
    return outputs;
  }
  const op = (name: string, inputs: readonly string[], attributes: Attributes = {}) =>
    ops(name, inputs, 1, attributes)[0]!;

  function linear(x: string, name: string, from: number, to: number): string {
    const y = op("MatMul", [x, weight(`${name}.weight`, [from, to])]);
    return bias ? op("Add", [y, weight(`${name}.bias`, [to])]) : y;
  }
  function norm(x: string, name: string): string {
    const scale = weight(`${name}.weight`, [hidden], 1);
    if (shape.norm === "layer") {
      return op("LayerNormalization", [x, scale, weight(`${name}.bias`, [hidden])], {
        axis: int(-1),
        epsilon: float(1e-5),
      });
    }
    const two = weight(`${name}.two`, []), epsilon = weight(`${name}.epsilon`, [], 1);
    // The exponent and epsilon are random too: any numbers do, as long as every rank has the same.
    const square = op("Mul", [x, x]);
    const mean = op("Add", [op("ReduceMean", [square], { axes: ints([-1]), keepdims: int(1) }), epsilon]);
    return op("Mul", [op("Add", [op("Div", [x, op("Sqrt", [mean])]), two]), scale]);
  }
  /** [b, s, count·headDim] to [b, count, s, headDim]. */
  const split = (x: string, count: number) =>
    op("Transpose", [op("Reshape", [x, sizes(0, 0, count, headDim)])], { perm: ints([0, 2, 1, 3]) });

  function attention(x: string, name: string): string {
    const [q, kv] = [heads * headDim, kvHeads * headDim];
    const [a, b, c] = shape.fusedQkv
      ? ops("Split", [linear(x, `${name}.qkv`, hidden, q + 2 * kv), sizes(q, kv, kv)], 3, { axis: int(2) })
      : [linear(x, `${name}.q`, hidden, q), linear(x, `${name}.k`, hidden, kv), linear(x, `${name}.v`, hidden, kv)];
    const [keys, values] = [b!, c!].map((t) => {
      const own = split(t, kvHeads);
      if (group === 1) return own;
      // Each kv head once for every query head of its group, as repeat_kv is exported.
      const five = op("Unsqueeze", [own, sizes(2)]);
      const wide = op("Expand", [five, sizes(1, 1, group, 1, 1)]);
      const back = op("Transpose", [wide], { perm: ints([0, 3, 1, 2, 4]) });
      return op("Transpose", [op("Reshape", [back, sizes(0, 0, heads, headDim)])], { perm: ints([0, 2, 1, 3]) });
    });
    const scores = op("MatMul", [split(a!, heads), op("Transpose", [keys!], { perm: ints([0, 1, 3, 2]) })]);
    const mixed = op("MatMul", [op("Softmax", [scores], { axis: int(-1) }), values!]);
    const merged = op("Reshape", [op("Transpose", [mixed], { perm: ints([0, 2, 1, 3]) }), sizes(0, 0, q)]);
    return linear(merged, `${name}.o`, q, hidden);
  }

  function mlp(x: string, name: string): string {
    if (!shape.gated) return linear(op("Relu", [linear(x, `${name}.up`, hidden, ffn)]), `${name}.down`, ffn, hidden);
    const [gate, up] = shape.fusedGateUp
      ? ops("Split", [linear(x, `${name}.gate_up`, hidden, 2 * ffn), sizes(ffn, ffn)], 2, { axis: int(2) })
      : [linear(x, `${name}.gate`, hidden, ffn), linear(x, `${name}.up`, hidden, ffn)];
    const silu = op("Mul", [gate!, op("Sigmoid", [gate!])]);
    return linear(op("Mul", [silu, up!]), `${name}.down`, ffn, hidden);
  }

  builder.placeholder({ name: "ids", type: { dtype: "i64", shape: [symbol("batch"), symbol("seq")] } });
  const table = weight("embedding.weight", [vocab, hidden]);
  let x = op("Gather", [table, "ids"], { axis: int(0) });
  for (let i = 0; i < shape.layers; i++) {
    const name = `layers.${i}`;
    const h = norm(x, `${name}.norm1`);
    const attended = attention(h, `${name}.attention`);
    if (shape.parallel) x = op("Add", [x, op("Add", [attended, mlp(h, `${name}.mlp`)])]);
    else {
      x = op("Add", [x, attended]);
      x = op("Add", [x, mlp(norm(x, `${name}.norm2`), `${name}.mlp`)]);
    }
  }
  const last = norm(x, "norm");
  const logits = shape.tied
    ? op("MatMul", [last, op("Transpose", [table], { perm: ints([1, 0]) })])
    : op("MatMul", [last, weight("head.weight", [hidden, vocab])]);
  return builder.finish({ inputs: [logits], names: ["logits"] });
}
