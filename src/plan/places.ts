/**
 * Where the factors of one call sit, as the planner needs it: factors that share a dim by windows are one component,
 * and layouts translate between a factor and the dims in which it sits.
 *
 * A model of equal blocks calls the same few things again and again. What follows from a call's op, attributes and types
 * is its {@linkcode CallShape}, one object for all equal calls, so that whatever is found out about it is found once.
 */
import { dependsOnData, type Dim, dimDivide, dimEquals, dimKey, dimMul } from "../core/dim.ts";
import { type Attributes, type Call, type Graph, isCall, opKey, type Value, valueOf } from "../graph/graph.ts";
import {
  concatLayouts,
  isEvenlyShared,
  isPartition,
  type Layout,
  layout,
  scale,
  unscale,
  unscaleCovering,
  window,
} from "../graph/layout.ts";
import { printType } from "../graph/types.ts";
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
  /** Whether a layout may have parts that several ranks hold: not where activations meet in heavy work, done twice then. */
  readonly shares: boolean;
  /** See {@linkcode FactorRule.alike}. */
  readonly alike: boolean;
  /** By factor: the most of its units that share one of a dim, see {@linkcode At.shared}. */
  readonly sharing: readonly number[];
}

/** What equal calls have in common; calls of equal shapes have the same object. */
export interface CallShape {
  readonly id: number;
  readonly def: OpDef | undefined;
  readonly rule: FactorRule;
  readonly components: readonly Component[];
  /** Of the first such call. */
  readonly context: TypedContext;
  /** How many inputs there are; tensors are inputs, then outputs. */
  readonly inputs: number;
  /** By tensor: whether it is constant data. */
  readonly constant: readonly boolean[];
  /** By tensor: whether its content is a known size, so that no rank computes it. */
  readonly known: readonly boolean[];
}

/** A call as the planner sees it. */
export interface PlannedCall {
  readonly node: Call;
  /** Names of the values by tensor: inputs, then outputs. */
  readonly names: readonly string[];
  readonly shape: CallShape;
}

/** Looks up the definition of a call's op. */
export type OpLookup = (node: Call) => OpDef | undefined;

/** All calls that compute tensors, with their factors. A call with a tensor of unknown shape has none. */
export function plannedCalls(graph: Graph, opDef: OpLookup): PlannedCall[] {
  const shapes = new CallShapes(graph, opDef);
  return graph.nodes.filter(isCall).filter((node) => !isSizeCall(graph, node)).map((node) => ({
    node,
    names: [...node.inputs, ...node.outputs],
    shape: shapes.of(node),
  }));
}

/**
 * Whether every output of a call is a known size, so that no rank computes it: nothing to plan. A size that only data
 * determines (a symbol with `#`) is computed like any other tensor.
 */
function isSizeCall(graph: Graph, node: Call): boolean {
  const outputs = node.outputs.filter((name) => name !== "");
  return outputs.length > 0 && outputs.every((name) => {
    const { ints } = valueOf(graph, name);
    return ints !== undefined && !ints.elements.some(dependsOnData);
  });
}

/** Finds the shape of each call. */
class CallShapes {
  readonly #graph: Graph;
  readonly #opDef: OpLookup;
  readonly #constants: ReadonlySet<string>;
  readonly #known = new Map<string, CallShape>();
  /** Numbers of what matters of a value, and of attributes that are no plain data. */
  readonly #kinds = new Map<string, number>();
  readonly #values = new Map<string, number>();
  readonly #objects = new Map<object, number>();

  constructor(graph: Graph, opDef: OpLookup) {
    this.#graph = graph;
    this.#opDef = opDef;
    this.#constants = new Set(graph.nodes.flatMap((n) => (n.kind === "get_attr" ? n.outputs : [])));
  }

  of(node: Call): CallShape {
    const values = (names: readonly string[]) => names.map((name) => this.#valueKind(name)).join();
    // What a subgraph captures is read like an input, but has no place in the factors: such calls are each their own.
    const own = node.captures?.length ? node.name : "";
    const key = `${opKey(node)};${values(node.inputs)};${values(node.outputs)};${own};${
      this.#attributes(node.attributes)
    }`;
    let shape = this.#known.get(key);
    if (!shape) this.#known.set(key, shape = this.#make(node));
    return shape;
  }

  #make(node: Call): CallShape {
    const graph = this.#graph, def = this.#opDef(node);
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
    const names = [...node.inputs, ...node.outputs];
    const constant = names.map((name) => this.#constants.has(name));
    const mayShare = (groups: readonly Group[]) =>
      def?.flops === undefined || groups.every((g) => g.tensor >= node.inputs.length || constant[g.tensor]);
    return {
      id: this.#known.size,
      def,
      rule,
      context,
      inputs: node.inputs.length,
      constant,
      known: names.map((name) => value(name)?.ints !== undefined),
      components: componentsOf(names.map((name) => value(name)), rule).map((c) => ({
        ...c,
        shares: mayShare(c.groups),
        alike: rule.alike === true,
        sharing: sharingOf(c.factors, rule.alike === true),
      })),
    };
  }

  /** A number for everything of a value that a call's shape depends on; -1 for a value that is left out. */
  #valueKind(name: string): number {
    if (name === "") return -1;
    let kind = this.#values.get(name);
    if (kind === undefined) {
      const { type, ints } = valueOf(this.#graph, name);
      const content = ints ? `=[${ints.dims}](${ints.elements.map(dimKey).join()})` : "";
      const text = `${this.#constants.has(name) ? "const " : ""}${printType(type)}${content}`;
      kind = this.#kinds.get(text) ?? this.#kinds.size;
      this.#kinds.set(text, kind);
      this.#values.set(name, kind);
    }
    return kind;
  }

  #attributes(attributes: Attributes): string {
    let text = "";
    for (const [name, { kind, value }] of Object.entries(attributes)) {
      if (kind === "tensor" || kind === "graph") {
        const id = this.#objects.get(value) ?? this.#objects.size;
        this.#objects.set(value, id);
        text += `${name}=${kind}#${id};`;
      } else text += `${name}=${kind}:${JSON.stringify(value)};`;
    }
    return text;
  }
}

