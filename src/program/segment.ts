/** Cutting a rank's local graph at its collectives into a program. */
import { type Dim, dimMul } from "../core/dim.ts";
import { GraphError } from "../core/errors.ts";
import { GraphBuilder } from "../graph/builder.ts";
import {
  type Collective,
  type Graph,
  isCall,
  type Node,
  opKey,
  outputOf,
  producers,
  readsOf,
  type Value,
  valueOf,
} from "../graph/graph.ts";
import { localSize } from "../graph/layout.ts";
import { renameCaptures } from "../graph/subgraphs.ts";
import type { TensorType } from "../graph/types.ts";
import { combine } from "./combine.ts";
import { type Barrier, type Program, type Segment, type Source, type Step, type Stored } from "./program.ts";

/**
 * The program of `rank`. A node's level is the number of collectives before it on the longest way; all nodes of one level
 * are one segment, so that independent collectives share a barrier. Constants and sizes belong to every segment that
 * reads them.
 */
export function segment(graph: Graph<"local">, rank: number, ranks: number): Program {
  const live = liveNodes(graph);
  const producer = producers(graph);
  const level = new Map<string, number>();
  /** Level at which a value is there; inputs, constants and sizes are there from the start. */
  const levelOf = (name: string) => level.get(name) ?? 0;
  for (const node of live) {
    if (isFree(node) || node.kind === "output") continue;
    const inputs = Math.max(isCall(node) ? node.level ?? 0 : 0, ...readsOf(node).map(levelOf));
    for (const o of node.outputs) if (o !== "") level.set(o, node.kind === "collective" ? inputs + 1 : inputs);
  }
  const output = outputOf(graph);
  const levels = 1 + Math.max(0, ...[...level.values()]);
  const collectives = live.filter((n) => n.kind === "collective");

  // Which values leave the segment that writes them: for the peers, for later segments, for the caller.
  const shared = new Set(collectives.map((c) => c.inputs[0]));
  const lastRead = new Map<string, number>();
  for (const node of live) {
    if (isFree(node)) continue;
    const at = node.kind === "output" ? Infinity : node.kind === "collective" ? -1 : levelOf(firstOutput(node));
    for (const name of readsOf(node)) lastRead.set(name, Math.max(lastRead.get(name) ?? -1, at));
  }

  const stored = new Map<string, Stored>();
  const steps: Step[] = [];
  for (let k = 0; k < levels; k++) {
    steps.push(makeSegment(k));
    const here = collectives.filter((c) => levelOf(c.outputs[0]) === k + 1);
    if (here.length > 0) steps.push(barrier(here));
  }
  const names = output.names;
  return {
    rank,
    ranks,
    steps,
    stored,
    inputs: new Map(
      graph.nodes.flatMap((n) => (n.kind === "placeholder" ? [[n.outputs[0], valueOf(graph, n.outputs[0]).type]] : [])),
    ),
    outputs: output.inputs.map((name, i) => ({
      name: names[i]!,
      value: { kind: "value", name: isFreeValue(name) ? forwarded(name) : privateName(name) } as const,
    })),
    carried: graph.carried.map(({ input, output }) => ({
      input,
      ...(output === undefined ? {} : { output: names[output]! }),
    })),
  };

  function isFreeValue(name: string): boolean {
    return isFree(producer.get(name)!);
  }

  /** A shared value that is read again later lives in a private copy too: the shared buffer is written again soon. */
  function privateName(name: string): string {
    return shared.has(name) ? `${name}.kept` : name;
  }

  function barrier(list: readonly Collective[]): Barrier {
    return {
      kind: "barrier",
      collectives: list.map((c) => ({
        kind: c.collective,
        value: c.inputs[0],
        type: valueOf(graph, c.outputs[0]).type,
      })),
    };
  }

  function makeSegment(k: number): Segment {
    const builder = new GraphBuilder("local", `${graph.name}.${k}`, graph.opsets);
    const inputs = new Map<string, Source>();
    const outputs: string[] = [];

    function declare(value: Value, source: Source): string {
      if (!builder.value(value.name)) {
        builder.placeholder(value);
        inputs.set(value.name, source);
      }
      return value.name;
    }

    /** Makes `name` readable in this segment and gives the name that it has here. */
    function read(name: string): string {
      if (name === "" || builder.value(name)) return name;
      const node = producer.get(name)!;
      const value = valueOf(graph, name);
      if (node.kind === "placeholder") return declare(value, { kind: "input", name });
      if (node.kind === "get_attr") {
        builder.append({ ...node, name: builder.freshNode(node.name) }, [value]);
        return name;
      }
      if (isSizes(node)) {
        const { elements, dims } = value.ints!;
        return declare(value, { kind: "sizes", elements, scalar: dims.length === 0 });
      }
      if (levelOf(name) >= k) throw new GraphError(`Cannot read "${name}" in segment ${k}: it is written later`);
      if (value.type.dtype === undefined) {
        throw new GraphError(
          `Cannot hand "${name}" from one part of the model to the next: what ${opName(node)} gives has no known type`,
          { hint: "have the model say it: onnx.shape_inference.infer_shapes() writes the types of all values" },
        );
      }
      const kept = privateName(name);
      return declare({ ...value, name: kept }, { kind: "value", name: kept });
    }

    function sizes(elements: readonly Dim[]): string {
      const name = `sizes:${elements.join(",")}`;
      const ints = { dims: [elements.length], elements };
      return declare({ name, type: { dtype: "i64", shape: ints.dims }, ints }, {
        kind: "sizes",
        elements,
        scalar: false,
      });
    }

    function keep(value: Value, last: number, peers?: readonly TensorType[]): void {
      outputs.push(value.name);
      stored.set(value.name, {
        name: value.name,
        type: value.type,
        shared: peers !== undefined,
        ...(peers ? { peers } : {}),
        writtenBy: k,
        lastRead: last,
      });
    }

    function identity(from: string, to: string, type: TensorType): void {
      builder.call({
        kind: "call_function",
        domain: "",
        op: "Identity",
        inputs: [read(from)],
        outputs: [to],
        attributes: {},
      }, [
        { name: to, type },
      ]);
    }

    for (const node of live) {
      if (node.kind === "collective" && levelOf(node.outputs[0]) === k) {
        const value = valueOf(graph, node.outputs[0]);
        const peers = peerTypes(node).map((type, r) => {
          const name = `${sharedName(node)}@${r}`;
          return declare({ name, type }, { kind: "peer", name: sharedName(node), rank: r, type });
        });
        combine(builder, node, { peers, value, rank, sizes });
      } else if (isCall(node) && !isSizes(node) && levelOf(firstOutput(node)) === k) {
        const captures = new Map((node.captures ?? []).map((c) => [c, read(c)]));
        const here = renameCaptures({ ...node, inputs: node.inputs.map(read) }, captures);
        // Its name may be that of a value, which another segment gives to the placeholder that it reads.
        builder.call(here, node.outputs.filter((o) => o !== "").map((o) => valueOf(graph, o)));
      } else continue;
      for (const name of node.outputs) {
        const last = lastRead.get(name) ?? -1;
        if (name === "" || last <= k) continue;
        if (shared.has(name)) identity(name, `${name}.kept`, valueOf(graph, name).type);
        keep({ ...valueOf(graph, name), name: privateName(name) }, last);
      }
    }
    for (const node of collectives) {
      if (levelOf(node.outputs[0]) !== k + 1 || outputs.includes(sharedName(node))) continue;
      const name = node.inputs[0], value = valueOf(graph, name);
      if (sharedName(node) !== name) identity(name, sharedName(node), value.type);
      keep({ ...value, name: sharedName(node) }, k + 1, peerTypes(node));
    }
    if (k === 0) {
      // Outputs that are inputs or constants pass through a segment like any other value.
      for (const name of new Set(output.inputs.filter(isFreeValue))) {
        identity(name, forwarded(name), valueOf(graph, name).type);
        keep({ ...valueOf(graph, name), name: forwarded(name) }, Infinity);
      }
    }
    return {
      kind: "segment",
      index: k,
      graph: builder.finish({ inputs: outputs, names: outputs }),
      inputs,
      outputs,
    };
  }

  /** The name of the shared buffer of a collective's input: a value that lies elsewhere is copied into one. */
  function sharedName(node: Collective): string {
    const name = node.inputs[0];
    const own = producer.get(name)!;
    const before = levelOf(node.outputs[0]) - 1;
    const written = isFree(own) || own.kind === "collective" ? -1 : levelOf(name);
    return written === before ? name : `${name}.shared`;
  }

  function peerTypes(node: Collective): TensorType[] {
    const { type } = valueOf(graph, node.inputs[0]);
    return Array.from({ length: ranks }, (_, r) => {
      if (node.collective !== "all_gather" || !type.shape) return type;
      const { dim, layout } = node.shard!;
      return { dtype: type.dtype, shape: type.shape.with(dim, dimMul(layout.outer, localSize(layout, r))) };
    });
  }
}

function forwarded(name: string): string {
  return `${name}.forwarded`;
}

function isSizes(node: Node): boolean {
  return isCall(node) && node.domain === "shardwise" && node.op === "Sizes";
}

function isFree(node: Node): boolean {
  return node.kind === "placeholder" || node.kind === "get_attr" || isSizes(node);
}

function firstOutput(node: Node): string {
  return node.outputs.find((o) => o !== "")!;
}

/**
 * The nodes that the outputs need, in order, and all collectives: a rank that holds nothing of what comes after one does not
 * read its result, but the others wait for its part.
 */
function liveNodes(graph: Graph<"local">): Node[] {
  const needed = new Set<string>();
  const live: Node[] = [];
  for (const node of graph.nodes.toReversed()) {
    const isRoot = node.kind === "output" || node.kind === "placeholder" || node.kind === "collective";
    if (!isRoot && !node.outputs.some((o) => needed.has(o))) continue;
    for (const name of readsOf(node)) needed.add(name);
    live.push(node);
  }
  return live.reverse();
}

function opName(node: Node): string {
  return isCall(node) ? `${opKey(node)} "${node.name}"` : `"${node.name}"`;
}
