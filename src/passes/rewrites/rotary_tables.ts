/**
 * com.microsoft's RotaryEmbedding from the angles that a graph computes for its tokens: the tables, and positions in them.
 *
 * A graph computes cosines and sines of each token for all elements of a head; the op wants a table with a row for each token and
 * half as many columns, as each angle serves two elements: those of one place in both halves of a head, or neighbours.
 */
import { type Dim, dimMul } from "../../core/dim.ts";
import { int } from "../../graph/attributes.ts";
import type { Shape, TensorType } from "../../graph/types.ts";
import type { Emit } from "./emit.ts";
import type { FusedDType } from "./matcher.ts";

/** The tokens that are rotated. */
export interface RotatedTokens {
  readonly batch: Dim;
  readonly sequence: Dim;
  /** Whether each row of the batch has angles of its own. */
  readonly perRow: boolean;
  /** How many angles a token has. */
  readonly half: number;
}

/**
 * The table `[tokens, half]` of the angles `name`, of whose last dim each element, or each second one (`step`), is taken: its other
 * dims are the batch or 1, the sequence, and perhaps 1.
 */
export function tableOf(
  emit: Emit,
  { name, shape, dtype, step, batch, sequence, perRow, half }: RotatedTokens & {
    readonly name: string;
    readonly shape: Shape;
    readonly dtype: FusedDType;
    readonly step: 1 | 2;
  },
): string {
  return emit.shared(`table ${name} ${half} ${step}`, () => {
    const bounds = [[0], [half * step], [-1], ...(step === 1 ? [] : [[step]])].map((b) => emit.sizes(b));
    const taken = emit.call({
      op: "Slice",
      inputs: [name, ...bounds],
      type: { dtype, shape: shape.with(-1, half) },
    });
    const rows = perRow ? dimMul(batch, sequence) : sequence;
    return emit.call({ op: "Reshape", inputs: [taken, emit.sizes([-1, half])], type: { dtype, shape: [rows, half] } });
  });
}

/** The row of the table for each token: `[batch, sequence]`. */
export function positionsOf(emit: Emit, { batch, sequence, perRow }: RotatedTokens): string {
  return emit.shared(`positions ${batch} ${sequence} ${perRow}`, () => {
    const rows = perRow ? dimMul(batch, sequence) : sequence;
    const range = emit.call({
      op: "Range",
      inputs: [emit.sizes([0], true), emit.sizes([rows], true), emit.sizes([1], true)],
      type: { dtype: "i64", shape: [rows] },
    });
    return emit.call({
      op: perRow ? "Reshape" : "Expand",
      inputs: [range, emit.sizes([batch, sequence])],
      type: { dtype: "i64", shape: [batch, sequence] },
    });
  });
}

/** The op, of `[batch, heads, sequence, dim]` or `[batch, sequence, width]`. Gives the name of its result. */
export function emitRotation(
  emit: Emit,
  { x, type, positions, tables, interleaved, output }: {
    readonly x: string;
    readonly type: TensorType;
    readonly positions: string;
    /** Of cosines and of sines. */
    readonly tables: readonly string[];
    /** Whether an angle serves neighbours. */
    readonly interleaved?: boolean;
    readonly output?: string;
  },
): string {
  return emit.call({
    op: "RotaryEmbedding",
    domain: "com.microsoft",
    inputs: [x, positions, ...tables],
    type,
    ...(interleaved ? { attributes: { interleaved: int(1) } } : {}),
    ...(output === undefined ? {} : { output }),
  });
}
