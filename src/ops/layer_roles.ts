/** Layers and their parallel counterparts: which role a placement of the weight gives to a layer, and what it is called then. */
import { intOf } from "../graph/attributes.ts";
import type { Call } from "../graph/graph.ts";
import type { Placement } from "../graph/placement.ts";

/** How a layer is parallel. */
export type LayerRole = "column" | "row" | "vocab" | "hidden" | "replicated";

/** For each layer, the input that decides, and the role of a cut of each of its dims. */
const ROLES: Readonly<Record<string, { readonly input: number; readonly dims: (node: Call) => readonly LayerRole[] }>> =
  {
    Linear: { input: 1, dims: (node) => (intOf(node.attributes, "transB") ? ["column", "row"] : ["row", "column"]) },
    Embedding: { input: 0, dims: () => ["vocab", "hidden"] },
    CrossEntropyLoss: { input: 0, dims: (node) => lossRoles(intOf(node.attributes, "class_dim") ?? 1) },
  };

/** Roles of the logits' dims, with the classes in dim `classDim`. */
function lossRoles(classDim: number): readonly LayerRole[] {
  return Array.from({ length: classDim + 1 }, (_, dim) => (dim === classDim ? "vocab" : "replicated"));
}

/** Names of the parallel counterparts, by layer and role. */
const COUNTERPARTS: Readonly<Record<string, Partial<Record<LayerRole, string>>>> = {
  Linear: { column: "ColumnParallelLinear", row: "RowParallelLinear" },
  Embedding: { vocab: "VocabParallelEmbedding" },
  CrossEntropyLoss: { vocab: "VocabParallelCrossEntropyLoss" },
};

/** For each parallel counterpart, the layer whose definition it has. */
export const PLAIN_LAYERS: ReadonlyMap<string, string> = new Map(
  Object.entries(COUNTERPARTS).flatMap(([plain, roles]) => Object.values(roles).map((name) => [name, plain] as const)),
);

/** The role that the placements of a layer's inputs give to it. */
export function layerRole(node: Call, inputs: readonly Placement[]): LayerRole {
  const row = ROLES[node.op];
  const placement = row && inputs[row.input];
  return placement?.kind === "S" ? row!.dims(node)[placement.dim] ?? "replicated" : "replicated";
}

/** The layer's name in a sharded graph: its parallel counterpart's, or its own. */
export function parallelName(op: string, role: LayerRole): string {
  return COUNTERPARTS[op]?.[role] ?? op;
}
