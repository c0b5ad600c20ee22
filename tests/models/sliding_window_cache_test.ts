/** A cache that keeps a window only, as genai's builder writes it, begins empty and gives what one that grows gives. */
import assert from "node:assert/strict";
import { compareTensors } from "../../cli/compare.ts";
import { fromNumbers, type HostTensor } from "../../src/core/host_tensor.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { emulatedModel } from "../support/emulated.ts";
import { graph, int, model, node, saveModel, tensor } from "../support/onnx_models.ts";

const HEADS = 6, KV = 2, SIZE = 8, WINDOW = 4, HIDDEN = 24;

let state = 7;
const random = () => (state = (state * 48271) % 2147483647) / 2147483647 - 0.5;
const numbers = (count: number) => Array.from({ length: count }, random);

function weight(name: string, ...dims: number[]) {
  const data = Float32Array.from(numbers(dims.reduce((a, b) => a * b, 1)));
  return tensor(name, { dims: dims.map(BigInt), rawData: new Uint8Array(data.buffer) });
}

const WEIGHTS = [
  weight("q", HIDDEN, HEADS * SIZE),
  weight("k", HIDDEN, KV * SIZE),
  weight("v", HIDDEN, KV * SIZE),
  weight("o", HEADS * SIZE, HIDDEN),
];

/** One layer of attention within a window, over a cache that keeps the window or grows. */
function layer(isRing: boolean): string {
  const past = isRing ? "kept" : "past";
  const g = graph([
    node("MatMul", ["x", "q"], ["query"]),
    node("MatMul", ["x", "k"], ["key"]),
    node("MatMul", ["x", "v"], ["value"]),
    node("GroupQueryAttention", ["query", "key", "value", "past.key", "past.value", "last", "total"], [
      "mixed",
      "present.key",
      "present.value",
    ], {
      domain: "com.microsoft",
      attribute: [
        int("num_heads", BigInt(HEADS)),
        int("kv_num_heads", BigInt(KV)),
        int("local_window_size", BigInt(WINDOW)),
        ...(isRing ? [int("sliding_window_cache", 1n)] : []),
      ],
    }),
    node("MatMul", ["mixed", "o"], ["y"]),
  ], {
    inputs: ["x", "past.key", "past.value", "last", "total"],
    outputs: ["y", "present.key", "present.value"],
    initializers: WEIGHTS,
  });
  const types: [number, (number | string)[]][] = [
    [1, [1, "sequence", HIDDEN]],
    [1, [1, KV, past, SIZE]],
    [1, [1, KV, past, SIZE]],
    [6, [1]],
    [6, []],
  ];
  types.forEach(([elemType, dims], i) => {
    const dim = dims.map((d) => ({
      $typeName: "onnx.TensorShapeProto.Dimension" as const,
      denotation: "",
      value: typeof d === "number"
        ? { case: "dimValue" as const, value: BigInt(d) }
        : { case: "dimParam" as const, value: d },
    }));
    g.input[i]!.type!.value = {
      case: "tensorType",
      value: { $typeName: "onnx.TypeProto.Tensor", elemType, shape: { $typeName: "onnx.TensorShapeProto", dim } },
    };
  });
  const opsetImport = [{ domain: "", version: 18n }, { domain: "com.microsoft", version: 1n }];
  return saveModel(model(g, { opsetImport }));
}

/** What the layer gives at each of some steps, and its cache after them. */
async function steps(path: string, ranks: number, inputs: readonly HostTensor[]) {
  await using whole = await emulatedModel(await openNativeEngine(), path, ranks);
  let cache = { key: fromNumbers("f32", [1, KV, 0, SIZE], []), value: fromNumbers("f32", [1, KV, 0, SIZE], []) };
  const out: Record<string, HostTensor> = {};
  let count = 0;
  for (const x of inputs) {
    count += x.shape[1]!;
    const last = fromNumbers("i32", [1], [count - 1]), total = fromNumbers("i32", [], [count]);
    const results = await whole.run({ x, "past.key": cache.key, "past.value": cache.value, last, total });
    out[`y after ${count}`] = results.y!;
    cache = { key: results["present.key"]!, value: results["present.value"]! };
  }
  return { out, kept: cache.key.shape[2] };
}

Deno.test("a cache that keeps a window only starts empty, is as long as the window, and hides nothing that is seen", async () => {
  const inputs = [3, 1, 5, 1, 1].map((n) => fromNumbers("f32", [1, n, HIDDEN], numbers(n * HIDDEN)));
  const grown = await steps(layer(false), 1, inputs);
  assert.equal(grown.kept, 11);
  for (const ranks of [1, 2, 3]) {
    const { out, kept } = await steps(layer(true), ranks, inputs);
    assert.equal(kept, WINDOW);
    for (const o of compareTensors(out, new Map(Object.entries(grown.out)), { atol: 1e-5, rtol: 1e-4 })) {
      assert.ok(o.pass, `on ${ranks} ranks ${o.name}: ${o.problem ?? `off by ${o.maxAbs}`}`);
    }
  }
});
