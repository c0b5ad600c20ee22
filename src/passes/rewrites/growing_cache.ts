/**
 * Finding the cache behind an attention's keys or values.
 *
 * ```text
 * keys     Concat(%past, %step) over dim 2, each head repeated by Unsqueeze, Expand and Reshape where heads share keys
 * ```
 */
import { dimMul } from "../../core/dim.ts";
import { type Call, isCall, opKey } from "../../graph/graph.ts";
import type { Matcher } from "./matcher.ts";

/** A cache that grows. */
export interface Cache {
  readonly past: string;
  /** What is added, `[batch, kv heads, sequence, dim]`. */
  readonly step: string;
  /** The result of the model that the longer cache is. */
  readonly result: string;
  /** The nodes that make the longer cache, of which the last one may be an Identity. */
  readonly nodes: readonly Call[];
  readonly inner: readonly string[];
}

/** The cache behind `name`, whose heads may be repeated; or why it is none. */
export function cacheOf(name: string, m: Matcher): Cache | string {
  const inner: string[] = [];
  let at = name;
  const reshape = m.call(at, "Reshape"), expand = reshape && m.call(reshape.inputs[0]!, "Expand");
  const opened = expand && m.call(expand.inputs[0]!, "Unsqueeze");
  if (reshape && expand && opened) {
    const from = m.shape(opened.inputs[0]!), wide = m.shape(expand.outputs[0]!), to = m.shape(at);
    const repeats = from?.length === 4 && wide?.length === 5 && to?.length === 4 &&
      m.shape(opened.outputs[0]!)?.[2] === 1 && m.sameDim(wide[1], from[1]) && m.sameDim(wide[3], from[2]) &&
      typeof wide[2] === "number" && m.sameDim(to[1], dimMul(wide[1]!, wide[2])) && m.sameDim(to[2], from[2]);
    if (!repeats) return "keys or values are reshaped in a way that does not repeat heads";
    inner.push(at, expand.outputs[0]!, opened.outputs[0]!);
    at = opened.inputs[0]!;
  }
  const concat = m.call(at, "Concat");
  if (!concat || concat.inputs.length !== 2 || m.concatDim(concat) !== 2 || m.shape(at)?.length !== 4) {
    return "there is no cache: keys and values are not the Concat of an input and this step's";
  }
  const [past = "", step = ""] = concat.inputs;
  if (!m.isPlaceholder(past)) return "what comes before this step's keys or values is no input of the model";
  if (m.isResult(at)) return { past, step, result: at, nodes: [concat], inner };
  const named = m.readers(at).filter(isCall).find((r) => opKey(r) === "Identity" && m.isResult(r.outputs[0]!));
  const result = named?.outputs[0];
  if (!named || result === undefined || m.readers(result).some((r) => r.kind !== "output")) {
    return "the cache that grows is no result of the model";
  }
  return { past, step, result, nodes: [concat, named], inner: [...inner, at] };
}
