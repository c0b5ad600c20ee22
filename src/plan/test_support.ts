/** Graphs for the planner's tests and benches: a small vocabulary of ops, and decoders built from it. */
import { type Dim, parseDim } from "../core/dim.ts";
import { GraphBuilder } from "../graph/builder.ts";
import type { Attributes, Call, Graph, TensorData } from "../graph/graph.ts";
import { int } from "../graph/attributes.ts";
import type { Shape, TensorType } from "../graph/types.ts";
import type { OpDef, TypedContext } from "../ops/def.ts";
import { at, einsumFactors, type Factor, type FactorRule } from "../ops/factors.ts";
import { MATMUL } from "../ops/matmul.ts";
import { regroupingFactors } from "../ops/reshape.ts";

/** A definition that only plans. */
function op(name: string, factors: (c: TypedContext) => FactorRule): OpDef {
  return {
    op: name,
    domain: "",
    since: 1,
    inputs: [],
    infer: () => [],
    factors,
    examples: [],
  };
}

function einsum(name: string, notation: string, linear: number[][] = []): OpDef {
  return op(name, ({ inputs, outputs }) => ({ factors: einsumFactors(notation, inputs, outputs), linear }));
}

function number(c: TypedContext, name: string): number {
  const attribute = c.attributes[name];
  if (attribute?.kind !== "int") throw new Error(`no ${name} on ${c.node.name}`);
  return attribute.value;
}

/** Every dim but `axis`. */
function passing(c: TypedContext, axis: number): Factor[] {
  return einsumFactors(`${c.inputs.map(() => "*").join()}->${c.outputs.map(() => "*").join()}`, c.inputs, c.outputs)
    .filter((f) => f.outputs.every((o) => o?.dim !== axis) && f.inputs.every((o) => o?.dim !== axis));
}

/** Windows of one dim, an end of the op being fused and the other in pieces. */
function pieces(sizes: readonly number[], axis: number, fusedInput: boolean): Factor[] {
  let offset = 0;
  return sizes.map((size, i) => {
    const whole = at(axis, { offset });
    offset += size;
    const own = sizes.map((_, k) => (k === i ? at(axis) : null));
    return {
      name: `p${i}`,
      size,
      inputs: fusedInput ? [whole] : own,
      outputs: fusedInput ? own : [whole],
    };
  });
}

function sizesAt(tensors: readonly (TensorType | undefined)[], axis: number): Dim[] {
  return tensors.map((t) => t!.shape![axis]!);
}

const OPS = new Map<string, OpDef>(
  [
    MATMUL,
    einsum("Add", "*,*->*", [[0, 1]]),
    einsum("Mul", "*,*->*", [[0], [1]]),
    einsum("Neg", "*->*", [[0]]),
    einsum("Sigmoid", "*->*"),
    einsum("Softmax", "*[d]->*[d]"),
    einsum("RMSNorm", "*[d],[d]->*[d]"),
    einsum("ReduceMax", "*k->*"),
    op("Transpose", (c) => {
      const perm = c.attributes.perm;
      if (perm?.kind !== "ints") throw new Error("no perm");
      const letters = "abcdefgh".slice(0, perm.value.length);
      const notation = `${letters}->${perm.value.map((p) => letters[p]).join("")}`;
      return { factors: einsumFactors(notation, c.inputs, c.outputs), linear: [[0]] };
    }),
    op("Reshape", regroupingFactors),
    op("Expand", (c) => ({ factors: einsumFactors("*->*", c.inputs, c.outputs), linear: [[0]] })),
    op("Unsqueeze", (c) => {
      const axis = number(c, "axis");
      const factors = c.inputs[0]!.shape!.map((size, d): Factor => ({
        name: `u${d}`,
        size,
        inputs: [at(d)],
        outputs: [at(d < axis ? d : d + 1)],
      }));
      return { factors, linear: [[0]] };
    }),
    op("Slice", (c) => {
      const axis = number(c, "axis"), start = number(c, "start");
      const size = c.outputs[0]!.shape![axis]!;
      const cut: Factor = { name: "w", size, inputs: [at(axis, { offset: start })], outputs: [at(axis)] };
      return { factors: [...passing(c, axis), cut], linear: [[0]] };
    }),
    op("Split", (c) => {
      const axis = number(c, "axis");
      const sizes = sizesAt(c.outputs, axis) as number[];
      return { factors: [...passing(c, axis), ...pieces(sizes, axis, true)], linear: [[0]] };
    }),
    op("Concat", (c) => {
      const axis = number(c, "axis"), sizes = sizesAt(c.inputs, axis);
      const own = sizes.every((s) => typeof s === "number") ? pieces(sizes as number[], axis, false) : [];
      return { factors: [...passing(c, axis), ...own], linear: [c.inputs.map((_, i) => i)] };
    }),
    op("Embedding", ({ inputs, outputs }) => {
      const [table, ids] = [inputs[0]!.shape!, inputs[1]!.shape!];
      const rows: Factor = { name: "v", size: table[0]!, inputs: [at(0), null], outputs: [null], selected: true };
      const rest = einsumFactors("vh,*->*h", inputs, outputs).filter((f) => f.name !== "v");
      return { factors: ids.length > 0 ? [rows, ...rest] : rest };
    }),
  ].map((d) => [d.op, d]),
);

