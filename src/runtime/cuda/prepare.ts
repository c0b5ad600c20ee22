/**
 * What each unit of a local graph launches at given sizes. When sizes change from step to step, as in generation, most do not notice:
 * what was prepared for them stays.
 */
import type { DType } from "../../core/dtype.ts";
import { type Bindings, evalDim, symbolsOf } from "../../core/dim.ts";
import { GraphError } from "../../core/errors.ts";
import { type Call, type Collective, type Graph, isCall, valueOf } from "../../graph/graph.ts";
import type {
  AliasStep,
  CodeStep,
  GemmStep,
  KernelContext,
  KernelTensor,
  Lowered,
  MapStep,
  Operand,
  RowsStep,
} from "../../ops/kernels/kernel.ts";
import { stridesOf } from "../../ops/kernels/access.ts";
import { withBounds } from "../../ops/kernels/bounded.ts";
import { growthOf, loweringOf } from "../../ops/kernels/table.ts";
import { collectiveSteps, type Exchange } from "./collectives.ts";
import { codeLaunch } from "./code_text.ts";
import { fuseMaps, withOperands } from "./fuse_maps.ts";
import { fuseRows } from "./fuse_rows.ts";
import { ARGUMENT_BYTES, argumentBytes, type Launch } from "./kernel_arguments.ts";
import { mapLaunch, rowsLaunch } from "./kernel_text.ts";
import { KernelTexts } from "./kernel_texts.ts";
import type { GrowingState, Unit } from "./units.ts";

/** One thing that the GPU does. */
export type Work =
  | { readonly kind: "kernel"; readonly launch: Launch }
  | { readonly kind: "gemm"; readonly step: GemmStep }
  | { readonly kind: "exchange"; readonly exchange: Exchange };

/** A unit at given sizes. */
export interface Prepared {
  readonly works: readonly Work[];
  readonly aliases: readonly AliasStep[];
  readonly scratch: readonly KernelTensor[];
}

/** Who runs the graph, and how values are held. */
export interface PrepareTarget {
  readonly rank: number;
  readonly ranks: number;
  readonly held: (dtype: DType) => DType;
  /** States that grow in place where there is room, by the value that extends them. */
  readonly growing: ReadonlyMap<string, GrowingState>;
}

/** Sizes of a step. */
export interface StepSizes {
  readonly bindings: Bindings;
  /** Where states grow in place: the length of their memory. */
  readonly room?: number | undefined;
}

/** What depends on some symbols. */
interface Dependents {
  readonly names: readonly string[];
  readonly units: readonly Unit[];
  /** Of how many units these are. */
  readonly among: number;
}

/** The units of a graph at the sizes of the last `bind`. */
export class Preparer {
  readonly #graph: Graph<"local">;
  readonly #target: PrepareTarget;
  readonly #texts = new KernelTexts();
  readonly #read: ReadonlySet<string>;
  readonly #symbols = new Map<string, ReadonlySet<string>>();
  readonly #tensors = new Map<string, KernelTensor>();
  readonly #ints = new Map<string, readonly number[] | undefined>();
  readonly #prepared = new Map<Unit, Prepared>();
  /** What calls of these sizes launch, by all that a lowering sees of them. */
  readonly #forms = new Map<string, Prepared>();
  /** The part of a call's form that does not change; null for calls that have none. */
  readonly #attributes = new Map<Call, string | null>();
  /** What depends on a set of symbols; as a text grows, it is the same set at every step. */
  readonly #dependents = new Map<string, Dependents>();
  /** All that were prepared so far. */
  readonly #units = new Set<Unit>();
  #sizes: StepSizes = { bindings: new Map() };

  constructor(graph: Graph<"local">, target: PrepareTarget) {
    this.#graph = graph;
    this.#target = target;
    this.#read = new Set(graph.nodes.flatMap((n) => ("inputs" in n ? n.inputs : [])));
  }

