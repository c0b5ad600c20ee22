/**
 * The local graphs of all ranks in one graph: the proof of a rewrite without transport.
 *
 * Every rank's values stand side by side under the rank's prefix; where a rank would meet its peers, the collective is
 * computed from their values with the ops that segments begin with (combine.ts). One ONNX Runtime session then runs the
 * whole job, so a wrong number is a wrong rule and never a matter of shared memory, barriers or processes.
 */
import { type Bindings, type Dim, evalDim } from "../core/dim.ts";
import { GraphError } from "../core/errors.ts";
import { GraphBuilder, inlineData } from "../graph/builder.ts";
import { type Collective, type Graph, isCall, type Node, outputOf, type TensorData, valueOf } from "../graph/graph.ts";
import { renameCaptures } from "../graph/subgraphs.ts";
import type { KnownInts, TensorType } from "../graph/types.ts";
import { isDataDependent } from "../ops/known_ints.ts";
import { combine } from "./combine.ts";

/** The name that rank `rank`'s value, input or output `name` has in the graph of all ranks. */
export function emulatedName(rank: number, name: string): string {
  return `rank${rank}/${name}`;
}

/**
 * All ranks' graphs in one, `locals[r]` being rank r's. Inputs and outputs are those of every rank, under
 * {@linkcode emulatedName}; constants that ranks hold alike are there once.
 *
 * Tensors of sizes become constants where `bindings` say what their symbols are, and otherwise placeholders whose value
 * carries `ints`, to be fed.
 *
 * ```text
 * %y.all_reduce = all_reduce(%y) {reduction=sum}
 *   ->
 * %rank0/y.all_reduce = Sum(%rank0/y, %rank1/y)
 * %rank1/y.all_reduce = Sum(%rank0/y, %rank1/y)
 * ```
 * @throws {GraphError} If the ranks do not meet in the same collectives, in the same order.
 */
export function emulate(locals: readonly Graph<"local">[], bindings: Bindings = new Map()): Graph<"local"> {
  const emulator = new Emulator(locals, bindings);
  const meetings = meetingsOf(locals);
  const at = locals.map(() => 0);
  for (const meeting of meetings) {
    locals.forEach((graph, rank) => {
      while (graph.nodes[at[rank]!] !== meeting[rank]) emulator.append(rank, graph.nodes[at[rank]!++]!);
      at[rank]!++;
    });
    emulator.meet(meeting);
  }
  locals.forEach((graph, rank) => graph.nodes.slice(at[rank]).forEach((node) => emulator.append(rank, node)));
  return emulator.finish();
}

/** The collectives of the job: for each, every rank's node. */
function meetingsOf(locals: readonly Graph<"local">[]): Collective[][] {
  const lists = locals.map((graph) => graph.nodes.filter((n) => n.kind === "collective"));
  const first = lists[0] ?? [];
  lists.forEach((list, rank) => {
    const differs = Array.from({ length: Math.max(list.length, first.length) }, (_, i) => i)
      .find((i) => describe(list[i]) !== describe(first[i]));
    if (differs === undefined) return;
    throw new GraphError(
      `Cannot emulate ${locals.length} ranks of "${locals[0]!.name}": collective ${differs} is ` +
        `${describe(first[differs])} on rank 0 but ${describe(list[differs])} on rank ${rank}`,
    );
  });
  return first.map((_, i) => lists.map((list) => list[i]!));
}

function describe(node: Collective | undefined): string {
  if (!node) return "missing";
  const cut = node.shard ? ` of dim ${node.shard.dim} cut ${node.shard.layout.key}` : "";
  return `${node.collective}${node.reduction ? `(${node.reduction})` : ""}${cut}`;
}

/** The graph of all ranks under construction. */
class Emulator {
  readonly #locals: readonly Graph<"local">[];
  readonly #bindings: Bindings;
  readonly #builder: GraphBuilder<"local">;
  /** Per rank, the names here of its values that are not just prefixed: shared constants and sizes. */
  readonly #shared: Map<string, string>[];
  readonly #constants = new Map<TensorData, string>();

