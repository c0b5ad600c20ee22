/**
 * Plans of real architectures as text: kinds of layers, placements, collectives, and the sharded graph cut down to its layers and
 * collectives. After an intended change: `deno test -A tests/plans -- --update`, and read the difference.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { type Graph, isCall, type Node, producers } from "../../src/graph/graph.ts";
import { printNode } from "../../src/graph/text.ts";
import { planText } from "../../src/plan/explain.ts";
import { explainModel } from "../../src/explain_model.ts";
import { sharded } from "../support/emulated.ts";
import { REPOSITORY } from "../support/shared.ts";

/** What a plan must show besides being the golden one. */
interface Expectation {
  readonly model: string;
  readonly ranks: number;
  /** Transformer layers of the model. */
  readonly layers: number;
  /** Collectives that every one of them costs. */
  readonly perLayer: number;
}

const PLANS: readonly Expectation[] = [
  { model: "llama", ranks: 2, layers: 2, perLayer: 2 },
  { model: "llama", ranks: 3, layers: 2, perLayer: 2 },
  { model: "llama", ranks: 4, layers: 2, perLayer: 2 },
  { model: "gpt2", ranks: 2, layers: 2, perLayer: 2 },
  { model: "gpt2", ranks: 3, layers: 2, perLayer: 2 },
  { model: "phi3", ranks: 2, layers: 2, perLayer: 2 },
  { model: "gpt-neox", ranks: 2, layers: 2, perLayer: 1 },
  { model: "gpt-neox", ranks: 4, layers: 2, perLayer: 1 },
  { model: "bloom", ranks: 2, layers: 2, perLayer: 2 },
  { model: "bert", ranks: 2, layers: 2, perLayer: 2 },
  { model: "qwen3", ranks: 2, layers: 2, perLayer: 2 },
  { model: "qwen3", ranks: 3, layers: 2, perLayer: 2 },
];

function shardedModel(model: string, ranks: number): { graph: Graph<"sharded">; text: string } {
  const path = join(REPOSITORY, "tests/data/models", model, "model.onnx");
  using file = readOnnx(path);
  const graph = sharded(importOnnx(file), ranks);
  const { report } = explainModel(path, { ranks, config: { calibrated: false } });
  const lines = graph.nodes
    .filter((n) => n.kind === "collective" || n.kind === "call_module")
    .map((n) => printNode(graph, n).trimEnd());
  return { graph, text: `${planText(report)}\n${lines.join("\n")}\n` };
}

for (const { model, ranks } of PLANS) {
  Deno.test(`the plan of ${model} on ${ranks} ranks is the golden one`, () => {
    const { text } = shardedModel(model, ranks);
    const file = new URL(`${model}_${ranks}.txt`, import.meta.url);
    if (Deno.args.includes("--update")) Deno.writeTextFileSync(file, text);
    assert.equal(text, Deno.readTextFileSync(file));
  });
}

for (const { model, ranks, layers, perLayer } of PLANS) {
  Deno.test(`${model} on ${ranks} ranks meets ${perLayer === 1 ? "once" : "twice"} a layer, and never inside attention`, () => {
    const { graph } = shardedModel(model, ranks);
    const collectives = graph.nodes.filter((n) => n.kind === "collective");
    const writers = producers(graph);
    for (let i = 0; i < layers; i++) {
      const inLayer = collectives.filter((c) => layerOf(c.inputs[0]) === i);
      const shown = inLayer.map((c) => printNode(graph, c)).join("");
      assert.deepEqual(inLayer.map((c) => c.collective), Array(perLayer).fill("all_reduce"), shown);
      for (const c of inLayer) {
        assert.ok(sumsRows(graph, writers, c.inputs[0]), `${shown} is no sum of row-parallel layers`);
      }
    }
    // Outside of the layers: the embedding's sum, and the head's gathering.
    const outside = collectives.filter((c) => layerOf(c.inputs[0]) === undefined);
    assert.ok(outside.filter((c) => c.collective !== "slice" && c.collective !== "mask").length <= 2);
  });
}

/** The number of the transformer layer that a value belongs to by its name, as exporters write them. */
function layerOf(name: string): number | undefined {
  const found = /\/(?:layers?\.|h\.)(\d+)\//.exec(name);
  return found ? Number(found[1]) : undefined;
}

/** Whether `name` is a row-parallel layer's result, or a sum with such. */
function sumsRows(graph: Graph, writers: ReadonlyMap<string, Node>, name: string): boolean {
  const node = writers.get(name);
  if (!node || !isCall(node)) return false;
  if (node.op === "RowParallelLinear") return true;
  // Additions, and what only renames dims, lie between a layer and its sum.
  return ["Add", "Reshape"].includes(node.op) && node.inputs.some((n) => n !== "" && sumsRows(graph, writers, n));
}
