/**
 * Plans and ONNX's multi-device annotations: what a plan says of a model's own nodes, and what annotations leave to the search.
 *
 * Annotations know whole and cut dims, and no partial sums: a row-parallel product's result is annotated as whole, as the
 * formalism has it. They name the nodes of the file, of which several may have become one layer; a call is bound by what
 * is said of its tensors by the node that it is named after and by those that write its results. What annotations leave
 * open (partial or summed, the exact borders of a cut, nodes of which nothing is said) the search decides.
 */
import { dimKey } from "../core/dim.ts";
import { PlanError } from "../core/errors.ts";
import type { NodeSharding, TensorSharding } from "../formats/device_annotations.ts";
import { type Call, type Graph, isCall, valueOf } from "../graph/graph.ts";
import type { Placement } from "../graph/placement.ts";
import type { Plan, Strategy } from "../plan/plan.ts";

/** What annotations demand: of the strategies of a call, those that agree with them; of the useful ones, if any of these do. */
export type Restriction = <T extends Strategy>(node: Call, useful: readonly T[], all: readonly T[]) => readonly T[];

/** The annotations of the nodes of the file that the clean graph `graph` was read from. */
export function shardingsOf(
  graph: Graph<"global">,
  plan: Plan,
): (node: { name: string; input: readonly string[]; output: readonly string[] }) => TensorSharding[] {
  const byName = new Map<string, Call>(), byOutput = new Map<string, Call>();
  for (const node of graph.nodes.filter(isCall)) {
    byName.set(node.name, node);
    for (const output of node.outputs) byOutput.set(output, node);
  }
  const devices = Array.from({ length: plan.ranks }, (_, r) => r);
  return ({ name, input, output }) => {
    const calls = new Set([byName.get(name), ...output.map((o) => byOutput.get(o))]);
    const said = new Map<string, TensorSharding>();
    for (const call of calls) {
      const strategy = call && plan.strategies.get(call.name);
      if (!strategy) continue;
      const places = [...call.inputs.map((v, i) => [v, strategy.inputs[i]!] as const)]
        .concat(call.outputs.map((v, i) => [v, strategy.outputs[i]!] as const));
      for (const [value, placement] of places) {
        if (value === "" || !(input.includes(value) || output.includes(value)) || said.has(value)) continue;
        said.set(value, { tensor: value, devices, grouped: false, cuts: cutsOf(graph, value, placement) });
      }
    }
    return [...said.values()];
  };
}

function cutsOf(graph: Graph, value: string, placement: Placement): TensorSharding["cuts"] {
  if (placement.kind !== "S") return [];
  const size = valueOf(graph, value).type.shape?.[placement.dim];
  return [{
    axis: placement.dim,
    ...(size === undefined ? {} : { size: typeof size === "number" ? size : dimKey(size) }),
    shards: placement.layout.parts.length,
  }];
}

/**
 * What the annotations of a file demand of a plan for `ranks` ranks.
 *
 * @throws {PlanError} If they ask for what no plan can do: groups of devices, or some of the ranks only.
 */
export function restrictionOf(graph: Graph<"global">, shardings: readonly NodeSharding[], ranks: number): Restriction {
  const byName = new Map<string, NodeSharding>(), byOutput = new Map<string, NodeSharding>();
  for (const node of shardings) {
    for (const tensor of node.tensors) checkSharding(tensor, node, ranks);
    byName.set(node.name, node);
    for (const output of node.outputs) byOutput.set(output, node);
  }
  return (node, useful, all) => {
    const said = new Set([
      node.name === "" ? undefined : byName.get(node.name),
      ...node.outputs.map((o) => byOutput.get(o)),
    ]);
    said.delete(undefined);
    if (said.size === 0) return useful;
    const tensors = [...said].flatMap((n) => n!.tensors);
    const agrees = (values: readonly string[], placements: readonly Placement[]) =>
      values.every((value, i) =>
        tensors.every((t) =>
          t.tensor !== value || value === "" || isAt(t, placements[i]!, valueOf(graph, value).type.shape)
        )
      );
    const fits = (c: Strategy) => agrees(node.inputs, c.inputs) && agrees(node.outputs, c.outputs);
    const kept = useful.every(fits) ? useful : useful.filter(fits);
    const others = kept.length > 0 ? kept : all.filter(fits);
    if (others.length > 0) return others;
    throw new PlanError(
      `Cannot plan ${node.op} "${node.name}" as the model's annotations say: its op has no such way to run on ${ranks} ranks`,
      { hint: `annotated: ${tensors.map(printSharding).join(", ")}` },
    );
  };
}

function checkSharding({ tensor, devices, grouped, cuts }: TensorSharding, node: NodeSharding, ranks: number): void {
  const refuse = (what: string) =>
    new PlanError(`Cannot use the annotation of "${tensor}" in node "${node.name || node.outputs[0]}": ${what}`, {
      hint: "annotate one cut of one dim over all devices in order, or plan without annotations",
    });
  if (grouped) throw refuse("it names groups of devices");
  if (devices.length > 0 && (devices.length !== ranks || devices.some((d, i) => d !== i))) {
    throw refuse(`it lies on devices ${devices.join(", ")}, not on 0 to ${ranks - 1} in order`);
  }
  const real = cuts.filter(({ shards }) => shards > 1);
  if (real.length > 1) throw refuse(`it is cut along ${real.length} dims`);
  if (real.some(({ shards }) => shards !== ranks)) {
    throw refuse(`it is cut into ${real[0]!.shards} shards, not ${ranks}`);
  }
}

function isAt({ cuts }: TensorSharding, placement: Placement, shape: readonly unknown[] | undefined): boolean {
  const cut = cuts.find(({ shards }) => shards > 1);
  if (!cut) return placement.kind !== "S";
  return placement.kind === "S" && placement.dim === (cut.axis < 0 ? cut.axis + (shape?.length ?? 0) : cut.axis);
}

function printSharding({ tensor, cuts }: TensorSharding): string {
  const cut = cuts.find(({ shards }) => shards > 1);
  return `"${tensor}" ${cut ? `cut along dim ${cut.axis}` : "whole"}`;
}
