/** Tables of `shardwise plan`: the alternatives of a layer, and plans side by side. */
import Table from "cli-table3";
import type { AlternativeReport, LayerExplanation } from "../src/plan/alternatives.ts";
import type { PlanComparison } from "../src/plan/comparison.ts";
import type { CollectiveReport } from "../src/plan/explain.ts";
import { foldNames } from "../src/plan/outline.ts";
import { printBytes, printSeconds } from "../src/plan/units.ts";

/** More than this of one thing are counted. */
const MOST_SHOWN = 4;

/** Why a layer is what it is, and what the alternatives cost. */
export function explanationScreen({ name, likewise, alternatives }: LayerExplanation): string {
  const table = new Table({
    head: ["", "kind", "weights", "one step", "costs more", "collectives", "a token", "memory a rank", "what changes"],
    style: { head: [], border: [], compact: true },
  });
  for (const a of alternatives) {
    table.push([
      a.chosen ? "►" : "",
      a.kind,
      a.weights.join(" "),
      printSeconds(a.seconds),
      a.chosen ? "" : `+${printSeconds(a.extra)}`,
      a.collectives.length,
      printBytes(a.bytesPerToken),
      printBytes(a.memory.total),
      changes(a).join("\n"),
    ]);
  }
  const same = likewise.length > 0
    ? `likewise ${shorten(foldNames(likewise))}${likewise.length > 1 ? ` (${likewise.length} layers)` : ""}`
    : undefined;
  return [`${name}: ${reason(alternatives)}`, ...(same ? [same] : []), table.toString()].join("\n");
}

/** The choice in a sentence. */
export function reason(alternatives: readonly AlternativeReport[]): string {
  const [chosen, next] = alternatives;
  if (!chosen) return "it has no strategy";
  if (!next) return `${chosen.kind}; nothing else is possible`;
  const time = next.seconds - chosen.seconds, memory = next.memory.total - chosen.memory.total;
  const parts = [
    ...(time === 0 ? [] : [`${printSeconds(Math.abs(time))} a step ${time > 0 ? "slower" : "faster"}`]),
    ...(memory === 0 ? [] : [`${printBytes(Math.abs(memory))} a rank ${memory > 0 ? "more" : "less"}`]),
  ];
  const what = next.kind === chosen.kind ? `${next.kind} as ${next.weights.join(" ")}` : next.kind;
  const difference = parts.length > 0 ? parts.join(", ") : "as fast and as large";
  return next.extra === 0
    ? `${chosen.kind}; ${what} would be as good (${difference})`
    : `${chosen.kind}; the next best, ${what}, is ${difference}: ${printSeconds(next.extra)} worse in all`;
}

/** Plans side by side. */
export function comparisonScreen(plans: readonly PlanComparison[]): string {
  const table = new Table({
    head: [
      "plan",
      "a token",
      "of it collectives",
      "collectives",
      "bytes moved a token",
      "weights",
      "KV cache",
      "memory a rank",
    ],
    style: { head: [], border: [], compact: true },
  });
  for (const p of plans) {
    table.push([
      p.name,
      printSeconds(p.secondsPerToken),
      printSeconds(p.communicationPerToken),
      p.collectives,
      printBytes(p.bytesPerToken),
      printBytes(p.memory.weights),
      printBytes(p.memory.states),
      `${printBytes(p.memory.total)}${p.fits ? "" : " (too much)"}`,
    ]);
  }
  return [table.toString(), ...fasterPlans(plans)].join("\n");
}

/** Why a plan that takes less time is not the search's. */
function fasterPlans([solver, ...others]: readonly PlanComparison[]): string[] {
  return others.filter((p) => p.fits && p.secondsPerToken < solver!.secondsPerToken).map((p) => {
    const spared = printSeconds(solver!.secondsPerToken - p.secondsPerToken);
    const times = (p.memory.total / solver!.memory.total).toPrecision(2);
    return `${p.name} takes ${spared} less, and ${times} times the memory of a rank: the search prices both`;
  });
}

function changes({ chosen, added, removed, others }: AlternativeReport): string[] {
  if (chosen) return ["the plan"];
  const count = (list: readonly CollectiveReport[]) =>
    [...Map.groupBy(list, (c) => c.kind)].map(([kind, l]) => `${l.length} ${kind}`).join(", ");
  const kinds = Map.groupBy(others, ({ from, to }) => `${from} → ${to}`);
  return [
    ...(added.length > 0 ? [`+ ${count(added)}`] : []),
    ...(removed.length > 0 ? [`− ${count(removed)}`] : []),
    ...[...kinds].map(([kind, list]) => `${shorten(foldNames(list.map((o) => o.name)))}: ${kind}`),
  ];
}

function shorten(names: readonly string[]): string {
  const more = names.length - MOST_SHOWN;
  return names.slice(0, MOST_SHOWN).join(", ") + (more > 0 ? ` and ${more} more` : "");
}
