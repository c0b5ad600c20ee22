/** The table of docs/ops.md: what each op definition lets the planner do, found by asking it. */
import { isCall } from "../src/graph/graph.ts";
import { printPlacement } from "../src/graph/placement.ts";
import type { OpDef } from "../src/ops/def.ts";
import { loweringOf } from "../src/ops/kernels/table.ts";
import { opDef, OPS } from "../src/ops/table.ts";
import { candidateLayouts } from "../src/plan/candidates.ts";
import { plannedCalls } from "../src/plan/places.ts";
import type { Strategy } from "../src/plan/plan.ts";
import { strategiesOf } from "../src/plan/strategies.ts";
import { exampleGraph } from "../tests/support/op_examples.ts";

/** Rows sorted by domain and name, as Markdown. */
export function opsTable(): string {
  const rows = [...OPS.values()]
    .sort((a, b) => compare(a.domain, b.domain) || compare(a.op, b.op))
    .map((def) => [def.op, def.domain || "ai.onnx", `${def.since}`, ways(def), carries(def), gpu(def)]);
  const head = ["op", "domain", "from opset", "on two ranks", "carries a state", "GPU"];
  return [head, head.map(() => "---"), ...rows].map((r) => `| ${r.join(" | ")} |`).join("\n") + "\n";
}

/** The ways of the example that has the most, as `inputs -> outputs`. */
function ways(def: OpDef): string {
  let most: readonly Strategy[] = [];
  for (const example of def.examples) {
    const { graph } = exampleGraph(def, example);
    const calls = plannedCalls(graph, opDef);
    const call = calls.find(({ node }) => isCall(node));
    if (!call) continue;
    const strategies = strategiesOf(call, candidateLayouts(graph, calls, 2)).slice(1);
    if (strategies.length > most.length) most = strategies;
  }
  const print = (list: Strategy["inputs"]) => list.map(printPlacement).join(", ");
  const texts = new Set(most.map((s) => `\`${print(s.inputs)} -> ${print(s.outputs)}\``));
  return texts.size > 0 ? [...texts].join("<br>") : "replicated";
}

function carries(def: OpDef): string {
  return def.carries ? "yes" : "";
}

function gpu(def: OpDef): string {
  return loweringOf(def) ? "yes" : "";
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
