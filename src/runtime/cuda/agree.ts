/** Whether all ranks can compute on GPUs: one that cannot decides for all. */
import { detectLaunchEnv } from "../../core/launch_env.ts";
import type { Communicator } from "../comm/communicator.ts";
import { gpuOf, gpuProblem } from "./probe.ts";

/** Bytes of what a rank says. */
const SAID = 256;

/**
 * Which rank cannot have a GPU, or which have the same one, and why; undefined where each can have its own. All ranks call it together, and
 * get the same answer. `own`: this rank's reason, if that was asked for before.
 */
export async function problemOfAnyRank(
  comm: Communicator,
  own?: { readonly problem: string | undefined },
): Promise<string | undefined> {
  const env = detectLaunchEnv(Deno.env.toObject()), { problem } = own ?? { problem: gpuProblem(env) };
  const mine = new Uint8Array(SAID), all = new Uint8Array(SAID * comm.size);
  new TextEncoder().encodeInto(problem === undefined ? `+${gpuOf(env) ?? ""}` : `-${problem}`, mine);
  await comm.allGather(mine, all);
  const said = Array.from({ length: comm.size }, (_, rank) => {
    const bytes = all.subarray(SAID * rank, SAID * (rank + 1)), end = bytes.indexOf(0);
    return new TextDecoder().decode(bytes.subarray(0, end < 0 ? SAID : end));
  });
  const without = said.flatMap((text, rank) => (text.startsWith("-") ? [rank] : []));
  if (without.length > 0) {
    const reason = said[without[0]!]!.slice(1);
    if (without.length === comm.size) return reason;
    return `${named(without)} of ${comm.size} cannot: ${reason}`;
  }
  const byGpu = Map.groupBy(said.keys(), (rank) => (said[rank] === "+" ? rank : said[rank]));
  const shared = [...byGpu.values()].find((ranks) => ranks.length > 1);
  return shared && `${named(shared)} of ${comm.size} see the same GPU`;
}

function named(ranks: readonly number[]): string {
  return `${ranks.length === 1 ? "rank" : "ranks"} ${ranks.join(", ")}`;
}