/** Groups the factors of a rule into components. */
function componentsOf(
  values: readonly (Value | undefined)[],
  rule: FactorRule,
): Pick<Component, "factors" | "groups">[] {
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
        if (!at || !values[tensor]) return;
        const key = `${tensor}:${at.dim}`;
        const group = groups.get(key) ?? { tensor, dim: at.dim, members: [] };
        group.members.push({ factor, at });
        groups.set(key, group);
      })
    );
    return {
      factors,
      groups: [...groups.values()].map(({ tensor, dim, members }) => {
        const size = values[tensor]!.type.shape![dim]!;
        members.sort((a, b) => a.at.offset - b.at.offset);
        return { tensor, dim, size, members, full: fills(members, factors, size) };
      }),
    };
  });
}

function sharingOf(factors: readonly Factor[], alike: boolean): number[] {
  const own = factors.map((f) => Math.max(...[...f.inputs, ...f.outputs].map((a) => a?.shared ?? 1)));
  return alike ? own.map(() => Math.max(...own)) : own;
}

/** Whether a layout may be chosen for a factor of a component. */
function isAllowed({ shares, sharing }: Component, factor: number, l: Layout): boolean {
  return (shares || isPartition(l)) && isEvenlyShared(l, sharing[factor]!);
}

/**
 * The layouts of the factors that a cut of one dim tells, by factor; of those that are alike, all. Without those of which the dim
 * has no whole units on some rank. Undefined where the component cannot be cut so.
 */
export function factorLayouts(component: Component, group: Group, l: Layout): Map<number, Layout> | undefined {
  const { factors, alike } = component;
  const told = new Map<number, Layout>();
  for (const { factor, at } of group.members) {
    const own = factorLayout(l, at, factors[factor]!.size);
    if (own && !isAllowed(component, factor, own)) return undefined;
    if (own) told.set(factor, own);
  }
  if (!alike || told.size === 0) return told;
  // Where a dim is coarser than the factors are, it tells less than the others do.
  const finest = group.members.find(({ factor, at }) => at.shared === 1 && told.has(factor));
  const one = finest ? told.get(finest.factor)! : [...told.values()][0]!;
  const fits = group.members.every(({ factor, at }) =>
    factorBlock(l, at, factors[factor]!.size)?.key === placeLayout(one, at).key
  );
  return fits ? new Map(factors.map((_, i) => [i, one])) : undefined;
}

/** Whether the dim follows from one factor. */
export function isSimple(group: Group): boolean {
  return group.full && group.members.length === 1;
}

/** The half-open window of a factor in its dim, where both ends are numbers. */
export function windowOf(at: At, size: Dim): readonly [number, number] | undefined {
  return typeof size === "number" && at.outer === 1
    ? [at.offset, at.offset + (size / at.shared) * at.inner]
    : undefined;
}

function disjoint(a: At, aSize: Dim, b: At, bSize: Dim): boolean {
  const x = windowOf(a, aSize), y = windowOf(b, bSize);
  return x !== undefined && y !== undefined && (x[1] <= y[0] || y[1] <= x[0]);
}

function fills(members: readonly Member[], factors: readonly Factor[], size: Dim): boolean {
  if (members.length === 1) {
    const { at, factor } = members[0]!;
    return at.offset === 0 && dimEquals(dimMul(at.outer, elementsOf(at, factors[factor]!.size)), size);
  }
  let end = 0;
  for (const { at, factor } of members) {
    const w = windowOf(at, factors[factor]!.size);
    if (!w || w[0] !== end) return false;
    end = w[1];
  }
  return end === size;
}

/** How many elements of its dim a factor of `size` units takes, once. */
function elementsOf(at: At, size: Dim): Dim {
  const units = at.shared === 1 ? size : dimDivide(size, at.shared);
  return dimMul(units ?? size, at.inner);
}

/**
 * The layout of a factor of `size` units at `at` in a dim that is cut by `l`; undefined where `l` cuts inside a unit, or does not tell
 * which of the units that share one of the dim a rank has.
 */
function factorLayout(l: Layout, at: At, size: Dim): Layout | undefined {
  const block = factorBlock(l, at, size), units = block && unscale(block, at.inner);
  if (!units || at.shared === 1) return units;
  return isPartition(units) ? scale(units, at.shared) : undefined;
}

/** The part of a dim's layout that belongs to a factor, still in elements of the dim. */
export function factorBlock(l: Layout, at: At, size: Dim): Layout | undefined {
  const outer = dimDivide(l.outer, at.outer);
  if (outer === undefined) return undefined;
  if (at.offset === 0 && dimEquals(dimMul(outer, l.size), elementsOf(at, size))) {
    return at.outer === 1 ? l : layout(l.size, l.parts, outer);
  }
  const w = windowOf(at, size);
  return w && l.outer === 1 && w[1] <= l.size ? window(l, w[0], w[1]) : undefined;
}

/** The layout of the elements that a factor's layout occupies at a place; units that are shared are on every rank that needs them. */
export function placeLayout(factor: Layout, at: At): Layout {
  const units = at.shared === 1 ? factor : unscaleCovering(factor, at.shared)!;
  const scaled = at.inner === 1 ? units : scale(units, at.inner);
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
