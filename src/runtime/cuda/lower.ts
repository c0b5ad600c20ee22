/** From a local graph and sizes to what the GPU does: kernels, products and collectives, and where every value lies. */
import { byteLength, type DType } from "../../core/dtype.ts";
import { type Bindings, evalDim } from "../../core/dim.ts";
import { GraphError, InputError } from "../../core/errors.ts";
import { fromNumbers } from "../../core/host_tensor.ts";
import { type Call, type Collective, type Graph, isCall, outputOf, valueOf } from "../../graph/graph.ts";
import type { GemmStep, KernelContext, KernelTensor, Operand } from "../../ops/kernels/kernel.ts";
import { loweringOf } from "../../ops/kernels/table.ts";
import { collectiveSteps, type Exchange } from "./collectives.ts";
import { type Launch, mapLaunch, rowsLaunch } from "./kernel_text.ts";
import { Spans } from "./spans.ts";

/** Where a value lies. */
export type Place =
  /** A constant, by the value's name. */
  | { readonly in: "weights"; readonly name: string }
  /** An input of the step. */
  | { readonly in: "inputs"; readonly name: string }
  /** The next content of a state, by the name of its input. */
  | { readonly in: "next"; readonly name: string }
  /** In the arena, whose parts are used again and again within a step. */
  | { readonly in: "arena"; readonly offset: number }
  /** Among what is uploaded before the step. */
  | { readonly in: "sizes"; readonly offset: number };

/** One thing that the GPU does, with the places of the operands. */
export type Command =
  | {
    readonly kind: "kernel";
    readonly launch: Launch;
    readonly places: (operand: Operand) => Place;
    readonly of: string;
  }
  | {
    readonly kind: "gemm";
    readonly step: GemmStep;
    readonly places: (operand: Operand) => Place;
    readonly of: string;
  }
  | {
    readonly kind: "exchange";
    readonly exchange: Exchange;
    readonly places: (operand: Operand) => Place;
    readonly of: string;
  }
  | { readonly kind: "copy"; readonly from: Place; readonly to: Place; readonly bytes: number };

/** What a graph is lowered for. */
export interface LoweringTarget {
  /** Sizes of all symbols. */
  readonly bindings: Bindings;
  readonly rank: number;
  readonly ranks: number;
  /** In which dtype values of a dtype are held; in their own by default. */
  readonly held?: (dtype: DType) => DType;
  /** States that stay on the device: the carried input that each value becomes. Absent: they are results like others. */
  readonly states?: ReadonlyMap<string, string>;
}

/** A step of the model at given sizes. */
export interface DeviceProgram {
  readonly commands: readonly Command[];
  readonly arenaBytes: number;
  /** To upload before: small integer tensors that the host knows. */
  readonly sizes: Uint8Array<ArrayBuffer>;
  /** Results by their position. */
  readonly outputs: readonly { readonly name: string; readonly place: Place; readonly tensor: KernelTensor }[];
}

interface Located {
  readonly tensor: KernelTensor;
  readonly place: Place;
}