/** The small vocabulary. */
export function testOpDef(node: Call): OpDef | undefined {
  return OPS.get(node.op);
}

/** Constant data without content. */
export function emptyData(shape: readonly number[]): TensorData {
  return { dtype: "f32", shape, bytes: () => new Uint8Array(), slice: () => new Uint8Array() };
}

/** Builds graphs with little ado: sizes are numbers or expressions of symbols. */
export class TestGraph {
  readonly builder = new GraphBuilder("global", "test", new Map([["", 20]]));
  #scope: string | undefined;

  static shape(sizes: readonly (number | string)[]): Shape {
    return sizes.map((s) => (typeof s === "number" ? s : parseDim(s)));
  }

  scope(name: string | undefined): void {
    this.#scope = name;
  }

  input(name: string, sizes: readonly (number | string)[], dtype: "f32" | "i64" = "f32"): string {
    this.builder.placeholder({ name, type: { dtype, shape: TestGraph.shape(sizes) } });
    return name;
  }

  weight(name: string, shape: readonly number[]): string {
    this.builder.getAttr(name, emptyData(shape));
    return name;
  }

  /** A call with one output, called after the node. */
  op(
    op: string,
    inputs: readonly string[],
    sizes: readonly (number | string)[],
    attributes: Attributes = {},
    name = op,
  ) {
    return this.ops(op, inputs, [sizes], attributes, name)[0]!;
  }

  ops(
    op: string,
    inputs: readonly string[],
    outputs: readonly (readonly (number | string)[])[],
    attributes: Attributes = {},
    name = op,
  ): string[] {
    const node = this.builder.freshNode(name);
    const names = outputs.map((_, i) => this.builder.freshValue(outputs.length === 1 ? node : `${node}_${i}`));
    const scope = this.#scope === undefined ? {} : { scope: this.#scope };
    this.builder.call({
      kind: "call_function",
      domain: "",
      name: node,
      op,
      inputs,
      outputs: names,
      attributes,
      ...scope,
    }, names.map((n, i) => ({ name: n, type: { dtype: "f32", shape: TestGraph.shape(outputs[i]!) } })));
    return names;
  }

  finish(outputs: readonly string[], carried: readonly (readonly [string, number])[] = []): Graph<"global"> {
    return this.builder.finish(
      { inputs: outputs, names: outputs },
      carried.map(([input, output]) => ({ input, output })),
    );
  }
}

/** Sizes of a decoder. */
export interface DecoderSizes {
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly ffn: number;
  readonly vocab: number;
  /** Attention and feed-forward both read the norm's output, and their results are added: GPT-J. */
  readonly parallel?: boolean;
  /** One weight for q‖k‖v and one for gate‖up. */
  readonly fused?: boolean;
  readonly tied?: boolean;
}

