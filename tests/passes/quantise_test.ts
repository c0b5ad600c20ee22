/** Quantised weights in whole models: the same model on any number of ranks, and not far from what it was. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fromNumbers, type HostTensor, toNumbers } from "../../src/core/host_tensor.ts";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { readTensors } from "../../src/formats/tensor_file.ts";
import { int } from "../../src/graph/attributes.ts";
import { GraphBuilder, inlineData } from "../../src/graph/builder.ts";
import { type Graph, isCall, type TensorData } from "../../src/graph/graph.ts";
import { type Config, ParallelExecutionCtx } from "../../src/passes/context.ts";
import { cleanPipeline, shardPipeline } from "../../src/passes/pipelines.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { EmulatedModel } from "../../src/runtime/emulation.ts";
import { compareTensors } from "../../cli/compare.ts";
import { REPOSITORY } from "../support/shared.ts";

const MODELS = join(REPOSITORY, "tests/data/models");

function clean(graph: Graph<"global">, ranks: number, config: Config) {
  const ctx = new ParallelExecutionCtx({ ranks, rank: 0, config });
  return { graph: cleanPipeline().run(graph, ctx), ctx };
}

async function openModel(graph: Graph<"global">, ranks: number, config: Config): Promise<EmulatedModel> {
  const { graph: global, ctx } = clean(graph, ranks, config);
  return await EmulatedModel.open(await openNativeEngine(), shardPipeline().run(global, ctx), ranks);
}

function randomFloats(shape: readonly number[], seed: number): Float32Array {
  let state = seed;
  const next = () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32 - 0.5;
  return Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, next);
}

/** `y = gelu-less MLP`: embedding, a matrix [k, n] with bias, and the embedding's table again as a head. */
function tiedGraph(v: number, d: number, n: number): { graph: Graph<"global">; table: Float32Array; w: Float32Array } {
  const table = randomFloats([v, d], 1), w = randomFloats([d, n], 2), back = randomFloats([n, d], 3);
  const b = new GraphBuilder<"global">("global", "tied", new Map([["", 18]]));
  b.placeholder({ name: "ids", type: { dtype: "i64", shape: [2, 3] } });
  const open = { dtype: undefined, shape: undefined };
  const weight = (name: string, shape: number[], data: Float32Array) => b.getAttr(name, inlineData("f32", shape, data));
  weight("table", [v, d], table);
  weight("up", [d, n], w);
  weight("bias", [n], randomFloats([n], 4));
  weight("down", [n, d], back);
  const call = (name: string, op: string, inputs: string[], output: string, attributes = {}) =>
    b.call({ kind: "call_function", name, domain: "", op, inputs, outputs: [output], attributes }, [{
      name: output,
      type: open,
    }]);
  call("embed", "Gather", ["table", "ids"], "x", { axis: int(0) });
  call("up_product", "MatMul", ["x", "up"], "h0");
  call("up_bias", "Add", ["bias", "h0"], "h");
  call("relu", "Relu", ["h"], "r");
  call("down_product", "MatMul", ["r", "down"], "y");
  call("turn", "Transpose", ["table"], "turned");
  call("head", "MatMul", ["y", "turned"], "logits");
  return { graph: b.finish({ inputs: ["x", "h", "logits"], names: ["x", "h", "logits"] }), table, w };
}

const IDS = { ids: fromNumbers("i64", [2, 3], [0, 5, 36, 17, 2, 9]) };

for (const format of ["int4", "int8", "int4:16:asym", "int8:64:asym", "int4:128"]) {
  Deno.test(`a model in ${format} gives on 2 and 3 ranks what it gives on one, and stays tied`, async () => {
    const { graph } = tiedGraph(37, 128, 192);
    const config = { quantize: `${format}:acc0` };
    const { graph: quantised, ctx } = clean(graph, 1, config);
    const ops = quantised.nodes.filter(isCall).map(({ op }) => op);
    assert.deepEqual(ops, ["EmbeddingNBits", "MatMulNBits", "Relu", "MatMulNBits", "MatMulNBits"]);
    assert.ok(ctx.rewrites.filter(({ rule }) => rule === "quantise").every(({ reason }) => reason === undefined));
    const [embed, , , , head] = quantised.nodes.filter(isCall);
    assert.equal(embed!.inputs[0], head!.inputs[1]);
    assert.equal(embed!.inputs[2], head!.inputs[2]);
    await using one = await openModel(graph, 1, config);
    const expected = new Map(Object.entries(await one.run(IDS)));
    for (const ranks of [2, 3]) {
      await using several = await openModel(graph, ranks, config);
      for (const o of compareTensors(await several.run(IDS), expected, { atol: 1e-5, rtol: 1e-5 })) {
        assert.ok(o.pass, `${ranks} ranks: ${o.name} ${o.problem ?? `off by ${o.maxAbs}`}`);
      }
    }
  });
}

