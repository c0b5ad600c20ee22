/** A reduction of rows with the elementwise steps before and after it, as one kernel: a residual sum, its norm, and a cast. */
import { whole } from "../../ops/kernels/access.ts";
import type { Access, MapStep, Operand, Params, RowsStep } from "../../ops/kernels/kernel.ts";
import { heldAs, isWhole, sameShape } from "./fuse_maps.ts";

type Let = { readonly name: string; readonly expression: string };

/**
 * The one reduction of `chain` with all maps in it: step k gives scratch tensor k, the last one the result. `kept`: those that others read
 * too, and where they are written. Undefined where steps do not go through the same elements.
 */
export function fuseRows(
  chain: readonly (MapStep | RowsStep)[],
  kept: ReadonlyMap<number, Operand>,
): RowsStep | undefined {
  const rows = chain.filter((s) => s.kind === "rows"), [one] = rows;
  if (!one || rows.length > 1) return undefined;
  const shape = [...one.outer, ...one.inner], reads: Access[] = [], lets: Let[] = [], writes: Writes = [];
  const params: Record<string, Params[string]> = {}, reductions: RowsStep["reductions"][number][] = [];
  for (const [k, step] of chain.entries()) {
    const names = new Map<string, string>();
    const expressions = step.kind === "map"
      ? [step.expression]
      : [...step.reductions.map((r) => r.value), ...step.writes.map((w) => w.expression)];
    for (const [r, read] of step.reads.entries()) {
      const { of, index } = read.operand;
      if (of !== "scratch") {
        for (const letter of "xpo") names.set(`${letter}${r}`, `${letter}${reads.length}`);
        reads.push(read);
        continue;
      }
      const isPointer = new RegExp(`\\b[po]${r}\\b`);
      if (!isWhole(read, shape) || expressions.some((e) => isPointer.test(e))) return undefined;
      names.set(`x${r}`, `t${index}`);
    }
    for (const [name, value] of Object.entries(step.params ?? {})) {
      names.set(name, `${name}_${k}`);
      params[`${name}_${k}`] = value;
    }
    if (step.kind === "map") {
      if (step.target !== undefined || step.when !== undefined || step.lets || !sameShape(step.shape, shape)) {
        return undefined;
      }
      // Dims of the map are those of the rows, and then those within a row.
      step.shape.forEach((_, d) => names.set(`i${d}`, d < one.outer.length ? `i${d}` : `r${d - one.outer.length}`));
    }
    const named = (expression: string) => expression.replace(/\b[A-Za-z_]\w*\b/g, (name) => names.get(name) ?? name);
    const results: Readonly<Writes> = step.kind === "map"
      ? [{ access: step.write, expression: step.expression, each: true }]
      : step.writes;
    if (step.kind === "rows") reductions.push(...step.reductions.map((r) => ({ ...r, value: named(r.value) })));
    for (const { access, expression, each } of results) {
      if (access.operand.of !== "scratch") writes.push({ access, expression: named(expression), each });
      else {
        const held = heldAs(access.operand.dtype);
        if (!held || !each || !isWhole(access, shape)) return undefined;
        lets.push({ name: `t${k}`, expression: held(named(expression)) });
      }
    }
  }
  for (const [k, operand] of kept) writes.push({ access: whole(operand, shape), expression: `t${k}`, each: true });
  return { kind: "rows", outer: one.outer, inner: one.inner, reads, reductions, writes, params, lets };
}

type Writes = RowsStep["writes"][number][];
