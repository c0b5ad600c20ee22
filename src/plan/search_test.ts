import assert from "node:assert/strict";
import fc from "fast-check";
import { type Graph, isCall, outputOf, valueOf } from "../graph/graph.ts";
import { type Placement, placementKey, printPlacement, REPLICATE } from "../graph/placement.ts";
import { PlanError } from "../core/errors.ts";
import { picoseconds } from "./cost.ts";
import type { Plan } from "./plan.ts";
import { buildProblem, type PlanOptions } from "./problem.ts";
import { communicates, directStep } from "./redistribute.ts";
import { BASELINES } from "./baselines.ts";
import { FrontierSearch } from "./frontier.ts";
import type { Override } from "./overrides.ts";
import { leastMemory, search } from "./search.ts";
import { decoder, type DecoderSizes, TestGraph, testOpDef } from "./test_support.ts";

/** Collectives so dear that uneven heads are better than balancing the load by another collective. */
const DEAR = { costs: { collectiveSeconds: 1e-4 } };

const SMALL: DecoderSizes = { layers: 2, heads: 8, kvHeads: 8, headDim: 64, ffn: 1408, vocab: 4096 };

function plan(graph: Graph<"global">, ranks: number, details: Partial<PlanOptions> = {}): Plan {
  return search(graph, { ranks, opDef: testOpDef, ...details });
}

/** The collectives of a plan, as `value from->to`. */
function collectives(p: Plan): string[] {
  return p.reshards.filter((r) => communicates(directStep(r.from, r.to)!))
    .map((r) => `${r.value} ${printPlacement(r.from)}->${printPlacement(r.to)}`);
}

function strategy(p: Plan, node: string): string {
  const s = p.strategies.get(node)!;
  return `${s.inputs.map(printPlacement)} -> ${s.outputs.map(printPlacement)}`;
}

/**
 * The cheapest cost by uniform-cost search over everything that can be done: at each node any strategy whose inputs
 * exist, and between nodes any single move of any value. Knows nothing of frontiers, steps or dominance. Weights may take
 * `room` bytes. For graphs without carried states; Infinity where nothing is possible.
 */
function oracle(graph: Graph<"global">, options: PlanOptions, room = Infinity): number {
  const { calls, pricing, isConstant } = buildProblem(graph, options);
  const universe = new Map<string, Map<string, Placement>>();
  const note = (v: string, p: Placement) => {
    universe.set(v, (universe.get(v) ?? new Map([["R", REPLICATE]])).set(placementKey(p), p));
  };
  for (const { node, candidates } of calls) {
    for (const c of candidates) {
      node.inputs.forEach((v, i) => isConstant(v) || note(v, c.inputs[i]!));
      node.outputs.forEach((v, i) => note(v, c.outputs[i]!));
    }
  }
  const start = graph.nodes.filter((n) => n.kind === "placeholder").map((n) => `${n.name} R`);
  const best = new Map<string, number>([[JSON.stringify([0, start.toSorted(), 0]), 0]]);
  const done = new Set<string>();
  for (;;) {
    let key = "", cost = Infinity;
    for (const [k, c] of best) if (c < cost) [key, cost] = [k, c];
    if (key === "") return Infinity;
    const [at, held, bytes] = JSON.parse(key) as [number, string[], number];
    best.delete(key);
    done.add(key);
    const relax = (next: number, now: string[], c: number, more = 0) => {
      if (bytes + more > room) return;
      // Without a cap it does not matter how much is held.
      const k = JSON.stringify([next, [...new Set(now)].toSorted(), room === Infinity ? 0 : bytes + more]);
      if (!done.has(k) && c < (best.get(k) ?? Infinity)) best.set(k, c);
    };
    if (at === calls.length && outputOf(graph).inputs.every((v) => held.includes(`${v} R`))) return cost;
    for (const have of held) {
      const space = have.indexOf(" "), value = have.slice(0, space);
      const placements = universe.get(value);
      const from = placements?.get(have.slice(space + 1));
      if (!placements || !from) continue;
      for (const to of placements.values()) {
        const step = directStep(from, to);
        const add = `${value} ${placementKey(to)}`;
        if (!step || held.includes(add)) continue;
        relax(
          at,
          [...held, add],
          cost + pricing.step(step, pricing.bytes(valueOf(graph, value).type), to.kind === "S" ? to : from),
        );
      }
    }
    const call = calls[at];
    call?.candidates.forEach((c, i) => {
      if (!call.node.inputs.every((v, k) => isConstant(v) || held.includes(`${v} ${placementKey(c.inputs[k]!)}`))) {
        return;
      }
      const made = call.node.outputs.map((v, k) => `${v} ${placementKey(c.outputs[k]!)}`);
      relax(at + 1, [...held, ...made], cost + call.compute[i]! + call.memory[i]!, call.held[i]!);
    });
  }
}