  constructor(locals: readonly Graph<"local">[], bindings: Bindings) {
    this.#locals = locals;
    this.#bindings = bindings;
    this.#shared = locals.map(() => new Map());
    const opsets = new Map(locals.flatMap((graph) => [...graph.opsets]));
    this.#builder = new GraphBuilder("local", locals[0]?.name ?? "", opsets);
  }

  /** Appends a node of `rank` that is no collective. */
  append(rank: number, node: Node): void {
    const graph = this.#locals[rank]!;
    const own = (name: string) => (name === "" ? "" : emulatedName(rank, name));
    if (node.kind === "get_attr") {
      const value = valueOf(graph, node.outputs[0]);
      let name = this.#constants.get(node.data);
      if (name === undefined) {
        this.#constants.set(node.data, name = own(value.name));
        this.#builder.getAttr(name, node.data, { type: value.type, ...(value.ints ? { ints: value.ints } : {}) });
      }
      this.#shared[rank]!.set(value.name, name);
    } else if (node.kind === "placeholder") {
      const value = valueOf(graph, node.outputs[0]);
      this.#builder.placeholder({ ...value, name: own(value.name) });
    } else if (isCall(node) && node.domain === "shardwise" && node.op === "Sizes") {
      const [name] = node.outputs as readonly [string];
      this.#shared[rank]!.set(name, this.#sizes(valueOf(graph, name).ints!));
    } else if (isCall(node)) {
      const captures = new Map((node.captures ?? []).map((n) => [n, this.#read(rank, n)]));
      const inputs = node.inputs.map((n) => this.#read(rank, n));
      const call = renameCaptures({ ...node, name: own(node.name), inputs }, captures);
      this.#builder.call(
        { ...call, outputs: node.outputs.map(own) },
        node.outputs.filter((n) => n !== "").map((n) => {
          const value = valueOf(graph, n);
          return { ...value, name: own(n) };
        }),
      );
    }
  }

  /** Computes a collective on every rank from all ranks' values. */
  meet(meeting: readonly Collective[]): void {
    const peers = meeting.map((node, rank) => this.#read(rank, node.inputs[0]));
    meeting.forEach((node, rank) => {
      const value = valueOf(this.#locals[rank]!, node.outputs[0]);
      combine(this.#builder, node, {
        peers,
        value: { ...value, name: emulatedName(rank, value.name) },
        rank,
        sizes: (elements) => this.#sizes({ dims: [elements.length], elements }),
      });
    });
  }

  finish(): Graph<"local"> {
    const outputs = this.#locals.map(outputOf);
    const graph = this.#builder.finish({
      inputs: outputs.flatMap((o, rank) => o.inputs.map((n) => this.#read(rank, n))),
      names: outputs.flatMap((o, rank) => o.names.map((n) => emulatedName(rank, n))),
    });
    const values = new Map(graph.values);
    for (const name of outputOf(graph).inputs) {
      const value = values.get(name)!;
      values.set(name, { ...value, type: ownType(value.type) });
    }
    return { ...graph, values };
  }

  #read(rank: number, name: string): string {
    return name === "" ? "" : this.#shared[rank]!.get(name) ?? emulatedName(rank, name);
  }

  /** A tensor of sizes, the same for all ranks that ask for equal ones. */
  #sizes(ints: KnownInts): string {
    const name = `sizes${ints.dims.length === 0 ? "" : `${ints.elements.length}`}:${ints.elements.join(",")}`;
    if (this.#builder.value(name)) return name;
    const known = ints.elements.map((e: Dim) => evalDim(e, this.#bindings));
    const type: TensorType = { dtype: "i64", shape: ints.dims };
    if (known.every((n) => n !== undefined)) {
      this.#builder.getAttr(name, inlineData("i64", ints.dims, BigInt64Array.from(known, BigInt)), { type, ints });
    } else this.#builder.placeholder({ name, type, ints });
    return name;
  }
}

/**
 * An output's type without a shape that only a rank's data decides: its symbols have one name on all ranks, but not one
 * size, and engines take equal names for equal sizes.
 */
function ownType(type: TensorType): TensorType {
  return type.shape?.some(isDataDependent) ? { dtype: type.dtype, shape: undefined } : type;
}
