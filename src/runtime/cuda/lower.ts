/** From a local graph and sizes to what the GPU does: kernels, products and collectives, and where every value lies. */
import type { DType } from "../../core/dtype.ts";
import type { Bindings } from "../../core/dim.ts";
import { GraphError } from "../../core/errors.ts";
import { type Graph, outputOf } from "../../graph/graph.ts";
import { drawOfLastRows } from "../../ops/kernels/draw.ts";
import { fuseProducts } from "../../ops/kernels/fused_products.ts";
import type { KernelTensor, Lowered, Operand } from "../../ops/kernels/kernel.ts";
import { lastRowsOf, PICK_NUMBERS, seenWords, topOfLastRows } from "../../ops/kernels/top.ts";
import { sizeOf } from "./host_values.ts";
import { withoutCopies } from "./copies.ts";
import { LoweringError } from "./lowering_error.ts";
import { Memory } from "./memory.ts";
import { Preparer, type StepSizes, type Work } from "./prepare.ts";
import { type ResultPlace, type SizedUnit, type StepOutput, StepProgram } from "./step_program.ts";
import { statesInPlace, type Unit, unitsOf } from "./units.ts";
import { UploadLayout } from "./upload_layout.ts";

/** Where a value lies. */
export type Place =
  /** A constant, by the value's name. */
  | { readonly in: "weights"; readonly name: string }
  /** What a state holds, by the name of its input, and what comes after it. */
  | { readonly in: "state"; readonly name: string }
  | { readonly in: "next"; readonly name: string }
  /** In the arena, whose parts are used again and again within a step. */
  | { readonly in: "arena"; readonly offset: number }
  /** Among what is uploaded before the step. */
  | { readonly in: "upload"; readonly offset: number };

/** Work with the places of its operands. */
export type Placed = Work & {
  readonly places: (operand: Operand) => Place;
  /** The node that it is of. */
  readonly of: string;
  /** Where a kernel's numbers lie among what is uploaded; in its argument where absent. */
  readonly numbersAt?: number | undefined;
};

/** One thing that the GPU does. */
export type Command =
  | Placed
  | { readonly kind: "copy"; readonly from: Place; readonly to: Place; readonly bytes: number; readonly of: string };

/** What a graph is lowered for. */
export interface LoweringTarget {
  readonly rank: number;
  readonly ranks: number;
  /** In which dtype values of a dtype are held; in their own by default. */
  readonly held?: (dtype: DType) => DType;
}

/** Elements of an output's last rows, as `Picking` says: what of it a program is made for. Numbers are uploaded. */
export interface TopOf {
  readonly output: string;
  readonly count: number;
  readonly sums: boolean;
  readonly draws: boolean;
  readonly penalised: boolean;
}

/** By which names picking is given its numbers, and a bit for each element that is penalised. */
export function pickInputs(output: string): { readonly numbers: string; readonly seen: string } {
  return { numbers: `${output}.numbers`, seen: `${output}.seen` };
}

/** For which steps a program is made. */
export interface ProgramSizes extends StepSizes {
  /** Whether states stay on the device; they are inputs and results like others where they do not. They grow in place if there is `room`. */
  readonly withStates?: boolean;
  /** Of the last rows of an output only the largest elements are wanted, in its place. */
  readonly top?: TopOf | undefined;
  /** The program is to serve later steps too, of sizes up to these: symbols that differ from `bindings`. */
  readonly limit?: Bindings | undefined;
}

/** Lowers `graph` once. @throws {GraphError} If an op does not run on a GPU. */
export function lowerGraph(
  graph: Graph<"local">,
  { bindings, ...target }: LoweringTarget & { readonly bindings: Bindings },
): StepProgram {
  return new Lowerer(graph, target).lower({ bindings });
}

/** Lowers a graph at sizes that change. */
export class Lowerer {
  readonly #graph: Graph<"local">;
  readonly #preparer: Preparer;
  readonly #units: readonly Unit[];
  /** By unit: the values of which it is the last reader. */
  readonly #lastReads: readonly (readonly string[])[];
  readonly #states: ReadonlyMap<string, { readonly input: string; readonly inPlace: boolean }>;
  /** Carried inputs that grow in place. */
  readonly statesInPlace: ReadonlySet<string>;
  /** Whether nodes read such states with the gaps between their rows, which a state that fills its room does not have. */
  readonly readsGaps: boolean;

