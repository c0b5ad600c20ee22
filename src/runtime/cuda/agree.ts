/** Whether all ranks can compute on GPUs: one that cannot decides for all. */
import { detectLaunchEnv } from "../../core/launch_env.ts";
import type { Communicator } from "../comm/communicator.ts";
import { gpuProblem } from "./probe.ts";

/** Bytes of a rank's reason. */
const REASON = 256;

/** Which rank cannot have a GPU, and why; undefined where all can. All ranks call it together, and get the same answer. */
export async function problemOfAnyRank(
  comm: Communicator,
  own: string | undefined = gpuProblem(detectLaunchEnv(Deno.env.toObject())),
): Promise<string | undefined> {
  const mine = new Uint8Array(REASON), all = new Uint8Array(REASON * comm.size);
  new TextEncoder().encodeInto(own ?? "", mine);
  await comm.allGather(mine, all);
  const reasons = Array.from({ length: comm.size }, (_, rank) => {
    const bytes = all.subarray(REASON * rank, REASON * (rank + 1)), end = bytes.indexOf(0);
    return new TextDecoder().decode(bytes.subarray(0, end < 0 ? REASON : end));
  });
  const without = reasons.flatMap((reason, rank) => (reason === "" ? [] : [rank]));
  if (without.length === 0) return undefined;
  const reason = reasons[without[0]!]!;
  if (without.length === comm.size) return reason;
  return `${without.length === 1 ? "rank" : "ranks"} ${without.join(", ")} of ${comm.size} cannot: ${reason}`;
}
