/**
 * Meshes of two axes: `dp` shares the batch among groups of ranks, `tp` shares the layers within a group.
 *
 * What the axis `dp` does is fixed: every activation is cut along the batch, every weight is whole, and nothing is said
 * between groups. So the best of these plans is the best plan of one group for its part of the batch, and the search over
 * one axis finds it. Whether a model takes that is for {@linkcode batchDims} to prove.
 *
 * Beyond these plans nothing is searched: `dp` cannot be left out for some layers, nor cut weights. Whether it pays at all is
 * found by planning the other meshes of as many ranks ({@linkcode meshesOf}). A second axis of tensors (`sp=2,tp=2`) would
 * need a placement for each axis in every value, strategies that are pairs, prices and collectives among the ranks of one
 * axis only, and barriers of a program that not all ranks share.
 */
import { PlanError } from "../core/errors.ts";

/** Ranks on each axis. Rank `r` is number `r mod tp` of group `⌊r / tp⌋`. */
export interface DeviceMesh {
  /** Groups that share the batch. */
  readonly dp: number;
  /** Ranks of each group, which share the layers. */
  readonly tp: number;
  /** Take it as known that the rows of the batch are independent, where that cannot be proved. */
  readonly assume?: boolean;
}

/** Ranks of a mesh. */
export function meshSize({ dp, tp }: DeviceMesh): number {
  return dp * tp;
}

/** All meshes of so many ranks, the one with the most groups first. */
export function meshesOf(ranks: number): DeviceMesh[] {
  const groups = Array.from({ length: ranks }, (_, i) => ranks - i).filter((dp) => ranks % dp === 0);
  return groups.map((dp) => ({ dp, tp: ranks / dp }));
}

/** `dp=2,tp=4`. */
export function printMesh({ dp, tp }: DeviceMesh): string {
  return `dp=${dp},tp=${tp}`;
}

/** Reads `dp=2,tp=4`, or `dp=2,tp=4,assume`; an axis that is left out has one rank. @throws {PlanError} */
export function parseMesh(text: string): DeviceMesh {
  const axes = new Map<string, number>();
  let assume = false;
  for (const part of text.split(",")) {
    if (part.trim() === "assume" && !assume) {
      assume = true;
      continue;
    }
    const [, name, size] = /^\s*(\w+)\s*=\s*(\d+)\s*$/.exec(part) ?? [];
    if (name === undefined || (name !== "dp" && name !== "tp") || Number(size) < 1 || axes.has(name)) {
      throw new PlanError(`Cannot read mesh ${JSON.stringify(text)}: found ${JSON.stringify(part.trim())}`, {
        hint: "write ranks by axis: dp=2,tp=4 (dp shares the batch, tp the layers)",
      });
    }
    axes.set(name, Number(size));
  }
  return { dp: axes.get("dp") ?? 1, tp: axes.get("tp") ?? 1, ...(assume ? { assume } : {}) };
}