/** Lowers `graph` with every symbol bound. @throws {GraphError} If an op does not run on a GPU. */
export function lowerGraph(
  graph: Graph<"local">,
  target: LoweringTarget,
): DeviceProgram {
  const { bindings, rank, ranks, held = (dtype) => dtype, states = new Map<string, string>() } = target;
  const located = new Map<string, Located>(), spans = new Spans();
  const commands: Command[] = [], sizesParts: Uint8Array[] = [];
  let sizesBytes = 0;
  const lastUse = lastUses(graph);
  /** Values that lie in the same memory, by the one that owns it: how many of them are still needed. */
  const owners = new Map<string, { offset: number; bytes: number; users: Set<string> }>();
  const ownerOf = new Map<string, string>();

  function tensorOf(name: string): KernelTensor {
    const { type } = valueOf(graph, name);
    const shape = type.shape?.map((d) => evalDim(d, bindings));
    if (!type.dtype || !shape || shape.includes(undefined)) {
      throw new GraphError(`Cannot place "${name}" on a GPU: only data tells its size`, {
        hint: "run this model on the CPU",
      });
    }
    return { dtype: held(type.dtype), shape: shape as number[] };
  }
  function intsOf(name: string): number[] | undefined {
    const ints = valueOf(graph, name).ints?.elements.map((e) => evalDim(e, bindings));
    return ints === undefined || ints.includes(undefined) ? undefined : ints as number[];
  }
  function allocate(name: string, tensor: KernelTensor): Place {
    const state = states.get(name);
    if (state !== undefined) {
      const place: Place = { in: "next", name: state };
      located.set(name, { tensor, place });
      return place;
    }
    const bytes = byteLength(tensor.dtype, tensor.shape.reduce((a, b) => a * b, 1));
    const offset = spans.take(bytes);
    owners.set(name, { offset, bytes, users: new Set([name]) });
    ownerOf.set(name, name);
    const place: Place = { in: "arena", offset };
    located.set(name, { tensor, place });
    return place;
  }
  function release(name: string): void {
    const key = ownerOf.get(name), owner = key === undefined ? undefined : owners.get(key);
    if (!owner) return;
    owner.users.delete(name);
    if (owner.users.size > 0) return;
    spans.give(owner.offset, owner.bytes);
    owners.delete(key!);
  }
  /** A value's place; what the host alone knows is uploaded. */
  function placeOf(name: string): Place {
    const known = located.get(name);
    if (known) return known.place;
    const ints = intsOf(name);
    if (!ints) throw new GraphError(`Cannot find "${name}" on the GPU: nothing has computed it`);
    const tensor = tensorOf(name), place: Place = { in: "sizes", offset: sizesBytes };
    located.set(name, { tensor, place });
    const { data } = fromNumbers(tensor.dtype, tensor.shape, ints);
    sizesParts.push(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    sizesBytes += Math.ceil(data.byteLength / 16) * 16;
    return place;
  }
  function scratchPlaces(list: readonly KernelTensor[]) {
    const taken = list.map(({ dtype, shape }) => {
      const bytes = byteLength(dtype, shape.reduce((a, b) => a * b, 1));
      return { bytes, offset: spans.take(bytes) };
    });
    return {
      at: (index: number): Place => ({ in: "arena", offset: taken[index]!.offset }),
      free: () => taken.forEach(({ offset, bytes }) => spans.give(offset, bytes)),
    };
  }

  function call(node: Call): void {
    const lowering = loweringOf(node);
    if (!lowering) {
      const name = node.domain === "" ? node.op : `${node.domain}.${node.op}`;
      throw new GraphError(`Cannot run ${name} "${node.name}" on a GPU: it has no kernel`, {
        hint: "run this model on the CPU",
      });
    }
    const used = node.outputs.map((n) => n !== "" && lastUse.has(n));
    const context: KernelContext = {
      node,
      attributes: node.attributes,
      opset: graph.opsets.get(node.domain) ?? 1,
      inputs: node.inputs.map((n) => (n === "" ? undefined : tensorOf(n))),
      outputs: node.outputs.map((n, i) => (used[i] ? tensorOf(n) : undefined)),
      ints: node.inputs.map((n) => (n === "" ? undefined : intsOf(n))),
    };
    if (!used.includes(true)) return;
    const { steps, scratch = [] } = lowering(context);
    for (const step of steps) {
      if (step.kind !== "alias") continue;
      const from = node.inputs[step.input]!, to = node.outputs[step.output]!, place = placeOf(from);
      located.set(to, { tensor: context.outputs[step.output]!, place });
      const owner = ownerOf.get(from);
      if (owner !== undefined && owners.has(owner)) {
        owners.get(owner)!.users.add(to);
        ownerOf.set(to, owner);
      }
    }
    node.outputs.forEach((name, i) => used[i] && !located.has(name) && allocate(name, context.outputs[i]!));
    const own = scratchPlaces(scratch);
    const places = (operand: Operand): Place => {
      if (operand.of === "scratch") return own.at(operand.index);
      return placeOf((operand.of === "input" ? node.inputs : node.outputs)[operand.index]!);
    };
    for (const step of steps) {
      if (step.kind === "gemm") commands.push({ kind: "gemm", step, places, of: node.name });
      else if (step.kind !== "alias") {
        const launch = step.kind === "map" ? mapLaunch(step) : rowsLaunch(step);
        if (!launch) continue;
        commands.push({ kind: "kernel", launch, places, of: node.name });
      }
    }
    own.free();
  }

  function collective(node: Collective): void {
    const input = node.inputs[0], name = node.outputs[0];
    const from = tensorOf(input), to = tensorOf(name);
    placeOf(input);
    allocate(name, to);
    const { exchange, steps, scratch } = collectiveSteps(node, { from, to, rank, ranks, bindings });
    const own = scratchPlaces(scratch);
    const places = (operand: Operand): Place =>
      operand.of === "scratch" ? own.at(operand.index) : placeOf(operand.of === "input" ? input : name);
    commands.push({ kind: "exchange", exchange, places, of: node.name });
    for (const step of steps) {
      const launch = mapLaunch(step);
      if (launch) commands.push({ kind: "kernel", launch, places, of: node.name });
    }
    own.free();
  }

  for (const [index, node] of graph.nodes.entries()) {
    if (node.kind === "placeholder") {
      const [name] = node.outputs;
      located.set(name, { tensor: tensorOf(name), place: { in: "inputs", name } });
    } else if (node.kind === "get_attr") {
      const [name] = node.outputs;
      located.set(name, { tensor: tensorOf(name), place: { in: "weights", name } });
    } else if (node.kind === "collective") collective(node);
    else if (isCall(node)) {
      // What the host knows needs no work; it is uploaded where a kernel reads it.
      const known = node.outputs.every((n) => n === "" || intsOf(n) !== undefined);
      if (!known) call(node);
    } else {
      for (const [value, state] of states) {
        const from = placeOf(value), { dtype, shape } = located.get(value)!.tensor;
        const bytes = byteLength(dtype, shape.reduce((a, b) => a * b, 1));
        if (from.in !== "next" || from.name !== state) {
          commands.push({ kind: "copy", from, to: { in: "next", name: state }, bytes });
        }
      }
      const outputs = node.inputs.flatMap((value, i) =>
        states.has(value) && graph.carried.some((c) => c.output === i)
          ? []
          : [{ name: node.names[i]!, place: placeOf(value), tensor: located.get(value)!.tensor }]
      );
      const bound = bindPlaces(commands);
      return { commands: bound, arenaBytes: spans.size, sizes: joined(sizesParts, sizesBytes), outputs };
    }
    for (const name of readsAt(node)) if (lastUse.get(name) === index) release(name);
  }
  throw new InputError(`Cannot lower graph "${outputOf(graph).name}": it has no output node`);
}

/** Places do not change once everything is placed: each command keeps those that it uses. */
function bindPlaces(commands: readonly Command[]): Command[] {
  return commands.map((command) => {
    if (command.kind === "copy") return command;
    const known = new Map<string, Place>();
    const key = (o: Operand) => `${o.of} ${o.index}`;
    for (const operand of operandsOf(command)) known.set(key(operand), command.places(operand));
    return { ...command, places: (operand: Operand) => known.get(key(operand))! };
  });
}

function operandsOf(command: Exclude<Command, { kind: "copy" }>): Operand[] {
  if (command.kind === "gemm") return [command.step.a.operand, command.step.b.operand, command.step.c.operand];
  if (command.kind === "exchange") return [command.exchange.from, ...command.exchange.to];
  return command.launch.fields.flatMap((f) => (f.kind === "address" ? [f.operand] : []));
}

function readsAt(node: Graph<"local">["nodes"][number]): readonly string[] {
  return "inputs" in node ? node.inputs.filter((n) => n !== "") : [];
}

/** The index of the last node that reads a value, of those that are read at all; an unread output's own node. */
function lastUses(graph: Graph<"local">): Map<string, number> {
  const last = new Map<string, number>();
  graph.nodes.forEach((node, i) => {
    if (node.kind === "output") { for (const name of node.inputs) last.set(name, Infinity); }
    else if ("inputs" in node) {
      for (const name of node.inputs) if (name !== "") last.set(name, Math.max(i, last.get(name) ?? 0));
    }
  });
  return last;
}

function joined(parts: readonly Uint8Array[], size: number): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += Math.ceil(part.length / 16) * 16;
  }
  return all;
}