/** A decoder with a KV cache, decomposed as exporters do it: about 45 calls a layer. */
export function decoder(sizes: DecoderSizes): Graph<"global"> {
  const { heads, kvHeads, headDim, ffn, vocab } = sizes;
  const hidden = heads * headDim;
  const g = new TestGraph();
  const ids = g.input("input_ids", ["b", "s"], "i64");
  const mask = g.input("mask", ["b", 1, "s", "past+s"]);
  const [cos, sin] = ["cos", "sin"].map((n) => g.input(n, ["b", 1, "s", headDim]));
  const pasts = Array.from(
    { length: sizes.layers },
    (_, i) => ["k", "v"].map((n) => g.input(`past_${n}_${i}`, ["b", kvHeads, "past", headDim])),
  );
  const table = g.weight("embed", [vocab, hidden]);
  const scale = g.weight("scale", []);
  let x = g.op("Embedding", [table, ids], ["b", "s", hidden], {}, "embed_tokens");
  const outputs: string[] = [];
  for (let i = 0; i < sizes.layers; i++) {
    const p = `l${i}`;
    g.scope(`model.layers.${i}`);
    const linear = (input: string, name: string, k: number, n: number) =>
      g.op("MatMul", [input, g.weight(`${p}.${name}.weight`, [k, n])], ["b", "s", n], {}, `${p}.${name}`);
    const norm = (input: string, name: string) =>
      g.op("RMSNorm", [input, g.weight(`${p}.${name}.weight`, [hidden])], ["b", "s", hidden], {}, `${p}.${name}`);
    const perm = (value: readonly number[]): Attributes => ({ perm: { kind: "ints", value } });
    const kv = kvHeads * headDim;
    const h = norm(x, "norm1");
    const [q, k, v] = sizes.fused
      ? g.ops("Split", [linear(h, "qkv", hidden, hidden + 2 * kv)], [["b", "s", hidden], ["b", "s", kv], [
        "b",
        "s",
        kv,
      ]], { axis: int(2) })
      : [linear(h, "q", hidden, hidden), linear(h, "k", hidden, kv), linear(h, "v", hidden, kv)];
    const split = (t: string, n: number) =>
      g.op("Transpose", [g.op("Reshape", [t], ["b", "s", n, headDim])], ["b", n, "s", headDim], perm([0, 2, 1, 3]));
    const rope = (t: string, n: number) => {
      const half = ["b", n, "s", headDim / 2];
      const a = g.op("Slice", [t], half, { axis: int(3), start: int(0) });
      const b = g.op("Slice", [t], half, { axis: int(3), start: int(headDim / 2) });
      const shape = ["b", n, "s", headDim];
      const rotated = g.op("Concat", [g.op("Neg", [b], half), a], shape, { axis: int(3) });
      return g.op("Add", [g.op("Mul", [t, cos!], shape), g.op("Mul", [rotated, sin!], shape)], shape);
    };
    const cached = (t: string, past: string) => {
      const now = g.op("Concat", [past, t], ["b", kvHeads, "past+s", headDim], { axis: int(2) });
      outputs.push(now);
      return now;
    };
    const repeat = (t: string) => {
      if (heads === kvHeads) return t;
      const u = g.op("Unsqueeze", [t], ["b", kvHeads, 1, "past+s", headDim], { axis: int(2) });
      const e = g.op("Expand", [u], ["b", kvHeads, heads / kvHeads, "past+s", headDim]);
      return g.op("Reshape", [e], ["b", heads, "past+s", headDim]);
    };
    const qh = rope(split(q!, heads), heads);
    const kh = repeat(cached(rope(split(k!, kvHeads), kvHeads), pasts[i]![0]!));
    const vh = repeat(cached(split(v!, kvHeads), pasts[i]![1]!));
    const kt = g.op("Transpose", [kh], ["b", heads, headDim, "past+s"], perm([0, 1, 3, 2]));
    const scoresShape = ["b", heads, "s", "past+s"];
    const scores = g.op("Mul", [g.op("MatMul", [qh, kt], scoresShape, {}, `${p}.qk`), scale], scoresShape);
    const weights = g.op("Softmax", [g.op("Add", [scores, mask], scoresShape)], scoresShape);
    const mixed = g.op("MatMul", [weights, vh], ["b", heads, "s", headDim], {}, `${p}.av`);
    const merged = g.op("Reshape", [g.op("Transpose", [mixed], ["b", "s", heads, headDim], perm([0, 2, 1, 3]))], [
      "b",
      "s",
      hidden,
    ]);
    const attention = linear(merged, "o", hidden, hidden);
    const after = sizes.parallel ? x : g.op("Add", [x, attention], ["b", "s", hidden]);
    const m = sizes.parallel ? h : norm(after, "norm2");
    const [gate, up] = sizes.fused
      ? g.ops("Split", [linear(m, "gate_up", hidden, 2 * ffn)], [["b", "s", ffn], ["b", "s", ffn]], { axis: int(2) })
      : [linear(m, "gate", hidden, ffn), linear(m, "up", hidden, ffn)];
    const silu = g.op("Mul", [gate!, g.op("Sigmoid", [gate!], ["b", "s", ffn])], ["b", "s", ffn]);
    const down = linear(g.op("Mul", [silu, up!], ["b", "s", ffn]), "down", ffn, hidden);
    const both = sizes.parallel ? g.op("Add", [attention, down], ["b", "s", hidden]) : down;
    x = g.op("Add", [after, both], ["b", "s", hidden]);
  }
  g.scope(undefined);
  const last = g.op("RMSNorm", [x, g.weight("norm.weight", [hidden])], ["b", "s", hidden], {}, "norm");
  const head = sizes.tied
    ? g.op("Transpose", [table], [hidden, vocab], { perm: { kind: "ints", value: [1, 0] } }, "head_t")
    : g.weight("head", [hidden, vocab]);
  outputs.unshift(g.op("MatMul", [last, head], ["b", "s", vocab], {}, "lm_head"));
  const carried = pasts.flat().map((name, i) => [name, i + 1] as const);
  return g.finish(outputs, carried);
}
