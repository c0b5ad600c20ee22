/** Embeddings that are added up and normalised on a GPU. Source: com.microsoft.EmbedLayerNormalization, ContribOperators.md. */
import { floatOf } from "../../graph/attributes.ts";
import { input, inputOf, output, outputOf, stridesOf, whole } from "./access.ts";
import type { Access, KernelContext, KernelStep, Lowered, Lowering } from "./kernel.ts";

function embedNorm(context: KernelContext): Lowered {
  const [batch, length, hidden] = outputOf(context).shape as [number, number, number], reads: Access[] = [];
  const read = (index: number, strides: readonly number[]) => {
    reads.push({ operand: input(context, index), offset: 0, strides });
    return reads.length - 1;
  };
  /** The element of `table` in the row that ids tell, or the position. */
  const embedded = (table: number, ids: number): string | undefined => {
    const tensor = context.inputs[ids];
    if (!context.inputs[table] || (ids === 1 && !tensor)) return undefined;
    const first = tensor?.shape[0] === 1 ? 0 : length;
    const row = tensor ? `(long long)x${read(ids, [first, 1, 0])}` : "i1";
    const at = read(table, [0, 0, 1]);
    return `ld(p${at}[o${at} + ${row} * hidden])`;
  };
  const sum = [embedded(2, 0), embedded(3, 8), embedded(4, 1)].filter((e) => e !== undefined).join(" + ");
  const [scale, bias] = [read(5, [0, 0, 1]), read(6, [0, 0, 1])];
  const centred = `(${sum} - total / count)`, strides = stridesOf([batch, length, hidden]);
  const add = (value: string) => ({ init: "0", combine: "a + b", value });
  const each = (index: number, expression: string) => ({
    access: { operand: output(context, index), offset: 0, strides },
    expression,
    each: true,
  });
  const steps: KernelStep[] = [{
    kind: "rows",
    outer: [batch, length],
    inner: [hidden],
    reads,
    reductions: [{ name: "total", ...add(sum) }, { name: "squares", ...add(`${centred} * ${centred}`) }],
    writes: [
      each(0, `${centred} * f_rsqrt(squares / count + epsilon) * x${scale} + x${bias}`),
      ...(context.outputs[2] ? [each(2, sum)] : []),
    ],
    params: { hidden, count: { float: hidden }, epsilon: { float: floatOf(context.attributes, "epsilon") ?? 1e-12 } },
  }];
  if (context.outputs[1]) steps.push(maskLengths(context, batch));
  return { steps };
}

/** How many tokens of each sequence the mask keeps; 0 without a mask. */
function maskLengths(context: KernelContext, batch: number): KernelStep {
  const write = whole(output(context, 1), [batch]);
  if (!context.inputs[7]) return { kind: "map", shape: [batch], reads: [], write, expression: "0" };
  const { shape } = inputOf(context, 7);
  return {
    kind: "rows",
    outer: [batch],
    inner: [shape[1]!],
    reads: [whole(input(context, 7), shape)],
    reductions: [{ name: "kept", init: "0LL", combine: "a + b", value: "(long long)(x0 == 1)" }],
    writes: [{ access: { ...write, strides: [1, 0] }, expression: "kept", each: false }],
  };
}

/** All lowerings of this file, by op. */
export const EMBED_NORM: Readonly<Record<string, Lowering>> = {
  "com.microsoft.EmbedLayerNormalization": embedNorm,
};
