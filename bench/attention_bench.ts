/**
 * Attention of one layer by itself, on one thread: what decides whether a form of it is worth a rewrite.
 *
 *     deno run -A bench/attention_bench.ts [--rounds 15] [--markdown]
 *
 * First written out, as an exporter does, against com.microsoft's MultiHeadAttention; then query heads of a decoder that do not
 * divide: 6 on 2 kv heads, and 5 in the ways in which GroupQueryAttention can take them. A round runs every side once, in turn;
 * eight layers with tensors of their own stand behind each other, so that these come from memory as in a model.
 */
import { parseArgs } from "node:util";
import { float, int, ints } from "../src/graph/attributes.ts";
import { GraphBuilder, inlineData } from "../src/graph/builder.ts";
import type { Attributes } from "../src/graph/graph.ts";
import { exportOnnx } from "../src/formats/export_onnx.ts";
import type { EngineTensor } from "../src/runtime/cpu/engine.ts";
import { openNativeEngine } from "../src/runtime/cpu/ort_native.ts";
import { median } from "../src/core/statistics.ts";
import { describeMachine } from "../src/runtime/host/describe_machine.ts";
import { printTable } from "./models/table.ts";

const LAYERS = 8, HEAD = 64;

const { values: options } = parseArgs({
  options: { rounds: { type: "string", default: "15" }, markdown: { type: "boolean", default: false } },
});
const rounds = Number(options.rounds);
const engine = await openNativeEngine();

/** One side: a session, and what it runs on. */
interface Side {
  readonly run: () => Promise<unknown>;
}

/** Builds a session of {@linkcode LAYERS} times what `layer` writes. */
class Layers {
  readonly #builder = new GraphBuilder("global", "layers", new Map([["", 18], ["com.microsoft", 1]]));
  readonly #feeds: Record<string, EngineTensor> = {};
  readonly #fetches: Record<string, EngineTensor | null> = {};

