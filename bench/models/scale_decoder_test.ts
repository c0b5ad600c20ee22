import { deepEqual, equal, match, ok, throws } from "node:assert/strict";
import { GraphError } from "../../src/core/errors.ts";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { type Graph, outputOf, valueOf } from "../../src/graph/graph.ts";
import { printGraph } from "../../src/graph/text.ts";
import { printType } from "../../src/graph/types.ts";
import { verify } from "../../src/graph/verify.ts";
import { cleanPipeline } from "../../src/passes/pipelines.ts";
import { ParallelExecutionCtx } from "../../src/passes/context.ts";
import { type Architecture, ARCHITECTURES, type DecoderSizes, ENCODERS } from "./architectures.ts";
import { scaleDecoder } from "./scale_decoder.ts";

for (const architecture of Object.values<Architecture>({ ...ARCHITECTURES, ...ENCODERS })) {
  const { name, from, to } = architecture;
  const isDecoder = name in ARCHITECTURES;

  Deno.test(`scaleDecoder() at its own sizes gives ${name} node by node`, () => {
    using file = openSource(architecture);
    const graph = importOnnx(file);
    const same = scaleDecoder(graph, { from, to: from });
    equal(printGraph(same), printGraph(graph));
  });

  Deno.test(`scaleDecoder() writes twelve layers of ${name} that fit together`, () => {
    using file = openSource(architecture);
    const small = importOnnx(file);
    const large = scaleDecoder(small, { from, to });
    verify(large);
    equal(countLayers(large), to.layers);
    equal(large.carried.length, isDecoder ? 2 * to.layers : 0);
    // Every layer after the first is the last small layer again; nothing is shared or lost.
    const perLayer = calls(small, from.layers - 1);
    for (let layer = 1; layer < to.layers; layer++) equal(calls(large, layer), perLayer);
    const clean = cleanPipeline().run(large, new ParallelExecutionCtx({ ranks: 1, rank: 0 }));
    const output = outputOf(clean);
    const types = Object.fromEntries(
      output.names.map((n, i) => [n, printType(valueOf(clean, output.inputs[i]!).type)]),
    );
    equal(types.logits, `f32[batch_size,sequence_length,${to.vocabulary}]`);
    if (!isDecoder) return;
    equal(
      types[`present.${to.layers - 1}.key`],
      `f32[batch_size,${to.kvHeads},past_sequence_length+sequence_length,${to.hidden / to.heads}]`,
    );
  });

  Deno.test(`scaleDecoder() gives every layer of ${name} weights of its own`, () => {
    using file = openSource(architecture);
    const sizes: DecoderSizes = { ...from, layers: 4 };
    const graph = scaleDecoder(importOnnx(file), { from, to: sizes });
    const seen = new Set<string>();
    let weights = 0;
    for (const node of graph.nodes) {
      if (node.kind !== "get_attr" || node.data.dtype !== "f32" || node.data.shape.length < 2) continue;
      const bytes = node.data.bytes();
      deepEqual(bytes, node.data.bytes());
      if (bytes.length <= 8 * 4) continue;
      seen.add(bytes.toHex().slice(0, 64));
      weights++;
    }
    ok(weights >= 4 * sizes.layers);
    equal(seen.size, weights);
  });
}

Deno.test("scaleDecoder() gives rotary frequencies and score scales of the new head size", () => {
  const { from, to } = ARCHITECTURES.llama;
  using file = openSource(ARCHITECTURES.llama);
  const graph = scaleDecoder(importOnnx(file), { from, to });
  const floats = graph.nodes.flatMap((n) =>
    n.kind === "get_attr" && n.data.dtype === "f32" && (n.data.shape.length === 3 || n.data.shape.length === 0)
      ? [[...new Float32Array(n.data.bytes().slice().buffer)]]
      : []
  );
  const frequencies = floats.find((values) => values.length === 32)!;
  ok(Math.abs(frequencies[1]! - 10_000 ** (-2 / 64)) < 1e-5);
  equal(floats.filter(([value]) => value === Math.fround(64 ** -0.25)).length, 2 * to.layers);
  ok(!floats.some(([value]) => value === Math.fround(8 ** -0.25)));
});

Deno.test("scaleDecoder() refuses sizes that it cannot tell apart", () => {
  const { from, to } = ARCHITECTURES.llama;
  using file = openSource(ARCHITECTURES.llama);
  const graph = importOnnx(file);
  throws(() => scaleDecoder(graph, { from: { ...from, ffn: from.hidden }, to }), (error: unknown) => {
    ok(error instanceof GraphError);
    match(error.message, /Cannot scale 48 to both 768 and 2048/);
    return true;
  });
});

Deno.test("scaleDecoder() refuses another number of query heads a kv head", () => {
  const { from, to } = ARCHITECTURES.llama;
  using file = openSource(ARCHITECTURES.llama);
  const graph = importOnnx(file);
  throws(() => scaleDecoder(graph, { from, to: { ...to, kvHeads: 12 } }), GraphError);
});

function openSource({ source }: Architecture) {
  return readOnnx(new URL("model.onnx", source).pathname);
}

function countLayers(graph: Graph): number {
  const layers = new Set<string>();
  for (const node of graph.nodes) {
    const found = /(?:layers|layer|h)\.(\d+)\//.exec(node.name);
    if (found) layers.add(found[1]!);
  }
  return layers.size;
}

/** The ops of a layer, counted. */
function calls(graph: Graph, layer: number): number {
  const inLayer = new RegExp(`(?:layers|layer|h)\\.${layer}/`);
  return graph.nodes.filter((n) => n.kind === "call_function" && inLayer.test(n.name)).length;
}
