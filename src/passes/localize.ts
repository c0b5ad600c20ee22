/**
 * `sharded` → `local`: one rank's part of a graph.
 *
 * Types become local, constants become the rank's slices, layers become ops, and sizes that shapes are built from are
 * re-emitted with local values; collectives that communicate stay nodes, the others (slice, mask) become ops. Every
 * local type is inferred anew and held against the placement, so that a rule that is wrong fails here and not in the
 * numbers.
 */
import { dependsOnData, type Dim, dimEquals, dimMul } from "../core/dim.ts";
import { GraphError } from "../core/errors.ts";
import { int } from "../graph/attributes.ts";
import { type Call, type Collective, type Graph, isCall, readsOf, type Value, valueOf } from "../graph/graph.ts";
import { flatten, isWhole, type Layout, localIndex, localSize, type Range } from "../graph/layout.ts";
import { localShape, printPlacement, REPLICATE } from "../graph/placement.ts";
import { printType, type Shape } from "../graph/types.ts";
import type { LocalizeContext, LocalTensor } from "../ops/def.ts";
import { inferredTarget } from "../ops/known_ints.ts";
import { opDef } from "../ops/table.ts";
import { LocalBuilder } from "./local_builder.ts";
import { LocalSlices } from "./local_data.ts";

/** How a rank's part is made. */
export interface LocalizeOptions {
  /** Emit no fused op that has `OpDef.limits`; default false. */
  readonly plain?: boolean;
  /** The rank's parts of constants, where another graph shares them. */
  readonly slices?: LocalSlices;
}

