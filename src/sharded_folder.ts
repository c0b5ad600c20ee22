/**
 * A model in parts, as a folder: for every rank its part as an ONNX model, and what all share.
 *
 *     plan.json          the plan, its explanation, and which files belong to it (docs/plan-json.md)
 *     graph.txt          the sharded graph: layers, placements, collectives
 *     model.onnx         the whole model, with ONNX's multi-device annotations; not where weights were quantised
 *     model.onnx.data    its weights; ranks refer to their slices of it where these are contiguous
 *     rank<r>.onnx       rank r's part
 *     rank<r>.plain.onnx the same without fused ops that have limits of size, where there are such; for sizes above these
 *     rank<r>.bin        the slices of weights that are not contiguous in model.onnx.data
 *     first_step/        the parts of a decoder's first step, where that is a graph of its own: a folder like this, without
 *                        the whole model
 *     encoder/           the parts of its encoder, as a folder like this
 *
 * Running it reads the rank's own file and plans nothing.
 */
import { join } from "node:path";
import { FormatError, PlanError } from "./core/errors.ts";
import { isFile } from "./core/paths.ts";
import { fileSize, type OpenSource } from "./formats/mapped_file.ts";
import { type OnnxFile, readOnnx } from "./formats/onnx_file.ts";
import { importRankModel } from "./formats/rank_model.ts";
import type { Graph } from "./graph/graph.ts";
import { parseGraph } from "./graph/text_parser.ts";
import type { Plan } from "./plan/plan.ts";
import { storedPlan } from "./plan/plan_file.ts";
import { readPlanFile } from "./plan_source.ts";

/** Names of the files that all ranks share, and of the folder of a first step. */
export const FOLDER_FILES = {
  plan: "plan.json",
  graph: "graph.txt",
  model: "model.onnx",
  data: "model.onnx.data",
  firstStep: "first_step",
} as const;

/** Names of the files of one rank. */
export function rankFiles(rank: number): { readonly model: string; readonly plain: string; readonly weights: string } {
  return { model: `rank${rank}.onnx`, plain: `rank${rank}.plain.onnx`, weights: `rank${rank}.bin` };
}

/** What a rank's model says of itself in its metadata. */
export const RANK_METADATA = { fingerprint: "shardwise.fingerprint", rank: "shardwise.rank" } as const;

/** What a rank needs of a folder to run. */
export interface RankPart {
  /** The graph of all ranks; its weights have types, and no data. */
  readonly sharded: Graph<"sharded">;
  /** The rank's graph. */
  readonly local: Graph<"local">;
  /** The rank's graph with plain ops, for sizes that fused ops do not take. */
  readonly plain: () => Graph<"local">;
  /** The plan that it follows. */
  readonly plan: Plan;
}

/** The number of ranks that the folder at `path` was made for; undefined if it is no such folder. */
export function shardedFor(path: string): number | undefined {
  if (!isFile(join(path, FOLDER_FILES.plan)) || !isFile(join(path, "rank0.onnx"))) return undefined;
  return readPlanFile(join(path, FOLDER_FILES.plan)).ranks;
}

/**
 * Rank `rank`'s part of the folder at `path`, for a job of `ranks`. What it reads from must stay open while weights are used.
 *
 * @throws {PlanError} If the folder is for another number of ranks. @throws {FormatError} If its files are broken or mixed up.
 */
export function openRankPart(
  path: string,
  { rank, ranks, open }: { rank: number; ranks: number; open: OpenSource },
): RankPart & Disposable {
  const stored = readPlanFile(join(path, FOLDER_FILES.plan));
  if (stored.ranks !== ranks) {
    throw new PlanError(
      `Cannot run ${path} on ${ranks} rank${ranks === 1 ? "" : "s"}: it was split for ${stored.ranks}`,
      { hint: `start ${stored.ranks} ranks, or export the model again for ${ranks}` },
    );
  }
  const sharded = shardedGraph(path);
  const files: OnnxFile[] = [];
  const dispose = () => files.forEach((file) => file[Symbol.dispose]());
  const read = (name: string) => {
    const file = readOnnx(join(path, name), { open });
    files.push(file);
    const said = new Map(file.model.metadataProps.map(({ key, value }) => [key, value]));
    const belongs = said.get(RANK_METADATA.fingerprint) === stored.model.fingerprint &&
      said.get(RANK_METADATA.rank) === `${rank} of ${ranks}`;
    if (belongs) return importRankModel(file, sharded.carried);
    throw new FormatError(
      `Cannot run ${file.path}: it is not the part of rank ${rank} that ${FOLDER_FILES.plan} beside it tells of`,
      { hint: "export the model again: files of several exports are mixed up" },
    );
  };
  try {
    const { model, plain } = rankFiles(rank);
    return {
      sharded,
      local: read(model),
      plain: () => read(plain),
      plan: storedPlan(stored),
      [Symbol.dispose]: dispose,
    };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** The graph of all ranks in the folder at `path`; its weights have types, and no data. */
export function shardedGraph(path: string): Graph<"sharded"> {
  const file = join(path, FOLDER_FILES.graph);
  fileSize(file);
  return parseGraph(Deno.readTextFileSync(file), { stage: "sharded" });
}