  constructor(whole: Graph<"local">, { rank, ranks, held = (dtype) => dtype }: LoweringTarget) {
    const graph = fuseProducts(withoutCopies(whole));
    this.#graph = graph;
    this.#units = unitsOf(graph);
    this.#lastReads = lastReads(graph, this.#units);
    const inPlace = statesInPlace(graph, this.#units), { inputs } = outputOf(graph);
    this.#preparer = new Preparer(graph, { rank, ranks, held, growing: inPlace });
    this.#states = new Map(
      graph.carried.flatMap(({ input, output }) =>
        output === undefined ? [] : [[inputs[output]!, { input, inPlace: inPlace.has(inputs[output]!) }] as const]
      ),
    );
    this.readsGaps = this.#units.some((u) => !u.grows && u.inputs.some((name) => inPlace.has(name)));
    this.statesInPlace = new Set([...inPlace.values()].map((s) => s.input));
  }

  /** The program of a step. @throws {GraphError} If an op does not run on a GPU. */
  lower({ bindings, room, withStates = false, limit, top }: ProgramSizes): StepProgram {
    const preparer = this.#preparer, graph = this.#graph;
    const growing = new Set([...limit ?? []].flatMap(([name, size]) => (bindings.get(name) === size ? [] : [name])));
    preparer.bind({ bindings: limit ?? bindings, room: withStates ? room : undefined });
    const states = new Map(
      withStates ? [...this.#states].map(([k, s]) => [k, { ...s, inPlace: s.inPlace && room !== undefined }]) : [],
    );
    const upload = new UploadLayout();
    const memory = new Memory({ preparer, states, upload }), commands: Command[] = [];
    const carried = new Set(withStates ? graph.carried.map((c) => c.input) : []);
    for (const node of graph.nodes) {
      if (node.kind === "get_attr") memory.put(node.outputs[0], { in: "weights", name: node.outputs[0] });
      if (node.kind !== "placeholder") continue;
      const [name] = node.outputs;
      memory.put(
        name,
        carried.has(name) ? { in: "state", name } : upload.input(name, sizeOf(preparer.tensorOf(name))),
      );
    }
    const sized: SizedUnit[] = [], numbers = new Map<string, readonly (number | undefined)[]>();
    this.#units.forEach((unit, index) => {
      const prepared = refusing(unit, () => preparer.prepare(unit));
      if (prepared) {
        const varies = growing.size > 0 && preparer.varies(unit, growing);
        let at = unit.key === null ? undefined : numbers.get(unit.key);
        const isFirst = at === undefined;
        at ??= prepared.works.map((w) => (varies && w.kind === "kernel" ? upload.put(w.launch.numbers) : undefined));
        if (unit.key !== null) numbers.set(unit.key, at);
        const from = commands.length;
        refusing(unit, () => this.#place(unit, { memory, commands, numbersAt: at }));
        if (varies) sized.push({ unit, prepared, from, numbersAt: at, isFirst });
      }
      for (const name of this.#lastReads[index]!) memory.release(name);
    });
    for (const [value, { input, inPlace }] of states) {
      const from = memory.placeOf(value), to: Place = { in: inPlace ? "state" : "next", name: input };
      if ((from.in === "state" || from.in === "next") && from.in === to.in && from.name === input) continue;
      const bytes = sizeOf(preparer.tensorOf(value));
      if (bytes > 0) commands.push({ kind: "copy", from, to, bytes, of: value });
    }
    const { names, inputs } = outputOf(graph), kept = new Set(withStates ? graph.carried.map((c) => c.output) : []);
    let whole: StepOutput | undefined;
    const outputs = inputs.flatMap((value, i): ResultPlace[] => {
      if (kept.has(i)) return [];
      const name = names[i]!, isTop = top?.output === name && !preparer.dependsOn(value, growing);
      if (!isTop) return [{ name, value, place: memory.placeOf(value) }];
      whole = { name, place: memory.placeOf(value), tensor: preparer.tensorOf(value) };
      return this.#top(value, { top, memory, commands, upload });
    });
    return new StepProgram({
      preparer,
      bindings,
      limit,
      growing,
      room: withStates ? room : undefined,
      commands,
      sized,
      outputs,
      whole,
      upload,
      reserved: memory.reserved,
      arenaBytes: memory.arenaBytes,
    });
  }

  /** Adds the search for elements of the last rows of `value`. */
  #top(
    value: string,
    to: { readonly top: TopOf; readonly memory: Memory; readonly commands: Command[]; readonly upload: UploadLayout },
  ): ResultPlace[] {
    const { top: { output, sums, draws, penalised }, memory, commands, upload } = to;
    const tensor = this.#preparer.tensorOf(value), { rows, columns } = lastRowsOf(tensor.shape);
    const count = Math.min(to.top.count, columns), shape = [rows, count], names = pickInputs(output);
    const given = [memory.placeOf(value)];
    if (sums || draws || penalised) given.push(upload.input(names.numbers, 8 * (PICK_NUMBERS + rows)));
    if (penalised) given.push(upload.input(names.seen, 4 * rows * seenWords(columns)));
    const picks: KernelTensor[] = [{ dtype: "f32", shape }, { dtype: "i32", shape }];
    const add = (lowered: Lowered, tensors: readonly KernelTensor[]) => {
      const { works, scratch } = this.#preparer.stepsOf(lowered);
      const results = memory.results(tensors), own = memory.scratch(scratch);
      const places = ({ of, index }: Operand) =>
        of === "input" ? given[index]! : of === "output" ? results[index]! : own.places[index]!;
      for (const work of works) commands.push({ ...work, places, of: value });
      own.free();
      return results;
    };
    const results = draws
      ? add(drawOfLastRows(tensor, { draws, penalised }), picks)
      : add(topOfLastRows(tensor, count, { penalised }), picks);
    const told = ["values", "ids"].map((what, i) => ({
      name: `${output}.${what}`,
      tensor: picks[i]!,
      place: results[i]!,
    }));
    if (!sums) return told;
    const sum: KernelTensor = { dtype: "f64", shape: [rows] };
    const [place] = add(drawOfLastRows(tensor, { draws: false, penalised }), [sum]);
    return [...told, { name: `${output}.sums`, tensor: sum, place: place! }];
  }

