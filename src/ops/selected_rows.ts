/** Rows of a table that indices select, when each rank holds some of the rows: what Gather and Embedding emit. */
import type { Dim } from "../core/dim.ts";
import { int, tensor } from "../graph/attributes.ts";
import { inlineData } from "../graph/builder.ts";
import type { DType } from "../core/dtype.ts";
import { byteLength } from "../core/dtype.ts";
import type { Range } from "../graph/layout.ts";
import type { LocalEmitter, LocalizeContext } from "./def.ts";

/** A tensor of zeros of a local shape. */
export function emitZeros(emit: LocalEmitter, dtype: DType, shape: readonly Dim[]): string {
  const value = inlineData(dtype, [1], new Uint8Array(byteLength(dtype, 1)));
  return emit.op("ConstantOfShape", [emit.sizes(shape)], { value: tensor(value) });
}

/** Where global indices lie in a rank's part. */
export interface LocalIndices {
  /** Local index of every global one; 0 for what the rank does not hold. */
  readonly index: string;
  /** Which the rank holds: a bool tensor. */
  readonly held: string;
}

/** Renumbers global indices (local value `ids`, none negative) to those of the given ranges, laid end to end. */
export function emitLocalIndices(
  emit: LocalEmitter,
  ids: string,
  options: { readonly dtype: DType; readonly ranges: readonly Range[] },
): LocalIndices {
  let index: string | undefined, held: string | undefined, before = 0;
  const zero = emit.scalar(options.dtype, 0);
  for (const [start, end] of options.ranges) {
    const inside = emit.op("And", [
      // GreaterOrEqual came with opset 12.
      emit.op("Greater", [ids, emit.scalar(options.dtype, start - 1)]),
      emit.op("Less", [ids, emit.scalar(options.dtype, end)]),
    ]);
    const shift = start - before;
    const moved = shift === 0 ? ids : emit.op("Sub", [ids, emit.scalar(options.dtype, shift)]);
    index = emit.op("Where", [inside, moved, index ?? zero]);
    held = held === undefined ? inside : emit.op("Or", [held, inside]);
    before += end - start;
  }
  if (index === undefined || held === undefined) {
    throw new RangeError("Cannot renumber indices: the rank holds no rows");
  }
  return { index, held };
}

/** Which rows of which table, by input position. */
export interface SelectedRows {
  readonly table: number;
  readonly ids: number;
  /** Whether negative indices count from the end. */
  readonly wrap: boolean;
  /** Emits the rows at local indices, all of which the rank holds; a Gather of the table by default. */
  readonly select?: (index: string) => string;
}

/**
 * The rows of local table `names.table` (`[rows, ...]`, cut along dim 0) at global indices; zeros for rows that the rank
 * does not hold. Exact for uneven and empty parts.
 */
export function emitSelectedRows(context: LocalizeContext, options: SelectedRows): string {
  const { emit, names, rank } = context;
  const table = context.inputTensors[options.table]!, ids = context.inputTensors[options.ids]!;
  const shape = context.outputTensors[0]!.localShape!;
  const dtype = context.outputs[0]!.dtype!;
  if (table.placement.kind !== "S") throw new RangeError("Cannot select rows: the table is not sharded");
  const { layout } = table.placement;
  const ranges = layout.parts[rank]!;
  if (ranges.length === 0) return emitZeros(emit, dtype, shape);
  const idType = ids.type.dtype!;
  let global = names[options.ids]!;
  if (options.wrap) {
    const wrapped = emit.op("Add", [global, emit.scalar(idType, layout.size)]);
    global = emit.op("Where", [emit.op("Less", [global, emit.scalar(idType, 0)]), wrapped, global]);
  }
  const { index, held } = emitLocalIndices(emit, global, { dtype: idType, ranges });
  const rows = options.select?.(index) ?? emit.op("Gather", [names[options.table]!, index], { axis: int(0) });
  const trailing = shape.length - (ids.localShape ?? []).length;
  // As a Reshape, since the form of Unsqueeze depends on the opset; a 0 copies the dim.
  const target = [...(ids.localShape ?? []).map(() => 0), ...Array.from({ length: trailing }, () => 1)];
  const mask = emit.op("Reshape", [held, emit.sizes(target)]);
  return emit.op("Where", [mask, rows, emit.scalar(dtype, 0)]);
}
