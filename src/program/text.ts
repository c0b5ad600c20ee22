/** Programs as text: what a rank does, step by step. */
import { isCall } from "../graph/graph.ts";
import { printType } from "../graph/types.ts";
import type { Program, Source, Step } from "./program.ts";

/** One line a step, with what crosses its borders. */
export function printProgram(program: Program): string {
  const { rank, ranks, steps } = program;
  return [`# program of rank ${rank} of ${ranks}`, ...steps.map((s) => printStep(program, s))].join("\n") + "\n";
}

function printStep(program: Program, step: Step): string {
  if (step.kind === "barrier") {
    return `barrier    ${step.collectives.map((c) => `${c.kind} %${c.value} : ${printType(c.type)}`).join(", ")}`;
  }
  const ops = step.graph.nodes.filter(isCall).map((n) => n.op);
  const reads = [...step.inputs].map(([name, source]) => printSource(name, source));
  const writes = step.outputs.map((name) => {
    const stored = program.stored.get(name)!;
    return `%${name} : ${printType(stored.type)}${stored.shared ? " shared" : ""}`;
  });
  return `segment ${step.index}  ${ops.length} ops (${summary(ops)})\n` +
    `  reads  ${reads.join(", ") || "nothing"}\n  writes ${writes.join(", ") || "nothing"}`;
}

function printSource(name: string, source: Source): string {
  switch (source.kind) {
    case "input":
      return `%${name}`;
    case "value":
      return `%${source.name}`;
    case "peer":
      return `%${source.name} of rank ${source.rank}`;
    case "sizes":
      return `sizes [${source.elements.join(",")}]`;
  }
}

function summary(ops: readonly string[]): string {
  const counts = [...Map.groupBy(ops, (op) => op)].map(([op, list]) => [op, list.length] as const);
  const top = counts.toSorted((a, b) => b[1] - a[1]).slice(0, 6).map(([op, n]) => `${n} ${op}`);
  return top.join(", ") + (counts.length > 6 ? ", …" : "");
}
