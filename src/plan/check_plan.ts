/**
 * Whether a stored plan is one of the model at hand: the same graph, as many ranks, every call in a way that its op allows,
 * and every value where its readers look for it.
 */
import { PlanError } from "../core/errors.ts";
import { nearest } from "../core/suggest.ts";
import { type Graph, isCall, valueOf } from "../graph/graph.ts";
import { isCover } from "../graph/layout.ts";
import { type Placement, placementKey, printPlacement, REPLICATE } from "../graph/placement.ts";
import { candidateLayouts } from "./candidates.ts";
import { type OpLookup, plannedCalls } from "./places.ts";
import type { Plan, Strategy } from "./plan.ts";
import { graphFingerprint, type PlanFile, storedPlan } from "./plan_file.ts";
import { redistributeSteps } from "./redistribute.ts";
import { keyOf, strategiesOfAll } from "./strategies.ts";

/** What a stored plan is held against. */
export interface PlanCheck {
  /** The clean graph. */
  readonly graph: Graph<"global">;
  /** Ranks of the job. */
  readonly ranks: number;
  /** Definitions of ops. */
  readonly opDef: OpLookup;
}

/**
 * The plan of `file`, if it is one of `graph` on `ranks`.
 *
 * @throws {PlanError} If it is not, naming the first thing that does not fit.
 */
export function planFromFile(file: PlanFile, { graph, ranks, opDef }: PlanCheck): Plan {
  checkRanks(file, ranks);
  const stored = storedPlan(file);
  if (file.model.fingerprint !== graphFingerprint(graph)) throw foreignPlan(file, stored, graph);
  const strategies = legalStrategies(stored, graph, { ranks, opDef });
  checkPlaces({ ...stored, strategies }, graph);
  return { ...stored, strategies };
}

/** @throws {PlanError} If the plan is not for as many ranks. */
export function checkRanks(file: Pick<PlanFile, "ranks" | "model">, ranks: number): void {
  if (file.ranks === ranks) return;
  throw new PlanError(`Cannot use the plan of "${file.model.name}" on ${ranks} ranks: it is for ${file.ranks}`, {
    hint: `run it on ${file.ranks} ranks, or plan again with --tp ${ranks}`,
  });
}

/** The error for a plan of another graph, which says what the plan lacks or has too much, if that can be told. */
function foreignPlan(file: PlanFile, plan: Plan, graph: Graph<"global">): PlanError {
  const calls = new Set(graph.nodes.filter(isCall).map((n) => n.name)), planned = [...plan.strategies.keys()];
  const unknown = planned.filter((name) => !calls.has(name));
  const [first] = unknown, near = first === undefined ? undefined : nearest(first, [...calls]);
  const why = first === undefined
    ? "types, attributes or the rewrites before planning differ"
    : 2 * unknown.length > planned.length
    ? `it is of another model, with a node "${first}"`
    : `it speaks of node "${first}", which the model does not have${near ? `: did you mean "${near}"?` : ""}`;
  return new PlanError(`Cannot use the plan of "${file.model.name}" for graph "${graph.name}": ${why}`, {
    hint: "plan the model again, with the same version of shardwise and the same options as it runs with",
  });
}

/** The strategies, each held against those that the call's op allows. */
function legalStrategies(
  plan: Plan,
  graph: Graph<"global">,
  { ranks, opDef }: { ranks: number; opDef: OpLookup },
): Map<string, Strategy> {
  const calls = plannedCalls(graph, opDef);
  const allowed = strategiesOfAll(calls, candidateLayouts(graph, calls, ranks));
  return new Map(calls.map(({ node }, i) => {
    const strategy = plan.strategies.get(node.name);
    if (!strategy) throw new PlanError(`Cannot use the plan: it has no strategy for node "${node.name}"`);
    const key = keyOf(strategy);
    const known = allowed[i]!.find((c) => keyOf(c) === key);
    if (known) return [node.name, { inputs: known.inputs, outputs: known.outputs, name: known.name }];
    throw new PlanError(
      `Cannot use the plan: ${node.op} "${node.name}" cannot be ${printStrategy(strategy)} on ${ranks} ranks`,
      { hint: `it can be ${allowed[i]!.slice(0, 6).map(printStrategy).join("; ")}` },
    );
  }));
}

/** Walks the graph in order and looks for every value in the placement in which it is read. */
function checkPlaces(plan: Plan, graph: Graph<"global">): void {
  const constants = new Set(graph.nodes.flatMap((n) => (n.kind === "get_attr" ? n.outputs : [])));
  const held = new Map<string, Set<string>>();
  const reshards = Map.groupBy(plan.reshards, (r) => r.before);
  const produce = (name: string, placement: Placement) => {
    const { shape } = valueOf(graph, name).type;
    if (placement.kind === "S") {
      const { dim, layout } = placement, size = shape?.[dim];
      if (
        size === undefined || layout.parts.length !== plan.ranks || !isCover(layout) ||
        (typeof size === "number" && typeof layout.outer === "number" && size !== layout.outer * layout.size)
      ) throw new PlanError(`Cannot use the plan: "${name}" [${shape ?? "?"}] cannot be ${placementKey(placement)}`);
    }
    held.set(name, new Set([placementKey(placement)]));
  };
  const read = (name: string, wanted: Placement, node: string) => {
    if (name === "" || constants.has(name) || held.get(name)?.has(placementKey(wanted))) return;
    const has = [...held.get(name) ?? []].join(", ");
    throw new PlanError(
      `Cannot use the plan: "${node}" reads "${name}" as ${printPlacement(wanted)}, but it is there only as ${has}`,
      { hint: 'add the change of placement to "reshards"' },
    );
  };
  for (const node of graph.nodes) {
    for (const { value, from, to } of reshards.get(node.name) ?? []) {
      read(value, from, `${node.name} (reshard)`);
      if (constants.has(value) || redistributeSteps(from, to).length === 0) {
        throw new PlanError(
          `Cannot use the plan: "${value}" cannot go from ${printPlacement(from)} to ${printPlacement(to)}`,
        );
      }
      for (const step of redistributeSteps(from, to)) held.get(value)!.add(placementKey(step.to));
    }
    if (node.kind === "output") {
      node.inputs.forEach((name, i) => {
        const carried = graph.carried.find((c) => c.output === i);
        read(name, carried ? plan.placements.get(carried.input) ?? REPLICATE : REPLICATE, "output");
      });
      return;
    }
    if (node.kind === "get_attr") continue;
    if (isCall(node)) {
      const strategy = plan.strategies.get(node.name);
      node.inputs.forEach((name, i) => read(name, strategy?.inputs[i] ?? REPLICATE, node.name));
      for (const name of node.captures ?? []) read(name, REPLICATE, node.name);
      node.outputs.forEach((name, i) => {
        const [given, made] = [plan.placements.get(name) ?? REPLICATE, strategy?.outputs[i] ?? REPLICATE];
        if (name !== "" && placementKey(given) !== placementKey(made)) {
          throw new PlanError(
            `Cannot use the plan: "${name}" is placed ${printPlacement(given)}, but "${node.name}" makes it ` +
              printPlacement(made),
          );
        }
      });
    }
    for (const name of node.outputs) if (name !== "") produce(name, plan.placements.get(name) ?? REPLICATE);
  }
}

function printStrategy({ inputs, outputs }: Strategy): string {
  return `${inputs.map(printPlacement).join(" ")} -> ${outputs.map(printPlacement).join(" ")}`;
}