/** The largest that a product can be off, by column: what every weight can have moved by, times what it is multiplied with. */
function bound(w: TensorData, x: Float32Array, format: { bits: number; block: number }): (column: number) => number {
  const [k, n] = w.shape as [number, number];
  const values = new Float32Array(w.bytes().buffer as ArrayBuffer);
  return (column) => {
    let sum = 0;
    for (let b = 0; b < k; b += format.block) {
      const rows = Array.from({ length: Math.min(format.block, k - b) }, (_, i) => b + i);
      const largest = Math.max(...rows.map((row) => Math.abs(values[row * n + column]!)));
      const scale = largest / 2 ** (format.bits - 1);
      sum += rows.reduce((s, row) => s + Math.abs(x[row]!) * scale, 0);
    }
    return sum;
  };
}

for (const [bits, block] of [[4, 32], [8, 32], [4, 128]] as const) {
  Deno.test(`what int${bits} in blocks of ${block} costs a product is bounded by its blocks' scales`, async () => {
    const { graph, w } = tiedGraph(37, 160, 48);
    await using exact = await openModel(graph, 1, {});
    await using rounded = await openModel(graph, 2, { quantize: { up_product: `int${bits}:${block}:acc0` } });
    const [a, b] = [await exact.run(IDS), await rounded.run(IDS)];
    const x = toNumbers(a.x!), [ya, yb] = [toNumbers(a.h!), toNumbers(b.h!)];
    let worst = 0, seen = 0;
    for (let token = 0; token < 6; token++) {
      const input = Float32Array.from({ length: 160 }, (_, i) => x[token * 160 + i]!);
      const most = bound(inlineData("f32", [160, 48], w), input, { bits, block });
      for (let column = 0; column < 48; column++) {
        const off = Math.abs(ya[token * 48 + column]! - yb[token * 48 + column]!), limit = most(column);
        assert.ok(off <= limit + 1e-5, `column ${column} is off by ${off}, at most ${limit} was to be expected`);
        worst = Math.max(worst, off / limit);
        seen = Math.max(seen, off);
      }
    }
    // The bound is for the worst case; random errors mostly cancel out. None at all would mean that nothing was rounded.
    assert.ok(seen > 1e-5 && worst < 0.5, `off by ${seen}, ${worst} of the bound`);
  });
}

async function inputsOf(model: string): Promise<Record<string, HostTensor>> {
  return Object.fromEntries(await readTensors(join(MODELS, model, "decode.inputs.safetensors")));
}

/** Root of the mean squared difference, against that of the values. */
function relativeError(found: HostTensor, expected: HostTensor): number {
  const a = Float64Array.from(toNumbers(found)), b = Float64Array.from(toNumbers(expected));
  const square = (of: (x: number, i: number) => number) => a.reduce((s, x, i) => s + of(x, i) ** 2, 0);
  return Math.sqrt(square((x, i) => x - b[i]!) / square((_, i) => b[i]!));
}