/** A random graph of products, additions, nonlinear and shape ops on `[b, n]` tensors. */
function randomGraph(choices: readonly (readonly [number, number, number])[]): Graph<"global"> {
  const g = new TestGraph();
  const sizes = [6, 10];
  const pool: { name: string; size: number }[] = [{ name: g.input("x", ["b", sizes[0]!]), size: sizes[0]! }];
  for (const [kind, a, b] of choices) {
    const x = pool[a % pool.length]!, same = pool.filter((v) => v.size === x.size), y = same[b % same.length]!;
    const shape = ["b", x.size];
    if (kind === 0) {
      const n = sizes[b % 2]!;
      const w = g.weight(`w${pool.length}`, [x.size, n]);
      pool.push({ name: g.op("MatMul", [x.name, w], ["b", n]), size: n });
    } else if (kind === 1) pool.push({ name: g.op("Add", [x.name, y.name], shape), size: x.size });
    else if (kind === 2) pool.push({ name: g.op("Sigmoid", [x.name], shape), size: x.size });
    else if (kind === 3) pool.push({ name: g.op("Mystery", [x.name], shape), size: x.size });
    else pool.push({ name: g.op("Mul", [x.name, y.name], shape), size: x.size });
  }
  return g.finish([pool.at(-1)!.name]);
}

Deno.test("search() costs what an exhaustive search over all moves and strategies costs, on random graphs", () => {
  const call = fc.tuple(fc.nat(4), fc.nat(7), fc.nat(7));
  fc.assert(
    fc.property(fc.array(call, { minLength: 2, maxLength: 5 }), fc.integer({ min: 2, max: 3 }), (choices, ranks) => {
      const graph = randomGraph(choices);
      // Prices of the size of a collective, so that every kind of plan wins somewhere.
      for (const memoryPrice of [0, 1e-7, 3e-6]) {
        const options = {
          ranks,
          opDef: testOpDef,
          costs: { memoryPrice, bytesPerSecond: 1e7, sharedBytesPerSecond: 1e8 },
        };
        assert.equal(picoseconds(plan(graph, ranks, options).cost.total), oracle(graph, options));
      }
    }),
    { numRuns: 40, seed: 7 },
  );
});

Deno.test("a search with a budget of memory costs what an exhaustive one costs that counts every byte", () => {
  const call = fc.tuple(fc.nat(4), fc.nat(7), fc.nat(7));
  let bound = 0;
  fc.assert(
    fc.property(
      fc.array(call, { minLength: 2, maxLength: 4 }),
      fc.nat(9),
      (choices, part) => {
        const graph = randomGraph(choices);
        const options = { ranks: 2, opDef: testOpDef, costs: { memoryPrice: 0, splitCollectives: 0 } };
        const { steps, fixedBytes } = buildProblem(graph, options);
        const whole = steps.reduce((sum, s) => sum + Math.max(...s.alternatives.map((a) => a.memory)), fixedBytes);
        const bytes = Math.ceil(whole * (0.5 + part / 20));
        const found = new FrontierSearch(steps, { maxStates: 4096, budget: { bytes, cost: Infinity } }).solve();
        assert.equal(found?.cost ?? Infinity, oracle(graph, options, bytes));
        if (found && found.cost > new FrontierSearch(steps, { maxStates: 4096 }).solve()!.cost) bound++;
      },
    ),
    { numRuns: 40, seed: 11 },
  );
  assert.ok(bound > 5, `the budget made a difference in ${bound} graphs only`);
});