/** Rank `rank`'s part of `graph`. */
export function localize(
  graph: Graph<"sharded">,
  rank: number,
  ranks: number,
  { plain = false, slices = new LocalSlices(rank) }: LocalizeOptions = {},
): Graph<"local"> {
  const builder = new LocalBuilder(graph, rank);
  const data = new Set(graph.nodes.flatMap((node) => (node.kind === "get_attr" ? node.outputs : [])));
  /** Names in the local graph of the sharded graph's values. */
  const names = new Map<string, string>();
  const local = (name: string) => (name === "" ? "" : names.get(name) ?? name);

  function tensor(name: string): LocalTensor | undefined {
    if (name === "") return undefined;
    const { type, placement = REPLICATE } = valueOf(graph, name);
    return { type, placement, localShape: type.shape && localShape(type.shape, placement, rank) };
  }

  function call(node: Call): void {
    const definition = opDef(node);
    const values = (list: readonly string[]) => list.map((n) => (n === "" ? undefined : valueOf(graph, n)));
    const inputs = values(node.inputs), outputs = values(node.outputs);
    const context: LocalizeContext = {
      node,
      attributes: node.attributes,
      opset: graph.opsets.get(node.domain) ?? 1,
      inputs: inputs.map((v) => v?.type),
      outputs: outputs.map((v) => v?.type),
      ints: inputs.map((v) => v?.ints),
      inputTensors: node.inputs.map(tensor),
      outputTensors: node.outputs.map(tensor),
      constants: node.inputs.map((name) => data.has(name)),
      names: node.inputs.map(local),
      rank,
      ranks,
      onnxOpset: graph.opsets.get("") ?? 17,
      emit: builder.emitter(node.name),
      plain,
    };
    const sharded = [...inputs, ...outputs].some((v) => v?.placement && v.placement.kind === "S");
    // Our own ops run on no engine as they are.
    const isAsked = sharded || node.domain === "shardwise" || definition?.localizesWhole?.(context);
    const produced = empty(context) ??
      (definition?.localize && isAsked ? definition.localize(context) : copy(node, outputs));
    node.outputs.forEach((name, i) => {
      if (name === "") return;
      names.set(name, produced[i]!);
      check(node, valueOf(graph, name), produced[i]!);
    });
  }

  /**
   * Where a rank holds nothing of a sharded dim, its results are empty, or zeros to the sum: made as such, as engines do
   * not agree on what an op does with empty tensors.
   */
  function empty(context: LocalizeContext): string[] | undefined {
    const isEmpty = (t: LocalTensor | undefined) =>
      t?.placement.kind === "S" && localSize(t.placement.layout, rank) === 0;
    if (![...context.inputTensors, ...context.outputTensors].some(isEmpty)) return undefined;
    const made = context.outputTensors.map((t) => {
      if (!t) return "";
      const zeros = isEmpty(t) || (t.placement.kind === "P" && t.placement.reduction === "sum");
      const known = t.localShape && !t.localShape.some(dependsOnData);
      return zeros && known && t.type.dtype ? builder.zeros(t.type.dtype, t.localShape) : undefined;
    });
    return made.includes(undefined) ? undefined : made as string[];
  }

  /** The node itself, on local inputs. Types that inference leaves open are the global ones, if nothing is sharded. */
  function copy(node: Call, outputs: readonly (Value | undefined)[]): string[] {
    const captures = new Map((node.captures ?? []).map((n) => [n, local(n)]));
    return builder.copy(node, node.inputs.map(local), { captures, fallback: outputs });
  }

  function check(node: Call, value: Value, name: string): void {
    const expected = value.type.shape && localShape(value.type.shape, value.placement ?? REPLICATE, rank);
    const found = builder.value(name)?.type.shape;
    if (!expected || !found) return;
    // Two symbols may be one size under different names; numbers must agree.
    const wrong = expected.length !== found.length ||
      expected.some((d, i) => typeof d === "number" && typeof found[i] === "number" && d !== found[i]);
    if (wrong) {
      throw new GraphError(
        `Cannot localize ${node.op} "${node.name}" on rank ${rank}: "${value.name}" ` +
          `(${printType(value.type)} @ ${
            printPlacement(value.placement ?? REPLICATE)
          }) should be [${expected}] here, ` +
          `but the local op gives [${found}]`,
      );
    }
  }

  const levels = levelsOf(graph);
  for (const node of graph.nodes) {
    builder.level = Math.max(0, ...readsOf(node).map((name) => levels.get(name) ?? 0));
    if (node.kind === "placeholder") {
      const value = valueOf(graph, node.outputs[0]);
      const shape = tensor(value.name)!.localShape;
      builder.placeholder({ ...value, type: { dtype: value.type.dtype, shape } });
    } else if (node.kind === "get_attr") {
      const value = valueOf(graph, node.outputs[0]);
      const placement = value.placement ?? REPLICATE;
      builder.getAttr(value.name, slices.of(node.data, placement), {
        ...(value.ints && placement.kind === "R" ? { ints: value.ints } : {}),
        placement,
      });
    } else if (node.kind === "collective") {
      collective(node);
    } else if (isCall(node)) {
      call(node);
    } else {
      const inputs = node.inputs.map(local);
      return builder.finish({ inputs, names: node.names }, graph.carried);
    }
  }
  throw new GraphError(`Cannot localize graph "${graph.name}": it has no output node`);

  function collective(node: Collective): void {
    const value = valueOf(graph, node.outputs[0]);
    const input = local(node.inputs[0]);
    const emit = builder.emitter(node.name);
    if (node.collective === "mask") {
      const shape = value.type.shape;
      if (rank === 0) return void names.set(value.name, input);
      if (!shape) throw new GraphError(`Cannot mask "${node.inputs[0]}" on rank ${rank}: its shape is not known`);
      const dtype = value.type.dtype ?? "f32";
      const zeros = shape.some(dependsOnData)
        ? emit.op("Expand", [builder.scalar(dtype, 0), emit.op("Shape", [input])])
        : builder.zeros(dtype, shape);
      return void names.set(value.name, zeros);
    }
    if (node.collective === "slice") {
      const shape = tensor(node.inputs[0])!.localShape;
      if (!shape) throw new GraphError(`Cannot slice "${node.inputs[0]}": its shape is not known`);
      const { dim, layout } = node.shard!;
      return void names.set(value.name, sliceLocally(input, { shape, dim, layout, from: node.from }));
    }
    names.set(
      value.name,
      emit.collective(node.collective, input, {
        ...(node.shard ? { shard: node.shard } : {}),
        ...(node.reduction ? { reduction: node.reduction } : {}),
      }),
    );
  }

  /** The rank's ranges of `layout`, cut from a tensor that is whole, or laid out as `from`. */
  function sliceLocally(
    input: string,
    cut: { shape: Shape; dim: number; layout: Layout; from: Layout | undefined },
  ): string {
    const { dim } = cut, layout = flatten(cut.layout), from = cut.from && flatten(cut.from);
    if (isWhole(layout) && !from) return input;
    const emit = builder.emitter(`${input}.slice`);
    const ranges = layout.parts[rank]!.map(([a, b]): Range =>
      from ? [localIndex(from, rank, a)!, localIndex(from, rank, b - 1)! + 1] : [a, b]
    );
    if (dimEquals(layout.outer, 1)) return pieces(input, dim, ranges);
    // A merged dim [outer · block]: open it, cut the block, merge again.
    const block = from ? localSize(from, rank) : layout.size;
    const before = cut.shape.slice(0, dim), after = cut.shape.slice(dim + 1);
    const target = inferredTarget([...before, layout.outer, block, ...after]);
    const opened = emit.op("Reshape", [input, emit.sizes(target)]);
    const kept = pieces(opened, dim + 1, ranges);
    const merged: Dim = dimMul(layout.outer, localSize(layout, rank));
    return emit.op("Reshape", [kept, emit.sizes(inferredTarget([...before, merged, ...after]))]);
  }

  function pieces(input: string, dim: number, ranges: readonly Range[]): string {
    const emit = builder.emitter(`${input}.slice`);
    const list = ranges.length > 0 ? ranges : [[0, 0] as Range];
    const parts = list.map(([a, b]) => emit.op("Slice", [input, emit.sizes([a]), emit.sizes([b]), emit.sizes([dim])]));
    return parts.length === 1 ? parts[0]! : emit.op("Concat", parts, { axis: int(dim) });
  }
}

/** For every value, how many communicating collectives come before it on the longest way. */
function levelsOf(graph: Graph<"sharded">): Map<string, number> {
  const levels = new Map<string, number>();
  for (const node of graph.nodes) {
    const before = Math.max(0, ...readsOf(node).map((name) => levels.get(name) ?? 0));
    const local = node.kind !== "collective" || node.collective === "slice" || node.collective === "mask";
    for (const name of node.outputs) if (name !== "") levels.set(name, before + (local ? 0 : 1));
  }
  return levels;
}