for (const model of ["llama", "phi3", "gpt2"]) {
  Deno.test(`${model} in 8 and 4 bits: equal on 1, 2 and 3 ranks, and near the model in float32`, async () => {
    using file = readOnnx(join(MODELS, model, "model.onnx"));
    const inputs = await inputsOf(model);
    await using exact = await openModel(importOnnx(file), 1, {});
    const reference = (await exact.run(inputs)).logits!;
    const errors: number[] = [];
    for (const format of ["int8:16", "int4:16:asym", "int4:16"]) {
      const config = { quantize: `${format}:acc0` };
      await using one = await openModel(importOnnx(file), 1, config);
      const expected = new Map(Object.entries(await one.run(inputs)));
      errors.push(relativeError(expected.get("logits")!, reference));
      for (const ranks of [2, 3]) {
        await using several = await openModel(importOnnx(file), ranks, config);
        for (const o of compareTensors(await several.run(inputs), expected, { atol: 2e-5, rtol: 1e-4 })) {
          assert.ok(o.pass, `${format} on ${ranks} ranks: ${o.name} ${o.problem ?? `off by ${o.maxAbs}`}`);
        }
      }
    }
    const [int8 = 1, asymmetric = 1, int4 = 1] = errors;
    assert.ok(0 < int8 && int8 < 0.02 && int8 < asymmetric && asymmetric < 0.35 && int4 < 0.35, errors.join());
  });
}

Deno.test("activations rounded to 8 bits change little, and as little on 2 ranks", async () => {
  using file = readOnnx(join(MODELS, "llama", "model.onnx"));
  const inputs = await inputsOf("llama");
  await using exact = await openModel(importOnnx(file), 1, { quantize: "int8:16:acc0" });
  const reference = (await exact.run(inputs)).logits!;
  for (const ranks of [1, 2]) {
    await using rounded = await openModel(importOnnx(file), ranks, { quantize: "int8:16" });
    const error = relativeError((await rounded.run(inputs)).logits!, reference);
    assert.ok(0 < error && error < 0.03, `${error} on ${ranks} ranks`);
  }
});

Deno.test("patterns choose layers, the last match wins, and the report says what became of each", () => {
  using file = readOnnx(join(MODELS, "llama", "model.onnx"));
  const { graph, ctx } = clean(importOnnx(file), 2, {
    quantize: { "*": "int4:32", "layers.*.mlp": "int8:16", "lm_head": "none" },
  });
  const layers = new Map(graph.nodes.filter(isCall).map((n) => [n.name, n]));
  const form = (name: string) => {
    const { op, attributes } = layers.get(name)!;
    return [op, ...["bits", "block_size", "accuracy_level"].map((a) => attributes[a]?.value)].join(" ");
  };
  assert.equal(form("/model/layers.0/self_attn/q_proj/MatMul"), "MatMulNBits 4 32 4");
  assert.equal(form("/model/layers.1/mlp/down_proj/MatMul"), "MatMulNBits 8 16 4");
  assert.match(form("/lm_head/MatMul"), /^Linear/);
  // 48 columns are no whole number of blocks of 32: the table stays, and the report says so.
  assert.match(form("/model/embed_tokens/Gather"), /^Embedding/);
  const notes = ctx.rewrites.filter(({ rule }) => rule === "quantise");
  assert.deepEqual(notes.filter(({ reason }) => reason), [{
    rule: "quantise",
    node: "/model/embed_tokens/Gather",
    reason: "its rows of 48 are no whole number of blocks of 32",
  }]);
});

for (
  const [quantize, message] of [
    [{ "lm_heat": "int4" }, /No layer with a weight to quantise matches "lm_heat": did you mean "lm_head"\?/],
    [{ "model.norm": "int4" }, /No layer with a weight to quantise matches "model\.norm"/],
    [{ "embed_tokens": "int4" }, /embed_tokens\/Gather" to int4_32: its rows of 48 are no whole number of blocks/],
    ["int4:256", undefined],
    ["q4_0", /"q4_0" is no format/],
  ] as const
) {
  Deno.test(`quantize ${JSON.stringify(quantize)} ${message ? "is refused" : "leaves small layers alone"}`, () => {
    using file = readOnnx(join(MODELS, "llama", "model.onnx"));
    const run = () => clean(importOnnx(file), 1, { quantize });
    if (message) return void assert.throws(run, message);
    const { graph, ctx } = run();
    assert.ok(graph.nodes.every((n) => !isCall(n) || n.op !== "MatMulNBits"));
    assert.match(
      ctx.rewrites.find(({ rule }) => rule === "quantise")!.reason!,
      /48 rows are fewer than the 256 of a block/,
    );
  });
}
