/**
 * Where the factors of one call sit, as the planner needs it: factors that share a dim by windows are one component,
 * and layouts translate between a factor and the dims in which it sits.
 */
import { type Dim, dimDivide, dimEquals, dimKey, dimMul, symbolsOf } from "../core/dim.ts";
import { type Call, type Graph, isCall, valueOf } from "../graph/graph.ts";
import { concatLayouts, type Layout, layout, scale, unscale, window } from "../graph/layout.ts";
import type { OpDef, TypedContext } from "../ops/def.ts";
import { type At, type Factor, type FactorRule, NO_FACTORS } from "../ops/factors.ts";

/** A factor of a component at its place in a dim. */
export interface Member {
  /** Index into the component's factors. */
  readonly factor: number;
  readonly at: At;
}

/** A dim of one tensor of a call in which factors of a component sit. */
export interface Group {
  /** Inputs by position, then outputs. */
  readonly tensor: number;
  /** Name of the value. */
  readonly value: string;
  readonly dim: number;
  readonly size: Dim;
  /** In ascending order of their windows. */
  readonly members: readonly Member[];
  /** Whether the members fill the dim, so that their layouts determine the dim's. */
  readonly full: boolean;
}

/** Factors that are sharded together. */
export interface Component {
  readonly factors: readonly Factor[];
  readonly groups: readonly Group[];
}

/** A call as the planner sees it. */
export interface PlannedCall {
  readonly node: Call;
  readonly def: OpDef | undefined;
  readonly rule: FactorRule;
  readonly components: readonly Component[];
  readonly context: TypedContext;
}

/** Looks up the definition of a call's op. */
export type OpLookup = (node: Call) => OpDef | undefined;

/**
 * Whether every output of a call is a known size, so that no rank computes it: nothing to plan. A size that only data
 * determines (a symbol with `#`) is computed like any other tensor.
 */
export function isSizeCall(graph: Graph, node: Call): boolean {
  const outputs = node.outputs.filter((name) => name !== "");
  return outputs.length > 0 && outputs.every((name) => {
    const { ints } = valueOf(graph, name);
    return ints?.elements.every((e) => ![...symbolsOf(e)].some((s) => s.includes("#")));
  });
}

/** All calls that compute tensors, with their factors. A call with a tensor of unknown shape has none. */
export function plannedCalls(graph: Graph, opDef: OpLookup): PlannedCall[] {
  return graph.nodes.filter(isCall).filter((node) => !isSizeCall(graph, node)).map((node) => {
    const def = opDef(node);
    const value = (name: string) => (name === "" ? undefined : valueOf(graph, name));
    const context: TypedContext = {
      node,
      attributes: node.attributes,
      opset: graph.opsets.get(node.domain) ?? def?.since ?? 1,
      inputs: node.inputs.map((name) => value(name)?.type),
      ints: node.inputs.map((name) => value(name)?.ints),
      outputs: node.outputs.map((name) => value(name)?.type),
    };
    const typed = [...context.inputs, ...context.outputs].every((t) => t === undefined || t.shape !== undefined);
    const rule = typed && def?.factors && !node.captures?.length ? def.factors(context) : NO_FACTORS;
    return { node, def, rule, context, components: componentsOf(graph, node, rule) };
  });
}

