/**
 * Ops that put elements where an index tensor says. Where updates are joined with what is there, each element of the result looks for those
 * that are its own, so that the sum has one order and all ranks get the same bits; an atomic addition has none.
 */
import { intOf, stringOf } from "../../graph/attributes.ts";
import { axisOf, count, input, inputOf, output, stridesOf, unknownForm, whole } from "./access.ts";
import { pointer } from "./gathers.ts";
import type { Access, KernelContext, Lowered, Lowering, Reduction, RowsStep } from "./kernel.ts";
import { copy } from "./moves.ts";

/** How an update is joined with what is there; undefined where it takes its place. */
function joinOf(context: KernelContext): Pick<Reduction, "init" | "combine"> | undefined {
  const how = stringOf(context.attributes, "reduction") ?? "none";
  if (how === "none") return undefined;
  if (how === "add") return { init: "0", combine: "a + b" };
  if (how === "mul") return { init: "1", combine: "a * b" };
  // What no update touches is joined with itself.
  if (how === "max") return { init: "x0", combine: "f_max(a, b)" };
  if (how === "min") return { init: "x0", combine: "f_min(a, b)" };
  throw unknownForm(context, `reduction "${how}"`);
}

/** A row for each element of the result (`x0` before): `isOwn` tells its updates from the others, `value` reads one. */
function joinedRows(
  context: KernelContext,
  { init, combine }: Pick<Reduction, "init" | "combine">,
  o: Pick<RowsStep, "outer" | "inner" | "reads" | "params"> & { readonly isOwn: string; readonly value?: string },
): RowsStep {
  const { outer, inner, reads, params = {}, isOwn, value = "x1" } = o, write = whole(output(context), outer);
  const isOld = init === "x0", neutral = isOld ? "x0" : `(decltype(x0))${init}`;
  return {
    kind: "rows",
    outer,
    inner,
    reads,
    reductions: [{
      name: "r",
      init: isOld ? "ld(p0[a0])" : init,
      combine,
      value: `(${isOwn}) ? ${value} : ${neutral}`,
    }],
    writes: [{
      access: { ...write, strides: [...write.strides, ...inner.map(() => 0)] },
      expression: combine.replace(/\ba\b/, "x0").replace(/\bb\b/, "r"),
      each: false,
    }],
    params,
  };
}

/** Whether a last dim of indices names an element; those that none has (`NO_INDEX`) are left out. */
function inside(name: string, depth: number): string {
  return Array.from({ length: depth }, (_, d) => `f_inside((long long)ld(p${name}[o${name} + ${d}]), n${d})`).join(
    " && ",
  );
}

function scatterNd(context: KernelContext): Lowered {
  const { shape } = inputOf(context, 0), indices = inputOf(context, 1).shape, updates = inputOf(context, 2).shape;
  const depth = indices.at(-1)!, outer = indices.length - 1, own = stridesOf(shape), at = stridesOf(indices);
  const join = joinOf(context);
  if (join) {
    // Dims of the result, then those over which the updates are spread.
    const lead = indices.slice(0, outer), none = lead.map(() => 0), rest = stridesOf(updates);
    const params: Record<string, number> = {};
    const isOwn = Array.from({ length: depth }, (_, d) => {
      params[`n${d}`] = shape[d]!;
      return `f_own((long long)ld(p2[o2 + ${d}]), n${d}, i${d})`;
    }).join(" && ");
    const reads: Access[] = [
      { operand: input(context, 0), offset: 0, strides: [...own, ...none] },
      {
        operand: input(context, 2),
        offset: 0,
        strides: [...shape.map((_, d) => (d < depth ? 0 : rest[outer + d - depth]!)), ...rest.slice(0, outer)],
      },
      { operand: input(context, 1), offset: 0, strides: [...shape.map(() => 0), ...at.slice(0, outer)] },
    ];
    return { steps: [joinedRows(context, join, { outer: shape, inner: lead, reads, params, isOwn: isOwn || "true" })] };
  }
  const { expression, params } = pointer("1", shape, depth, 0);
  const write = {
    operand: output(context),
    offset: 0,
    strides: updates.map((_, d) => (d < outer ? 0 : own[depth + d - outer]!)),
  };
  return {
    steps: [copy(shape, whole(input(context, 0), shape), whole(output(context), shape)), {
      kind: "map",
      shape: updates,
      reads: [whole(input(context, 2), updates), {
        operand: input(context, 1),
        offset: 0,
        strides: updates.map((_, d) => (d < outer ? at[d]! : 0)),
      }],
      write,
      expression: "x0",
      target: `o + ${expression}`,
      ...(depth === 0 ? {} : { when: inside("1", depth) }),
      params,
    }],
  };
}