  /** An input of random numbers. */
  random(...shape: number[]): string {
    const data = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => Math.random() - 0.5);
    return this.#input("f32", data, shape);
  }

  /** An input of one int32. */
  count(value: number, ...shape: number[]): string {
    return this.#input("i32", Int32Array.of(value), shape);
  }

  number(value: number): string {
    return this.#constant(inlineData("f32", [], Float32Array.of(value)));
  }

  sizes(...list: number[]): string {
    return this.#constant(inlineData("i64", [list.length], BigInt64Array.from(list, BigInt)));
  }

  op(op: string, inputs: readonly string[], attributes: Attributes = {}, domain = "", outputs = 1): string[] {
    const names = Array.from({ length: outputs }, (_, i) => this.#builder.freshValue(`${op}.${i}`));
    const types = names.map((name) => ({ name, type: { dtype: undefined, shape: undefined } }));
    this.#builder.call({ kind: "call_function", domain, op, inputs, outputs: names, attributes }, types);
    return names;
  }

  /** Makes a value a result, written into the memory of the input `into` where one is given. */
  result(name: string, into?: string): void {
    this.#fetches[name] = into === undefined ? null : this.#feeds[into]!;
  }

  async finish(): Promise<Side> {
    const names = Object.keys(this.#fetches);
    const session = await engine.createSession(exportOnnx(this.#builder.finish({ inputs: names, names })), {
      threads: 1,
    });
    return { run: async () => await session.run(this.#feeds, this.#fetches) };
  }

  #input(dtype: "f32" | "i32", data: Float32Array | Int32Array, shape: readonly number[]): string {
    const name = this.#builder.freshValue("input");
    this.#builder.placeholder({ name, type: { dtype, shape } });
    this.#feeds[name] = engine.tensor(dtype, data, shape);
    return name;
  }

  #constant(data: ReturnType<typeof inlineData>): string {
    const name = this.#builder.freshValue("constant");
    this.#builder.getAttr(name, data);
    return name;
  }
}

/** Attention of `tokens` queries and `keys` keys; with `mask`, one row a query is added. */
interface Plain {
  readonly tokens: number;
  readonly keys: number;
  readonly heads: number;
  readonly mask: boolean;
  /** Whether keys and values come by heads, as a cache holds them. */
  readonly cache?: boolean;
}

async function plainSide({ tokens, keys, heads, mask, cache }: Plain, fused: boolean): Promise<Side> {
  const layers = new Layers(), width = heads * HEAD;
  const source = () => cache ? layers.random(1, heads, keys, HEAD) : layers.random(1, keys, width);
  for (let i = 0; i < LAYERS; i++) {
    const q = layers.random(1, tokens, width), k = source(), v = source();
    const bias = mask ? [layers.random(1, 1, tokens, keys)] : [];
    if (fused) {
      const attributes = { num_heads: int(heads), scale: float(HEAD ** -0.5) };
      const inputs = [q, k, v, ...(mask ? ["", "", ...bias] : [])];
      layers.result(layers.op("MultiHeadAttention", inputs, attributes, "com.microsoft")[0]!);
      continue;
    }
    const one = (op: string, inputs: readonly string[], attributes: Attributes = {}) =>
      layers.op(op, inputs, attributes)[0]!;
    const turn = (x: string, ...perm: number[]) => one("Transpose", [x], { perm: ints(perm) });
    const split = (x: string) => one("Reshape", [x, layers.sizes(0, 0, heads, HEAD)]);
    const root = layers.number(HEAD ** -0.25), query = one("Mul", [turn(split(q), 0, 2, 1, 3), root]);
    const key = one("Mul", [cache ? turn(k, 0, 1, 3, 2) : turn(split(k), 0, 2, 3, 1), root]);
    const scores = one("MatMul", [query, key]), masked = mask ? one("Add", [scores, ...bias]) : scores;
    const mixed = one("MatMul", [one("Softmax", [masked], { axis: int(-1) }), cache ? v : turn(split(v), 0, 2, 1, 3)]);
    layers.result(one("Reshape", [turn(mixed, 0, 2, 1, 3), layers.sizes(0, 0, width)]));
  }
  return await layers.finish();
}

/** One token after `past` others, by calls of so many query heads on so many kv heads. */
async function groupsSide(past: number, calls: readonly (readonly [queries: number, kv: number])[]): Promise<Side> {
  const layers = new Layers(), lengths = layers.count(past, 1), total = layers.count(past + 1);
  for (let i = 0; i < LAYERS; i++) {
    for (const [queries, kv] of calls) {
      const [q, k, v] = [queries, kv, kv].map((n) => layers.random(1, 1, n * HEAD)) as [string, string, string];
      const caches = [0, 1].map(() => layers.random(1, kv, past + 8, HEAD)) as [string, string];
      const attributes = { num_heads: int(queries), kv_num_heads: int(kv), scale: float(HEAD ** -0.5) };
      const inputs = [q, k, v, ...caches, lengths, total];
      const [y, ...longer] = layers.op("GroupQueryAttention", inputs, attributes, "com.microsoft", 3);
      layers.result(y!);
      longer.forEach((name, at) => layers.result(name, caches[at]));
    }
  }
  return await layers.finish();
}

/** Medians of all sides in µs a layer, interleaved. */
async function measure(sides: readonly Side[]): Promise<number[]> {
  const times = sides.map((): number[] => []);
  for (let round = -2; round < rounds; round++) {
    for (const i of sides.keys()) {
      const at = (i + Math.max(0, round)) % sides.length, began = performance.now();
      await sides[at]!.run();
      if (round >= 0) times[at]!.push((performance.now() - began) * 1000 / LAYERS);
    }
  }
  return times.map(median);
}

const microseconds = (x: number) => x < 100 ? x.toFixed(1) : x.toFixed(0);
const rows: string[][] = [];
const encoder = (tokens: number, mask: boolean): Plain => ({ tokens, keys: tokens, heads: 12, mask });
const cross = (keys: number, cache: boolean): Plain => ({ tokens: 1, keys, heads: 12, mask: true, cache });
const cases: readonly (readonly [string, Plain])[] = [
  ...[16, 32, 128, 512].flatMap((n) => [
    [`${n} tokens, a mask`, encoder(n, true)] as const,
    [`${n} tokens`, encoder(n, false)] as const,
  ]),
  ["1 token on 512 keys, a mask", cross(512, false)],
  ["1 token on a cache of 512 keys, a mask", cross(512, true)],
];
for (const [name, plain] of cases) {
  const [written, fused] = await measure([await plainSide(plain, false), await plainSide(plain, true)]);
  rows.push([name, microseconds(written!), microseconds(fused!), (fused! / written!).toFixed(2)]);
}
print(describeMachine());
print(printTable({ head: ["µs a layer", "written out", "MultiHeadAttention", "ratio"], rows }, options.markdown));

const PASTS = [64, 512, 2048];
const GROUPS = {
  "6 query heads on 2 kv heads": [[6, 2]],
  "5 query heads, each with a kv head of its own": [[5, 5]],
  "5 query heads in two calls, of 3 and 2 on a kv head": [[3, 1], [2, 1]],
} as const;
const byPast: number[][] = [];
for (const past of PASTS) {
  byPast.push(await measure(await Promise.all(Object.values(GROUPS).map((calls) => groupsSide(past, calls)))));
}
const groupRows = Object.keys(GROUPS).map((name, i) => [name, ...byPast.map((times) => microseconds(times[i]!))]);
print("");
print(printTable({ head: ["µs a layer, past of", ...PASTS.map(String)], rows: groupRows }, options.markdown));

function print(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(line + "\n"));
}
