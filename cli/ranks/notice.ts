/** What users should know of how their model runs. */
import { printNote } from "../print.ts";

/** Says on rank 0 why the engine is not the best one, if it is not. */
export function sayNotice(model: { readonly notice: string | undefined }, comm: { readonly rank: number }): void {
  if (model.notice !== undefined && comm.rank === 0) printNote(`shardwise: ${model.notice}`);
}
