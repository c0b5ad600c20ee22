// deno-lint-ignore-file no-console -- examples speak
/**
 * Takes a model through the passes one by one, and prints what each of them did. It needs no ranks and reads no weights.
 *
 *     deno run -A examples/passes.ts [MODEL.onnx [RANKS]]
 */
import { fileURLToPath } from "node:url";
import {
  cleanPipeline,
  importOnnx,
  InitializeOrLoadWeightsPass,
  ParallelAxisSolverPass,
  ParallelExecutionCtx,
  ParallelLayerAnnotatePass,
  ParallelLayerReplacePass,
  PassPipeline,
  printGraph,
  printPlacement,
  printProgram,
  readOnnx,
  segment,
} from "../mod.ts";

const SAMPLE = fileURLToPath(new URL("../tests/data/models/mlp/model.onnx", import.meta.url));
const [path = SAMPLE, ranks = "2"] = Deno.args;

using file = readOnnx(path);
const ctx = new ParallelExecutionCtx({ ranks: Number(ranks), rank: 0 });

const imported = importOnnx(file);
console.log(`${imported.nodes.length} nodes imported`);

// Types everywhere, shape arithmetic gone, MatMul and Add of a constant lifted to Linear.
const clean = cleanPipeline().run(imported, ctx);
console.log(`${clean.nodes.length} nodes left after ${cleanPipeline().names.join(", ")}`);

// A pass is an object with `apply`; by itself it is a function from graph to graph.
const solved = new ParallelAxisSolverPass().apply(clean, ctx);
for (const { value, from, to } of ctx.requirePlan().reshards) {
  console.log(`the plan moves ${value} from ${printPlacement(from)} to ${printPlacement(to)}`);
}

const annotated = new ParallelLayerAnnotatePass().apply(solved, ctx);
for (const node of annotated.nodes) {
  if (node.kind !== "call_module") continue;
  const { parallel } = node.attributes;
  console.log(`${node.name} is ${parallel?.kind === "string" ? parallel.value : "not a parallel layer"}`);
}

// In a pipeline every result is verified; passes in the wrong order do not compile.
const rest = new PassPipeline<typeof annotated>()
  .append(new ParallelLayerReplacePass())
  .append(new InitializeOrLoadWeightsPass());
const local = rest.run(annotated, ctx);
console.log(`\n${printGraph(local, { nodeNames: false })}`);
console.log(printProgram(segment(local, ctx.rank, ctx.ranks)));
