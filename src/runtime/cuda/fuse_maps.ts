/** Elementwise steps that follow each other as one: what only the next one reads stays in a register. */
import type { DType } from "../../core/dtype.ts";
import type { Access, MapStep, Operand, RowsStep } from "../../ops/kernels/kernel.ts";
import { stridesOf } from "../../ops/kernels/access.ts";

/** What a value of a dtype is after it was stored and loaded again; half floats keep the bits that storing would cost. */
const HELD: Partial<Record<DType, (e: string) => string>> = {
  f32: (e) => `(float)(${e})`,
  f16: (e) => `(float)(${e})`,
  bf16: (e) => `(float)(${e})`,
  f64: (e) => `(double)(${e})`,
  bool: (e) => `((${e}) != 0)`,
  i64: (e) => `(long long)(${e})`,
  i32: (e) => `(long long)(int)(${e})`,
};

/** What makes of an expression the value that it is as an element of `dtype`; undefined for dtypes that nobody keeps in a register. */
export function heldAs(dtype: DType): ((expression: string) => string) | undefined {
  return HELD[dtype];
}

/**
 * The last map of `chain` with all others in it: map k writes scratch tensor k. Undefined where one of them is not read element by
 * element.
 */
export function fuseMaps(chain: readonly MapStep[]): MapStep | undefined {
  const last = chain.at(-1)!, reads: Access[] = [], lets: { name: string; expression: string }[] = [];
  const params: Record<string, number | { readonly float: number }> = {};
  let result = "";
  for (const [k, step] of chain.entries()) {
    if (step.target !== undefined || step.when !== undefined || !sameShape(step.shape, last.shape)) return undefined;
    const held = HELD[step.write.operand.dtype];
    const isLast = k === chain.length - 1;
    if (!held || (!isLast && !isWhole(step.write, step.shape))) return undefined;
    const names = new Map<string, string>();
    for (const [r, read] of step.reads.entries()) {
      const maker = read.operand.of === "scratch" ? read.operand.index : undefined;
      if (maker === undefined) {
        for (const letter of "xpo") names.set(`${letter}${r}`, `${letter}${reads.length}`);
        reads.push(read);
        continue;
      }
      if (!isWhole(read, step.shape) || new RegExp(`\\b[po]${r}\\b`).test(step.expression)) return undefined;
      names.set(`x${r}`, `t${maker}`);
    }
    for (const [name, value] of Object.entries(step.params ?? {})) {
      names.set(name, `${name}_${k}`);
      params[`${name}_${k}`] = value;
    }
    const expression = step.expression.replace(/\b[A-Za-z_]\w*\b/g, (name) => names.get(name) ?? name);
    if (isLast) result = expression;
    else lets.push({ name: `t${k}`, expression: held(expression) });
  }
  return { kind: "map", shape: last.shape, reads, write: last.write, expression: result, lets, params };
}

/** Whether element i of `shape` lies at i. */
export function isWhole({ offset, strides }: Access, shape: readonly number[]): boolean {
  const own = stridesOf(shape);
  return offset === 0 && shape.every((size, d) => size === 1 || strides[d] === own[d]);
}

/** Whether two shapes are equal. */
export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, d) => size === b[d]);
}

/** `step` with other operands. */
export function withOperands<S extends MapStep | RowsStep>(step: S, operandOf: (operand: Operand) => Operand): S {
  const at = (access: Access): Access => ({ ...access, operand: operandOf(access.operand) });
  const reads = step.reads.map(at);
  if (step.kind === "map") return { ...step, reads, write: at(step.write) };
  return { ...step, reads, writes: step.writes.map((w) => ({ ...w, access: at(w.access) })) };
}
