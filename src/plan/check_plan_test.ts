import assert from "node:assert/strict";
import { PlanError } from "../core/errors.ts";
import { importOnnx } from "../formats/import_onnx.ts";
import { readOnnx } from "../formats/onnx_file.ts";
import type { Graph } from "../graph/graph.ts";
import { opDef } from "../ops/table.ts";
import { ParallelExecutionCtx } from "../passes/context.ts";
import { cleanPipeline, shardPipeline } from "../passes/pipelines.ts";
import { explainSolved } from "./explain.ts";
import { planFromFile } from "./check_plan.ts";
import { parsePlanFile, type PlanFile, planFile } from "./plan_file.ts";
import { solvePlan } from "./search.ts";

function clean(name: string): Graph<"global"> {
  using file = readOnnx(`tests/data/models/${name}/model.onnx`);
  return cleanPipeline().run(importOnnx(file), new ParallelExecutionCtx({ ranks: 1, rank: 0 }));
}

function fileOf(graph: Graph<"global">, ranks: number): PlanFile {
  const solved = solvePlan(graph, { ranks, opDef });
  return planFile(graph, solved.plan, explainSolved(graph, solved));
}

/** A file's text, changed. */
function changed(file: PlanFile, change: (value: Record<string, never>) => void): PlanFile {
  const value = JSON.parse(JSON.stringify(file));
  change(value);
  return parsePlanFile(JSON.stringify(value), "plan.json");
}

const mlp = clean("mlp");
const file = fileOf(mlp, 2);

for (const [name, ranks] of [["llama", 3], ["gpt2", 4], ["bert", 2]] as const) {
  Deno.test(`the plan of ${name} on ${ranks} ranks is the same after a way through its file`, () => {
    const graph = clean(name);
    const { plan } = solvePlan(graph, { ranks, opDef });
    const read = planFromFile(parsePlanFile(JSON.stringify(fileOf(graph, ranks)), "plan.json"), {
      graph,
      ranks,
      opDef,
    });
    assert.deepEqual(read, plan);
  });
}

Deno.test("planFromFile() refuses the plan of other ranks and of another model, and says what to do", () => {
  assert.throws(() => planFromFile(file, { graph: mlp, ranks: 3, opDef }), (e) => {
    assert.ok(e instanceof PlanError);
    assert.match(e.message, /on 3 ranks: it is for 2/);
    assert.match(e.hint ?? "", /--tp 3/);
    return true;
  });
  assert.throws(
    () => planFromFile(file, { graph: clean("bert"), ranks: 2, opDef }),
    /it is of another model, with a node "node_MatMul_1"/,
  );
});

Deno.test("planFromFile() refuses a strategy that the op does not allow, and says what it can be", () => {
  const wrong = changed(file, (value) => {
    const { strategies } = value as unknown as { strategies: Record<string, { outputs: string[] }> };
    strategies.node_MatMul_1!.outputs[0] = "R";
  });
  assert.throws(() => planFromFile(wrong, { graph: mlp, ranks: 2, opDef }), (e) => {
    assert.ok(e instanceof PlanError);
    assert.match(e.message, /"node_MatMul_1" cannot be R S\(1\) S\(0\) -> R on 2 ranks/);
    assert.match(e.hint ?? "", /R S\(1\) S\(0\) -> S\(2\)/);
    return true;
  });
});

Deno.test("planFromFile() refuses a plan in which a value is not where its reader looks for it", () => {
  const wrong = changed(file, (value) => void ((value as unknown as { reshards: unknown[] }).reshards = []));
  assert.throws(
    () => planFromFile(wrong, { graph: mlp, ranks: 2, opDef }),
    /reads "linear_1" as R, but it is there only as P\(sum\)/,
  );
});

Deno.test("parsePlanFile() says what is wrong with a file that is no plan", () => {
  const parse = (text: string) => () => parsePlanFile(text, "p.json");
  assert.throws(parse("{"), /Cannot read p.json as a plan: it is not valid JSON/);
  assert.throws(parse("[]"), /no JSON object/);
  assert.throws(parse("{}"), /"format" is missing/);
  assert.throws(() => changed(file, (v) => Object.assign(v, { version: 9 })), /version 9, and this program reads 1/);
  assert.throws(() => changed(file, (v) => Object.assign(v, { ranks: 0 })), /"ranks" is 0/);
  assert.throws(
    () => changed(file, (v) => Object.assign(v, { placements: { x: "S(0)" } })),
    /placements\["x"\] is "S\(0\)", which is no placement/,
  );
});

Deno.test("a configuration with a plan runs that plan and searches nothing", () => {
  // A legal plan that no search would choose.
  const replicated = changed(fileOf(mlp, 1), (value) => {
    const v = value as unknown as { ranks: number };
    v.ranks = 2;
  });
  const ctx = new ParallelExecutionCtx({ ranks: 2, rank: 0, config: { plan: replicated } });
  const sharded = shardPipeline().run(mlp, ctx);
  assert.equal(sharded.nodes.filter((n) => n.kind === "collective").length, 0);
});