  /** Sets the sizes of all symbols, and forgets what depends on those that changed. */
  bind(sizes: StepSizes): void {
    const before = this.#sizes, { room } = sizes, bindings = withBounds(this.#graph, sizes.bindings);
    this.#sizes = { ...sizes, bindings };
    const changed = new Set([...bindings.keys()].filter((name) => before.bindings.get(name) !== bindings.get(name)));
    if (changed.size === 0 && room === before.room) return;
    this.#forms.clear();
    const { names, units } = this.#dependentsOf(changed);
    for (const name of names) {
      this.#tensors.delete(name);
      this.#ints.delete(name);
    }
    for (const unit of units) this.#prepared.delete(unit);
    if (room === before.room) return;
    for (const unit of this.#prepared.keys()) {
      if (unit.grows || unit.inputs.some((n) => this.#target.growing.has(n))) this.#prepared.delete(unit);
    }
  }

  /** Whether the size or the content of a value depends on one of `symbols`. */
  dependsOn(name: string, symbols: ReadonlySet<string>): boolean {
    return !this.#symbolsOf(name).isDisjointFrom(symbols);
  }

  /** Whether what a unit launches depends on one of `symbols`. */
  varies({ nodes }: Unit, symbols: ReadonlySet<string>): boolean {
    return nodes.some((node) => {
      const outer = node.kind === "collective" && node.shard ? symbolsOf(node.shard.layout.outer) : undefined;
      if (outer && !outer.isDisjointFrom(symbols)) return true;
      return [...node.inputs, ...node.outputs].some((name) => name !== "" && this.dependsOn(name, symbols));
    });
  }

  /** Type and sizes of a value. @throws {GraphError} If only data tells them. */
  tensorOf(name: string): KernelTensor {
    let tensor = this.#tensors.get(name);
    if (!tensor) {
      const { type } = valueOf(this.#graph, name), { bindings } = this.#sizes;
      const shape = type.shape?.map((d) => evalDim(d, bindings));
      if (!type.dtype || !shape || shape.includes(undefined)) {
        throw new GraphError(`Cannot place "${name}" on a GPU: only data tells its size`, {
          hint: "run this model with device cpu",
        });
      }
      this.#tensors.set(name, tensor = { dtype: this.#target.held(type.dtype), shape: shape as number[] });
    }
    return tensor;
  }

  /** The content of a small integer tensor that the host knows. */
  intsOf(name: string): readonly number[] | undefined {
    if (this.#ints.has(name)) return this.#ints.get(name);
    const found = valueOf(this.#graph, name).ints?.elements.map((e) => evalDim(e, this.#sizes.bindings));
    const ints = found === undefined || found.includes(undefined) ? undefined : found as number[];
    this.#ints.set(name, ints);
    return ints;
  }

  /** What `unit` launches; undefined for what the host knows without. @throws {GraphError} If an op does not run on a GPU. */
  prepare(unit: Unit): Prepared | undefined {
    let prepared = this.#prepared.get(unit);
    if (prepared) return prepared;
    const [node] = unit.nodes;
    if (isCall(node!)) {
      // What the host knows needs no work; it is uploaded where a kernel reads it.
      if (unit.outputs.every((n) => n === "" || this.intsOf(n) !== undefined)) return undefined;
      if (!unit.outputs.some((n) => this.isRead(n))) return undefined;
      prepared = unit.nodes.length > 1 ? this.#chain(unit) : this.#call(unit, node);
    } else prepared = this.#collective(node!);
    this.#prepared.set(unit, prepared);
    this.#units.add(unit);
    return prepared;
  }

  /** What steps that are no op of the graph launch. */
  stepsOf(lowered: Lowered): Prepared {
    return this.#lowered(lowered);
  }

  /** Whether anything reads a value. */
  isRead(name: string): boolean {
    return name !== "" && this.#read.has(name);
  }

  /** Elementwise calls, among them one that reduces rows, as one kernel; one by one where sizes, or what a kernel takes, keep them apart. */
  #chain(unit: Unit): Prepared {
    const nodes = unit.nodes as readonly Call[], contexts = nodes.map((node) => this.#contextOf(node, []));
    const forms = nodes.map((node, i) => this.#formOf(node, contexts[i]!));
    const form = unit.key === null || forms.includes(undefined) ? undefined : `${unit.key} ${forms.join("\n")}`;
    const known = form === undefined ? undefined : this.#forms.get(form);
    if (known) return known;
    const makers = new Map(nodes.map((node, k) => [node.outputs[0]!, k])), last = nodes.length - 1;
    const chain = nodes.map((node, k): MapStep | RowsStep => {
      const [step, ...more] = loweringOf(node)!(contexts[k]!).steps;
      if ((step?.kind !== "map" && step?.kind !== "rows") || more.length > 0) {
        throw new Error(`Unexpected steps of ${node.op}`);
      }
      const at = ({ of, index, dtype }: Operand): Operand => {
        const name = (of === "output" ? node.outputs : node.inputs)[index]!, maker = makers.get(name);
        if (maker !== undefined && maker !== last) return { of: "scratch", index: maker, dtype };
        return of === "output"
          ? { of, index: unit.outputs.indexOf(name), dtype }
          : { of: "input", index: unit.inputs.indexOf(name), dtype };
      };
      return withOperands(step, at);
    });
    /** By step, what others read too. */
    const kept = new Map<number, Operand>();
    nodes.slice(0, -1).forEach((node, k) => {
      const index = unit.outputs.indexOf(node.outputs[0]!);
      if (index >= 0) kept.set(k, { of: "output", index, dtype: contexts[k]!.outputs[0]!.dtype });
    });
    const one = isMaps(chain) ? fuseMaps(chain) : fuseRows(chain, kept), fused = one && this.#lowered({ steps: [one] });
    const fits = fused?.works.every((w) => w.kind === "kernel" && argumentBytes(w.launch) <= ARGUMENT_BYTES);
    const prepared = fused && fits ? fused : this.#lowered({
      steps: chain.map((s) => withOperands(s, (o) => (o.of === "scratch" ? kept.get(o.index) ?? o : o))),
      scratch: contexts.slice(0, -1).map((c) => c.outputs[0]!),
    });
    if (form !== undefined) this.#forms.set(form, prepared);
    return prepared;
  }

  #call(unit: Unit, node: Call): Prepared {
    const lowering = loweringOf(node);
    if (!lowering) {
      const name = node.domain === "" ? node.op : `${node.domain}.${node.op}`;
      throw new GraphError(`Cannot run ${name} "${node.name}" on a GPU: it has no kernel`, {
        hint: "run this model with device cpu",
      });
    }
    const { room } = this.#sizes, growth = unit.grows && room !== undefined ? growthOf(node) : [];
    const context = this.#contextOf(
      node,
      node.outputs.map((_, i) => growth.some((g) => g.output === i) ? room : undefined),
    );
    // Layers are alike: what one of them needs, all need.
    const form = this.#formOf(node, context);
    let prepared = form === undefined ? undefined : this.#forms.get(form);
    if (!prepared) {
      prepared = this.#lowered(lowering(context));
      if (form !== undefined) this.#forms.set(form, prepared);
    }
    return prepared;
  }

  #contextOf(node: Call, rooms: readonly (number | undefined)[]): KernelContext {
    return {
      node,
      attributes: node.attributes,
      opset: this.#graph.opsets.get(node.domain) ?? 1,
      inputs: node.inputs.map((n) => (n === "" ? undefined : this.#inputOf(n))),
      outputs: node.outputs.map((n) => (this.isRead(n) ? this.tensorOf(n) : undefined)),
      ints: node.inputs.map((n) => (n === "" ? undefined : this.intsOf(n))),
      rooms,
    };
  }

  /** A value as a call reads it: with gaps, where it lies in a state that has room for more. */
  #inputOf(name: string): KernelTensor {
    const tensor = this.tensorOf(name), growing = this.#target.growing.get(name), { room } = this.#sizes;
    if (!growing || room === undefined) return tensor;
    return { ...tensor, strides: stridesOf(tensor.shape.with(growing.dim, room)) };
  }

  #lowered({ steps, scratch = [] }: Lowered): Prepared {
    const works = steps.flatMap((step): Work[] => {
      if (step.kind === "alias") return [];
      if (step.kind === "gemm") return [{ kind: "gemm", step }];
      return [...kernelOf(step, this.#texts)];
    });
    return { works, aliases: steps.filter((s) => s.kind === "alias"), scratch };
  }

  /** All that a lowering sees of a call, as text; undefined where that is too much. */
  #formOf(node: Call, { inputs, outputs, ints, opset, rooms }: KernelContext): string | undefined {
    let own = this.#attributes.get(node);
    if (own === undefined) {
      const attributes = Object.entries(node.attributes);
      const plain = attributes.every(([, a]) => a.kind !== "tensor" && a.kind !== "graph");
      this.#attributes.set(node, own = plain ? JSON.stringify([node.domain, node.op, opset, attributes]) : null);
    }
    if (own === null) return undefined;
    const tensors = (list: KernelContext["inputs"]) =>
      list.map((t) => (t ? `${t.dtype}[${t.shape}]${t.strides ?? ""}` : "-")).join(" ");
    const known = ints.map((i) => i?.join() ?? "-").join(";");
    return `${own} ${tensors(inputs)} > ${tensors(outputs)} ${known} ${rooms!.join()}`;
  }

  #collective(node: Collective): Prepared {
    const { rank, ranks } = this.#target;
    const from = this.tensorOf(node.inputs[0]), to = this.tensorOf(node.outputs[0]);
    const context = { from, to, rank, ranks, bindings: this.#sizes.bindings };
    const { exchange, steps, scratch } = collectiveSteps(node, context);
    const copies = steps.flatMap((step) => kernelOf(step, this.#texts));
    return { works: [{ kind: "exchange", exchange }, ...copies], aliases: [], scratch };
  }

  #dependentsOf(symbols: ReadonlySet<string>): Dependents {
    const key = [...symbols].join(), known = this.#dependents.get(key);
    if (known?.among === this.#units.size) return known;
    const names = known?.names ?? [...this.#graph.values.keys()].filter((name) => this.dependsOn(name, symbols));
    const units = [...this.#units].filter((unit) => this.varies(unit, symbols)), among = this.#units.size;
    const found = { names, units, among };
    this.#dependents.set(key, found);
    return found;
  }

  #symbolsOf(name: string): ReadonlySet<string> {
    let known = this.#symbols.get(name);
    if (!known) {
      const symbols = new Set<string>(), { type, ints } = valueOf(this.#graph, name);
      for (const d of [...type.shape ?? [], ...ints?.elements ?? []]) symbolsOf(d, symbols);
      this.#symbols.set(name, known = symbols);
    }
    return known;
  }
}

function isMaps(chain: readonly (MapStep | RowsStep)[]): chain is readonly MapStep[] {
  return chain.every((step) => step.kind === "map");
}

/** The kernel of a step, if there is anything to compute. */
function kernelOf(step: MapStep | RowsStep | CodeStep, texts: KernelTexts): readonly Work[] {
  const launch = step.kind === "code"
    ? codeLaunch(step, texts)
    : step.kind === "map"
    ? mapLaunch(step, texts)
    : rowsLaunch(step, texts);
  return launch ? [{ kind: "kernel", launch }] : [];
}