  #place(
    unit: Unit,
    to: {
      readonly memory: Memory;
      readonly commands: Command[];
      readonly numbersAt: readonly (number | undefined)[];
    },
  ): void {
    const { memory, commands, numbersAt } = to, { works, aliases, scratch } = this.#preparer.prepare(unit)!;
    for (const { input, output } of aliases) memory.alias(unit.inputs[input]!, unit.outputs[output]!);
    for (const name of unit.outputs) if (this.#preparer.isRead(name)) memory.allocate(name);
    const own = memory.scratch(scratch);
    works.forEach((work, i) => {
      const known = new Map<string, Place>();
      const key = (o: Operand) => `${o.of} ${o.index}`;
      for (const operand of operandsOf(work)) {
        known.set(
          key(operand),
          operand.of === "scratch"
            ? own.places[operand.index]!
            : memory.placeOf((operand.of === "input" ? unit.inputs : unit.outputs)[operand.index]!),
        );
      }
      const places = (operand: Operand) => known.get(key(operand))!;
      commands.push({ ...work, places, of: unit.nodes[0]!.name, numbersAt: numbersAt[i] });
    });
    own.free();
  }
}

/** What `lower` gives; an error of it names the nodes of `unit`. @throws {LoweringError} If the GPU does not run them. */
function refusing<T>(unit: Unit, lower: () => T): T {
  try {
    return lower();
  } catch (error) {
    if (!(error instanceof GraphError)) throw error;
    throw new LoweringError(error, unit.nodes.map((n) => n.name));
  }
}

function operandsOf(work: Work): readonly Operand[] {
  if (work.kind === "gemm") {
    const { a, b, c, epilogue } = work.step;
    return [a.operand, b.operand, c.operand, ...(epilogue?.bias ? [epilogue.bias] : [])];
  }
  if (work.kind === "exchange") return [work.exchange.from, ...work.exchange.to];
  return work.launch.addresses;
}

/** By unit: the values of which it is the last reader; results of the graph have none. */
function lastReads(graph: Graph<"local">, units: readonly Unit[]): string[][] {
  const last = new Map<string, number>(), out: string[][] = units.map(() => []);
  units.forEach((unit, i) => {
    for (const name of unit.inputs) if (name !== "") last.set(name, i);
  });
  for (const name of outputOf(graph).inputs) last.delete(name);
  for (const [name, i] of last) out[i]!.push(name);
  return out;
}
