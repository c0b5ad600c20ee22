/**
 * The targets of Reshape and Expand on one rank, where data decides a size of them: what the model computes, with the size of the
 * dim that is cut replaced by the rank's own.
 *
 * ```text
 * Reshape(%x, Concat(2, %count, 6, 4)), cut into heads   ->   Concat(Slice(%target, 0…1), Slice(%target, 1…2), 3, 4)
 * ```
 */
import type { Dim } from "../core/dim.ts";
import { int } from "../graph/attributes.ts";
import type { LocalizeContext } from "./def.ts";
import { isDataDependent } from "./known_ints.ts";

/** The elements of input 1 as one int64 tensor each, that of a size that no data decides as in `local`. */
function elements({ emit, names }: LocalizeContext, local: readonly Dim[], offset = 0): string[] {
  return local.map((size, i) => (isDataDependent(size) ? element(emit, names[1]!, i - offset) : emit.sizes([size])));
}

function element(emit: LocalizeContext["emit"], of: string, i: number): string {
  return emit.op("Slice", [of, emit.sizes([i]), emit.sizes([i + 1]), emit.sizes([0])]);
}

function joined(emit: LocalizeContext["emit"], parts: readonly string[]): string {
  return emit.op("Concat", parts, { axis: int(0) });
}

/** The target of an Expand to `local`. */
export function dataSizedExpansion(context: LocalizeContext, local: readonly Dim[]): string {
  const length = context.inputs[1]?.shape?.[0];
  const offset = typeof length === "number" ? local.length - length : 0;
  return joined(context.emit, elements(context, local, offset).slice(offset));
}

/** The target of a Reshape to `local`, in which a 0 is the size of an empty part. */
export function dataSizedReshape(context: LocalizeContext, local: readonly Dim[], copies: boolean): string {
  const { emit, names } = context;
  const given = context.ints[1]?.elements ?? [], parts = elements(context, local);
  given.forEach((size, i) => {
    if (copies && size === 0 && isDataDependent(local[i]!)) {
      parts[i] = element(emit, emit.op("Shape", [names[0]!]), i);
    }
  });
  const open = given.findIndex((size, i) => size === -1 && isDataDependent(local[i]!));
  // Of no elements the open size cannot be told: it is that of whole tensors.
  if (open >= 0 && local.includes(0)) parts[open] = openSize(context, parts, open);
  return joined(emit, parts);
}

/** The size that a target leaves open, by what whole tensors have of the dim that is cut here. */
function openSize(context: LocalizeContext, parts: readonly string[], open: number): string {
  const { emit, names } = context, [x] = context.inputTensors, [y] = context.outputTensors;
  const shape = emit.op("Shape", [names[0]!]);
  const had = (x?.localShape ?? []).map((size, i) => {
    const whole = x!.type.shape![i]!;
    return size === 0 || !isDataDependent(whole) ? emit.sizes([whole]) : element(emit, shape, i);
  });
  const rest = parts.flatMap((part, i) =>
    i === open ? [] : [y?.localShape?.[i] === 0 ? emit.sizes([y.type.shape![i]!]) : part]
  );
  const product = (sizes: readonly string[]) => emit.op("ReduceProd", [joined(emit, sizes)]);
  return emit.op("Div", [product(had), product(rest.length > 0 ? rest : [emit.sizes([1])])]);
}