/** Groups the factors of a rule into components. */
function componentsOf(graph: Graph, node: Call, rule: FactorRule): Component[] {
  const names = [...node.inputs, ...node.outputs];
  const places = rule.factors.map((f) => [...f.inputs, ...f.outputs]);
  const root = rule.factors.map((_, i) => i);
  const find = (i: number): number => (root[i] === i ? i : (root[i] = find(root[i]!)));
  for (let i = 0; i < places.length; i++) {
    for (let j = 0; j < i; j++) {
      const linked = places[i]!.some((a, t) => {
        const b = places[j]![t];
        return a && b && a.dim === b.dim && disjoint(a, rule.factors[i]!.size, b, rule.factors[j]!.size);
      });
      if (linked) root[find(i)] = find(j);
    }
  }
  const roots = [...new Set(rule.factors.map((_, i) => find(i)))];
  return roots.map((r) => {
    const indices = rule.factors.flatMap((_, i) => (find(i) === r ? [i] : []));
    const factors = indices.map((i) => rule.factors[i]!);
    const groups = new Map<string, { tensor: number; dim: number; members: Member[] }>();
    indices.forEach((i, factor) =>
      places[i]!.forEach((at, tensor) => {
        if (!at || names[tensor] === "" || names[tensor] === undefined) return;
        const key = `${tensor}:${at.dim}`;
        const group = groups.get(key) ?? { tensor, dim: at.dim, members: [] };
        group.members.push({ factor, at });
        groups.set(key, group);
      })
    );
    return {
      factors,
      groups: [...groups.values()].map(({ tensor, dim, members }) => {
        const value = names[tensor]!;
        const size = valueOf(graph, value).type.shape![dim]!;
        members.sort((a, b) => a.at.offset - b.at.offset);
        return { tensor, value, dim, size, members, full: fills(members, factors, size) };
      }),
    };
  });
}

/** The half-open window of a factor in its dim, where both ends are numbers. */
export function windowOf(at: At, size: Dim): readonly [number, number] | undefined {
  return typeof size === "number" && at.outer === 1 ? [at.offset, at.offset + size * at.inner] : undefined;
}

function disjoint(a: At, aSize: Dim, b: At, bSize: Dim): boolean {
  const x = windowOf(a, aSize), y = windowOf(b, bSize);
  return x !== undefined && y !== undefined && (x[1] <= y[0] || y[1] <= x[0]);
}

function fills(members: readonly Member[], factors: readonly Factor[], size: Dim): boolean {
  if (members.length === 1) {
    const { at, factor } = members[0]!;
    return at.offset === 0 && dimEquals(dimMul(dimMul(at.outer, factors[factor]!.size), at.inner), size);
  }
  let end = 0;
  for (const { at, factor } of members) {
    const w = windowOf(at, factors[factor]!.size);
    if (!w || w[0] !== end) return false;
    end = w[1];
  }
  return end === size;
}

/** The layout of a factor of `size` units at `at` in a dim that is cut by `l`; undefined where `l` cuts inside a unit. */
export function factorLayout(l: Layout, at: At, size: Dim): Layout | undefined {
  const block = factorBlock(l, at, size);
  return block && unscale(block, at.inner);
}

/** The part of a dim's layout that belongs to a factor, still in elements of the dim. */
export function factorBlock(l: Layout, at: At, size: Dim): Layout | undefined {
  const outer = dimDivide(l.outer, at.outer);
  if (outer === undefined) return undefined;
  if (at.offset === 0 && dimEquals(dimMul(outer, l.size), dimMul(size, at.inner))) {
    return at.outer === 1 ? l : layout(l.size, l.parts, outer);
  }
  const w = windowOf(at, size);
  return w && l.outer === 1 && w[1] <= l.size ? window(l, w[0], w[1]) : undefined;
}

/** The layout of the elements that a factor's layout occupies at a place. */
export function placeLayout(factor: Layout, at: At): Layout {
  const scaled = at.inner === 1 ? factor : scale(factor, at.inner);
  return at.outer === 1 ? scaled : layout(scaled.size, scaled.parts, dimMul(at.outer, scaled.outer));
}

/** The layout of a dim that its members fill, from theirs; undefined where parts of a fused dim repeat. */
export function dimLayout(group: Group, factors: ReadonlyMap<number, Layout>): Layout | undefined {
  const parts: Layout[] = [];
  for (const { factor, at } of group.members) {
    const l = factors.get(factor);
    if (!l) return undefined;
    parts.push(placeLayout(l, at));
  }
  if (parts.length === 1) return parts[0];
  return parts.every((l) => l.outer === 1) ? concatLayouts(parts) : undefined;
}

/** Whether a layout is one of a dim of this size. */
export function fitsDim(l: Layout, size: Dim): boolean {
  return dimKey(dimMul(l.outer, l.size)) === dimKey(size);
}