function scatterElements(context: KernelContext): Lowered {
  const { shape } = inputOf(context, 0), updates = inputOf(context, 2).shape, own = stridesOf(shape);
  const axis = axisOf(intOf(context.attributes, "axis") ?? 0, shape.length), join = joinOf(context);
  if (join) {
    const from = stridesOf(updates), params: Record<string, number> = { size: shape[axis]! };
    // Updates may cover less than the tensor in other dims.
    const covered = updates.flatMap((size, d) => {
      if (d === axis || size === shape[d]) return [];
      params[`u${d}`] = size;
      return [`i${d} < u${d}`];
    });
    const along = (index: number): Access => ({
      operand: input(context, index),
      offset: 0,
      strides: [...from.with(axis, 0), from[axis]!],
    });
    const isOwn = [...covered, `f_own((long long)ld(p2[o2]), size, i${axis})`].join(" && ");
    return {
      steps: [joinedRows(context, join, {
        outer: shape,
        inner: [updates[axis]!],
        reads: [{ operand: input(context, 0), offset: 0, strides: [...own, 0] }, along(2), along(1)],
        params,
        isOwn,
        // Outside of what they cover, updates may not even be read.
        ...(covered.length > 0 ? { value: "ld(p1[o1])" } : {}),
      })],
    };
  }
  return {
    steps: [copy(shape, whole(input(context, 0), shape), whole(output(context), shape)), {
      kind: "map",
      shape: updates,
      reads: [whole(input(context, 2), updates), whole(input(context, 1), updates)],
      write: { operand: output(context), offset: 0, strides: own.with(axis, 0) },
      expression: "x0",
      target: "o + f_wrap(x1, size) * stride",
      when: "f_inside(x1, size)",
      params: { size: shape[axis]!, stride: own[axis]! },
    }],
  };
}

/** Rows of a cache that are written from where each sequence has come to. Source: ONNX TensorScatter-24. */
function tensorScatter(context: KernelContext): Lowered {
  const { shape } = inputOf(context, 0), update = inputOf(context, 1).shape, own = stridesOf(shape);
  const axis = axisOf(intOf(context.attributes, "axis") ?? -2, shape.length);
  const isCircular = stringOf(context.attributes, "mode") === "circular";
  const reads = [whole(input(context, 1), update)];
  if (context.inputs[2]) {
    reads.push({ operand: input(context, 2), offset: 0, strides: update.map((_, d) => (d === 0 ? 1 : 0)) });
  }
  const row = `(i${axis}${context.inputs[2] ? " + (long long)x1" : ""})`;
  return {
    steps: [copy(shape, whole(input(context, 0), shape), whole(output(context), shape)), {
      kind: "map",
      shape: update,
      reads,
      write: { operand: output(context), offset: 0, strides: own.with(axis, 0) },
      expression: "x0",
      target: `o + ${isCircular ? `${row} % size` : row} * stride`,
      ...(isCircular ? {} : { when: `${row} < size` }),
      params: { size: shape[axis]!, stride: own[axis]! },
    }],
  };
}

/** Elements of the result times those that each of them looks at: beyond this a joining scatter takes too long. */
const MOST_LOOKS = 2 ** 36;

/** A lowering that refuses what would take minutes. */
const bounded = (lower: Lowering): Lowering => (context) => {
  const lowered = lower(context);
  for (const step of lowered.steps) {
    if (step.kind !== "rows" || count(step.outer) * count(step.inner) <= MOST_LOOKS) continue;
    throw unknownForm(context, `${count(step.inner)} updates joined into each of ${count(step.outer)} elements`);
  }
  return lowered;
};

/** All lowerings that scatter, by op. */
export const SCATTERS: Readonly<Record<string, Lowering>> = {
  ScatterElements: bounded(scatterElements),
  ScatterND: bounded(scatterNd),
  TensorScatter: tensorScatter,
};
