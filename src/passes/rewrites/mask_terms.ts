/** The steps by which scores are masked, as one tensor that is added to them. */
import { type Dim, dimEquals } from "../../core/dim.ts";
import type { Shape } from "../../graph/types.ts";
import type { MaskShape } from "./blind_rows.ts";
import type { MaskTerm } from "./causal_mask.ts";
import type { Emit } from "./emit.ts";
import type { FusedDType, Matcher } from "./matcher.ts";

/** The sizes of scores. */
export type ScoreSizes = Readonly<Record<"batch" | "heads" | "sequence" | "total", Dim>>;

/**
 * The shape of all terms of a mask together, with four dims, of which the first three may be 1; undefined where it is none of
 * scores.
 */
export function shapeOfMask(terms: readonly MaskTerm[], m: Matcher, sizes: ScoreSizes): MaskShape | undefined {
  let sum: Shape | undefined = [];
  for (const term of terms) {
    const own = m.shape(term.kind === "add" ? term.name : term.condition);
    sum = own && sum && sumShape(sum, own);
  }
  if (!sum || sum.length > 4) return undefined;
  const full = [...Array<Dim>(4 - sum.length).fill(1), ...sum] as [Dim, Dim, Dim, Dim];
  const { batch, heads, sequence, total } = sizes;
  const fits = [batch, heads, sequence].every((size, i) => full[i] === 1 || m.sameDim(full[i], size));
  return fits && m.sameDim(full[3], total) ? full : undefined;
}

/** The terms of a mask as one tensor of `shape`. */
export function oneMask(
  terms: readonly MaskTerm[],
  emit: Emit,
  { m, dtype, shape: full }: { readonly m: Matcher; readonly dtype: FusedDType; readonly shape: MaskShape },
): string {
  let mask: { readonly name: string; readonly shape: Shape } | undefined;
  for (const term of terms) {
    const shape = m.shape(term.kind === "add" ? term.name : term.condition)!;
    const name = term.kind === "add" && term.scale === 1 ? term.name : emit.shared(
      `mask ${Object.values(term).join()} ${dtype}`,
      () => emitTerm(term, emit, { dtype, shape }),
    );
    const before = mask;
    mask = before === undefined ? { name, shape } : {
      name: emit.shared(
        `sum ${before.name} ${name}`,
        () =>
          emit.call({ op: "Add", inputs: [before.name, name], type: { dtype, shape: sumShape(before.shape, shape)! } }),
      ),
      shape: sumShape(before.shape, shape)!,
    };
  }
  const { name, shape } = mask!;
  if (shape.length === 4) return name;
  return emit.shared(`four dims ${name}`, () => {
    const target = emit.sizes([full[0], full[1], -1, full[3]]);
    return emit.call({ op: "Reshape", inputs: [name, target], type: { dtype, shape: full } });
  });
}

/** A term that is no tensor of the graph as it is. */
function emitTerm(
  term: MaskTerm,
  emit: Emit,
  { dtype, shape }: { readonly dtype: FusedDType; readonly shape: Shape },
): string {
  const type = { dtype, shape };
  if (term.kind === "add") {
    return emit.call({ op: "Mul", inputs: [term.name, emit.scalar(term.scale, dtype)], type });
  }
  const numbers = [emit.scalar(0, dtype), emit.scalar(term.hidden, dtype)];
  return emit.call({ op: "Where", inputs: [term.condition, ...(term.shows ? numbers : numbers.reverse())], type });
}

/** The shape of a sum, where the operands' dims are known to be equal or one of them is 1. */
function sumShape(a: Shape, b: Shape): Shape | undefined {
  const ndim = Math.max(a.length, b.length), out: Dim[] = [];
  for (let i = 0; i < ndim; i++) {
    const x = a[i - ndim + a.length] ?? 1, y = b[i - ndim + b.length] ?? 1;
    if (x !== 1 && y !== 1 && !dimEquals(x, y)) return undefined;
    out.push(x === 1 ? y : x);
  }
  return out;
}