Deno.test("search() keeps a cap on memory, costs no less than without one, and says by how much it may miss the optimum", () => {
  const graph = decoder({ ...SMALL, kvHeads: 2 });
  const options = { costs: { memoryPrice: 0, splitCollectives: 0 } };
  const free = plan(graph, 2, options);
  const least = leastMemory(graph, { ranks: 2, opDef: testOpDef, ...options });
  assert.ok(least < free.cost.memory.total);
  let before = free.cost.total;
  for (const part of [0.9, 0.5, 0.1, 0]) {
    const perRank = Math.ceil(least + part * (free.cost.memory.total - least));
    const capped = plan(graph, 2, { ...options, memory: { perRank } });
    assert.ok(capped.cost.memory.total <= perRank);
    assert.ok(capped.cost.total >= before - capped.gap, "a tighter cap cannot be cheaper");
    assert.ok(capped.cost.total - capped.gap >= free.cost.total - 1e-9 || capped.gap > 0);
    before = free.cost.total;
  }
});

Deno.test("search() says how much memory would do, and how many ranks, where a cap cannot be kept", () => {
  const graph = decoder(SMALL);
  const least = leastMemory(graph, { ranks: 2, opDef: testOpDef });
  const fail = (perRank: number) => {
    try {
      plan(graph, 2, { memory: { perRank } });
    } catch (error) {
      if (error instanceof PlanError) return error;
    }
    throw new Error("a plan was found");
  };
  assert.match(
    fail(least * 0.6).message,
    /^Cannot plan "test" on 2 ranks within .* a rank: at least .* are needed \(weights /,
  );
  const ranks = Number(/it fits on (\d+) ranks/.exec(fail(least * 0.6).hint ?? "")?.[1]);
  assert.ok(plan(graph, ranks, { memory: { perRank: least * 0.6 } }).cost.memory.total <= least * 0.6);
  assert.throws(() => plan(graph, ranks - 1, { memory: { perRank: least * 0.6 } }), PlanError);
  assert.match(fail(1000).hint ?? "", /no number of ranks/);
});

Deno.test("search() counts the cache at the length that the cap states", () => {
  const graph = decoder(SMALL);
  const states = (length: number) => plan(graph, 2, { memory: { length } }).cost.memory.states;
  // Two layers, keys and values, 4 of 8 heads, 64 floats each, present and next content.
  assert.equal(states(1000), 2 * 2 * 4 * 64 * 4 * 1000 * 2);
  assert.equal(states(2000), 2 * states(1000));
});

Deno.test("search() costs what an exhaustive search costs among the strategies that overrides leave", () => {
  const call = fc.tuple(fc.nat(4), fc.nat(7), fc.nat(7));
  const kind = fc.constantFrom("column", "row", "replicated", "S(0)", "S(1)", "R");
  let met = 0;
  fc.assert(
    fc.property(fc.array(call, { minLength: 3, maxLength: 5 }), kind, fc.nat(1), (choices, wish, which) => {
      const graph = randomGraph(choices);
      const layer = graph.nodes.filter((n) => isCall(n) && n.op === "MatMul")[which];
      if (!layer) return;
      const options = {
        ranks: 2,
        opDef: testOpDef,
        overrides: { [layer.name]: wish as Override },
        costs: { bytesPerSecond: 1e7, sharedBytesPerSecond: 1e8 },
      };
      const found = plan(graph, 2, options);
      assert.equal(picoseconds(found.cost.total), oracle(graph, options));
      const weight = found.strategies.get(layer.name)!.inputs[1]!;
      if (wish.startsWith("S") || wish === "R") {
        assert.equal(printPlacement(weight).slice(0, wish.length - 1), wish.slice(0, -1));
      }
      met++;
    }),
    { numRuns: 60, seed: 3 },
  );
  assert.ok(met > 20);
});

Deno.test("search() by a rule costs no less than without it, and replicates nothing that the rule splits", () => {
  const graph = decoder(SMALL);
  const best = plan(graph, 4);
  const rules = new Map(BASELINES.map((baseline) => [baseline, plan(graph, 4, { baseline })]));
  for (const p of rules.values()) assert.ok(p.cost.total >= best.cost.total);
  assert.equal(rules.get("replicated")!.reshards.length, 0);
  assert.equal(strategy(rules.get("rowwise")!, "l1.gate"), "S(2),S(0) -> P(sum)");
  assert.equal(strategy(rules.get("columnwise")!, "l1.down"), "R,S(1) -> S(2)");
  const megatron = rules.get("megatron")!;
  for (const name of ["q", "k", "v", "gate", "up"]) assert.equal(strategy(megatron, `l1.${name}`), "R,S(1) -> S(2)");
  for (const name of ["o", "down"]) assert.equal(strategy(megatron, `l1.${name}`), "S(2),S(0) -> P(sum)");
  assert.equal(collectives(megatron).filter((c) => c.startsWith("l")).length, 5);
});

Deno.test("search() finds Megatron's plan: column then row, two all-reduces a layer, none inside attention", () => {
  const p = plan(decoder(SMALL), 4);
  for (const l of ["l0", "l1"]) {
    for (const name of ["q", "k", "v", "gate", "up"]) assert.equal(strategy(p, `${l}.${name}`), "R,S(1) -> S(2)");
    for (const name of ["o", "down"]) assert.equal(strategy(p, `${l}.${name}`), "S(2),S(0) -> P(sum)");
    assert.equal(strategy(p, `${l}.qk`), "S(1),S(1) -> S(1)");
  }
  assert.deepEqual(collectives(p), [
    "embed_tokens P(sum)->R",
    "l0.o P(sum)->R",
    "l0.down P(sum)->R",
    "l1.o P(sum)->R",
    "l1.down P(sum)->R",
    "lm_head S(2)->R",
  ]);
  assert.equal(printPlacement(p.placements.get("past_k_0")!), "S(1)");
  assert.equal(p.gap, 0);
});

Deno.test("search() sums parallel attention and feed-forward before one all-reduce", () => {
  const p = plan(decoder({ ...SMALL, parallel: true }), 4);
  const sums = collectives(p).filter((c) => c.includes("P(sum)"));
  assert.equal(sums.length, 3);
  assert.deepEqual(sums.filter((c) => c.startsWith("l")), []);
});

Deno.test("search() cuts fused q|k|v and gate|up piece by piece", () => {
  for (const ranks of [2, 3]) {
    const p = plan(decoder({ ...SMALL, fused: true, kvHeads: 4 }), ranks, DEAR);
    assert.deepEqual(collectives(p).filter((c) => /^l\d/.test(c)), [
      "l0.o P(sum)->R",
      "l0.down P(sum)->R",
      "l1.o P(sum)->R",
      "l1.down P(sum)->R",
    ]);
    assert.match(printPlacement(p.strategies.get("l0.qkv")!.inputs[1]!), /^S\(1:\d+\+\d+\+\d+/);
    assert.match(printPlacement(p.strategies.get("l0.gate_up")!.inputs[1]!), /^S\(1:\d+\+\d+/);
  }
});

Deno.test("search() shares kv heads among ranks when there are fewer than ranks, with no collective inside attention", () => {
  const p = plan(decoder({ ...SMALL, kvHeads: 2 }), 4);
  const past = p.placements.get("past_k_0")!;
  assert.equal(past.kind === "S" && past.layout.key, "2:0-1|0-1|1-2|1-2");
  assert.equal(strategy(p, "l0.q"), "R,S(1) -> S(2)");
  assert.deepEqual(collectives(p).filter((c) => c.startsWith("l0")), ["l0.o P(sum)->R", "l0.down P(sum)->R"]);
});

Deno.test("search() splits what no number of ranks divides", () => {
  for (const ranks of [2, 3, 5]) {
    const p = plan(decoder({ ...SMALL, heads: 9, kvHeads: 3, ffn: 1409, vocab: 4099 }), ranks, DEAR);
    assert.deepEqual(
      collectives(p).filter((c) => c.startsWith("l0") || c.startsWith("l1")).map((c) => c.replace(/ .*/, "")),
      ["l0.o", "l0.down", "l1.o", "l1.down"],
    );
  }
});

Deno.test("search() gives the same plan every time", () => {
  const graph = decoder({ ...SMALL, kvHeads: 2, tied: true });
  const text = () => JSON.stringify([...plan(graph, 3).placements, ...plan(graph, 3).reshards]);
  assert.equal(text(), text());
});

Deno.test("search() replicates everything around ops that nobody described", () => {
  const p = plan(decoder(SMALL), 4, { opDef: () => undefined });
  assert.ok([...p.placements.values()].every((x) => x.kind === "R"));
  assert.equal(p.reshards.length, 0);
});

Deno.test("search() on one rank splits nothing", () => {
  const p = plan(decoder(SMALL), 1);
  assert.ok([...p.placements.values()].every((x) => x.kind === "R"));
});

Deno.test("search() gives each call a strategy whose inputs exist when it runs", () => {
  const graph = decoder({ ...SMALL, heads: 9, kvHeads: 3, fused: true });
  const p = plan(graph, 4);
  const held = new Map<string, Set<string>>();
  const add = (v: string, at: Placement) => held.set(v, (held.get(v) ?? new Set()).add(placementKey(at)));
  const move = (before: string) => {
    for (const r of p.reshards.filter((x) => x.before === before)) {
      assert.ok(held.get(r.value)!.has(placementKey(r.from)), `${before}: ${r.value}`);
      assert.ok(directStep(r.from, r.to));
      add(r.value, r.to);
    }
  };
  for (const node of graph.nodes) {
    if (node.kind === "placeholder") add(node.name, p.placements.get(node.name)!);
    if (!isCall(node)) continue;
    move(node.name);
    const s = p.strategies.get(node.name)!;
    node.inputs.forEach((v, i) => {
      const constant = graph.nodes.some((n) => n.kind === "get_attr" && n.outputs[0] === v);
      assert.ok(constant || held.get(v)!.has(placementKey(s.inputs[i]!)), `${node.name} reads ${v}`);
    });
    node.outputs.forEach((v, i) => {
      assert.equal(placementKey(p.placements.get(v)!), placementKey(s.outputs[i]!));
      add(v, s.outputs[i]!);
    });
  }
  move("output");
  const outputs = outputOf(graph).inputs;
  outputs.forEach((v, i) => {
    const carried = graph.carried.find((c) => c.output === i);
    const wanted = carried ? p.placements.get(carried.input)! : REPLICATE;
    assert.ok(held.get(v)!.has(placementKey(wanted)), v);
  });
});

Deno.test("search() does what overrides ask", () => {
  const p = plan(decoder(SMALL), 4, { overrides: { "*.gate": "row", "l1.q": "replicated", embed_tokens: "column" } });
  assert.equal(strategy(p, "l0.gate"), "S(2),S(0) -> P(sum)");
  assert.equal(strategy(p, "l1.q"), "R,R -> R");
  assert.equal(strategy(p, "embed_tokens"), "S(1),R -> S(2)");
});

Deno.test("search() refuses overrides that match nothing or cannot be met, and says what could be", () => {
  const graph = decoder(SMALL);
  assert.throws(
    () => plan(graph, 4, { overrides: { "l0.qq": "row" } }),
    (e) => e instanceof PlanError && e.message.includes('did you mean "l0.q"?'),
  );
  assert.throws(
    () => plan(graph, 4, { overrides: { "l0.norm1": "row" } }),
    (e) => e instanceof PlanError && e.message.includes("it can be replicated"),
  );
  assert.throws(
    () => plan(graph, 4, { overrides: { "l0.q": "vocab" } }),
    (e) => e instanceof PlanError && e.message.includes("it can be replicated, row, column"),
  );
});

Deno.test("search() tells how far it may be from the optimum when it may keep few states only", () => {
  const graph = decoder({ ...SMALL, kvHeads: 2 });
  const best = plan(graph, 4), narrow = plan(graph, 4, { maxStates: 1 });
  assert.equal(best.gap, 0);
  assert.ok(narrow.cost.total >= best.cost.total);
  assert.ok(narrow.gap > 0 && narrow.cost.total - narrow.gap <= best.cost.total);
});
