/**
 * Small graphs that must give on several ranks what they give on one, by the plan of the search and by plans chosen at random
 * among all that the rules allow. What the tests of this folder share.
 */
import assert from "node:assert/strict";
import { compareTensors } from "../../cli/compare.ts";
import { fromNumbers, type HostTensor } from "../../src/core/host_tensor.ts";
import type { Dim } from "../../src/core/dim.ts";
import { GraphBuilder, inlineData } from "../../src/graph/builder.ts";
import type { Attributes, Graph } from "../../src/graph/graph.ts";
import { printPlacement } from "../../src/graph/placement.ts";
import { type Config, ParallelExecutionCtx } from "../../src/passes/context.ts";
import { cleanPipeline, shardPipeline } from "../../src/passes/pipelines.ts";
import type { Plan } from "../../src/plan/plan.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { EmulatedModel } from "../../src/runtime/emulation.ts";
import { randomPlan } from "../support/random_plan.ts";

/** How many plans are drawn beside the one that the search finds. */
const RANDOM_PLANS = 6;
/** Memory so dear that every weight is split. */
export const SPLIT: Config = { memoryPrice: 1e-2, calibrated: false };

/** A graph under construction; weights and inputs are drawn from one row of numbers. */
export class Net {
  readonly #builder: GraphBuilder<"global">;
  readonly feeds: Record<string, HostTensor> = {};
  #seed = 1;
  #count = 0;

  constructor(opset = 17) {
    this.#builder = new GraphBuilder("global", "net", new Map([["", opset]]));
  }

  #numbers(count: number): number[] {
    return Array.from({ length: count }, () => (this.#seed = this.#seed * 48271 % 2147483647) / 2147483647 - 0.5);
  }

  input(shape: readonly number[], type: readonly Dim[] = shape): string {
    const name = `x${this.#count++}`;
    this.#builder.placeholder({ name, type: { dtype: "f32", shape: type } });
    this.feeds[name] = fromNumbers("f32", shape, this.#numbers(shape.reduce((a, b) => a * b, 1)));
    return name;
  }

  ids(values: readonly number[], shape: readonly number[] = [values.length]): string {
    const name = `x${this.#count++}`;
    this.#builder.placeholder({ name, type: { dtype: "i64", shape } });
    this.feeds[name] = fromNumbers("i64", shape, values);
    return name;
  }

  weight(...shape: readonly number[]): string {
    const data = Float32Array.from(this.#numbers(shape.reduce((a, b) => a * b, 1)));
    return this.#builder.getAttr(`w${this.#count++}`, inlineData("f32", shape, data)).outputs[0];
  }

  /** A weight that must not be read. */
  unread(...shape: readonly number[]): string {
    const refuse = (): never => {
      throw new Error("a weight was read");
    };
    return this.#builder.getAttr(`w${this.#count++}`, { dtype: "f32", shape, bytes: refuse, slice: refuse }).outputs[0];
  }

  ints(...values: readonly number[]): string {
    const data = BigInt64Array.from(values, BigInt);
    return this.#builder.getAttr(`i${this.#count++}`, inlineData("i64", [values.length], data)).outputs[0];
  }

  scalar(value: number | boolean): string {
    const name = `s${this.#count++}`;
    const data = typeof value === "number"
      ? inlineData("f32", [], Float32Array.of(value))
      : inlineData("bool", [], Uint8Array.of(Number(value)));
    return this.#builder.getAttr(name, data).outputs[0];
  }

  op(op: string, inputs: readonly string[], attributes: Attributes = {}): string {
    return this.ops(op, inputs, 1, attributes)[0]!;
  }

  ops(op: string, inputs: readonly string[], outputs: number, attributes: Attributes = {}): string[] {
    const names = Array.from({ length: outputs }, () => `v${this.#count++}`);
    const values = names.map((name) => ({ name, type: { dtype: undefined, shape: undefined } }));
    this.#builder.call({ kind: "call_function", domain: "", op, inputs, outputs: names, attributes }, values);
    return names;
  }

  /** Rows of `x` by a new matrix; the size of the rows is given. */
  linear(x: string, k: number, n: number): string {
    return this.op("MatMul", [x, this.weight(k, n)]);
  }

  finish(...outputs: readonly string[]): Graph<"global"> {
    return this.#builder.finish({ inputs: outputs, names: outputs.map((_, i) => `y${i}`) });
  }
}

/** Runs the net in all ways; gives the plans that the search found, by ranks. */
export async function sameOnAllRanks(
  net: Net,
  graph: Graph<"global">,
  sizes: readonly number[] = [2, 3],
  config: Config = SPLIT,
): Promise<Map<number, Plan>> {
  const engine = await openNativeEngine();
  const run = async (ranks: number, plan?: (clean: Graph<"global">) => Plan) => {
    const ctx = new ParallelExecutionCtx({ ranks, rank: 0, config });
    const clean = cleanPipeline().run(graph, ctx);
    ctx.plan = plan?.(clean);
    const sharded = shardPipeline().run(clean, ctx);
    await using model = await EmulatedModel.open(engine, sharded, ranks);
    return { results: await model.run(net.feeds), plan: ctx.requirePlan() };
  };
  const expected = new Map(Object.entries((await run(1)).results));
  const plans = new Map<number, Plan>();
  let seed = 7;
  const random = () => (seed = seed * 48271 % 2147483647) / 2147483647;
  for (const ranks of sizes) {
    for (let i = 0; i <= RANDOM_PLANS; i++) {
      const { results, plan } = await run(ranks, i === 0 ? undefined : (clean) => randomPlan(clean, ranks, random));
      for (const o of compareTensors(results, expected, { atol: 1e-5, rtol: 1e-4 })) {
        assert.ok(
          o.pass,
          `${ranks} ranks, ${i === 0 ? "the search's plan" : `random plan ${i}`}: ${o.problem ?? o.maxAbs}`,
        );
      }
      if (i === 0) plans.set(ranks, plan);
    }
  }
  return plans;
}

/** The plan that the search finds for a graph, and the graph as it is sharded by it. */
export function planned(
  graph: Graph<"global">,
  ranks: number,
  config: Config = SPLIT,
): { readonly plan: Plan; readonly sharded: Graph<"sharded"> } {
  const ctx = new ParallelExecutionCtx({ ranks, rank: 0, config });
  const sharded = shardPipeline().run(cleanPipeline().run(graph, ctx), ctx);
  return { plan: ctx.requirePlan(), sharded };
}

/** The placements of the matrices of a plan, in order. */
export function weightPlacements(plan: Plan): string[] {
  return [...plan.strategies.values()].flatMap((s) => (s.inputs[1] ? [printPlacement(s.inputs[1])] : []));
}
