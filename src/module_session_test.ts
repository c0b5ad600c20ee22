import assert from "node:assert/strict";
import { symbol } from "./core/dim.ts";
import { fromNumbers, toNumbers } from "./core/host_tensor.ts";
import { Lambda, relu } from "./layers/activations.ts";
import { Linear } from "./layers/linear.ts";
import { Sequential } from "./layers/module.ts";
import { compileModule, runModule } from "./module_session.ts";
import { LocalCommunicator } from "./runtime/comm/local.ts";

const STATE = new Map([
  ["0.weight", fromNumbers("f32", [2, 3], [1, 0, -1, 0, 2, 0])],
  ["0.bias", fromNumbers("f32", [2], [0.5, -10])],
]);

function model(): Sequential {
  return new Sequential(new Linear({ inFeatures: 3, outFeatures: 2 }), new Lambda(relu));
}

Deno.test("runModule() gives what the layers' formulas give, on one rank without a launcher", async () => {
  await using comm = new LocalCommunicator();
  const x = fromNumbers("f32", [2, 3], [3, 1, 1, 0, 6, 2]);
  const { output } = await runModule(model(), { x }, { comm, state: STATE });
  assert.deepEqual(output!.shape, [2, 2]);
  assert.deepEqual([...toNumbers(output!) as Float32Array], [2.5, 0, 0, 2]);
});

Deno.test("a module that is compiled for a symbolic batch runs at any, and refuses other shapes", async () => {
  await using comm = new LocalCommunicator();
  const inputs = { x: { dtype: "f32", shape: [symbol("batch"), 3] } } as const;
  await using compiled = await compileModule(model(), { comm, state: STATE, inputs });
  for (const batch of [1, 4]) {
    const { output } = await compiled.run({ x: fromNumbers("f32", [batch, 3], new Array(batch * 3).fill(0)) });
    assert.deepEqual(output!.shape, [batch, 2]);
  }
  await assert.rejects(compiled.run({ x: fromNumbers("f32", [1, 4], [0, 0, 0, 0]) }), /"x"/);
});

Deno.test("a module without data, or without inputs, is refused before anything is compiled", async () => {
  await using comm = new LocalCommunicator();
  const x = fromNumbers("f32", [1, 3], [0, 0, 0]);
  await assert.rejects(runModule(model(), { x }, { comm }), /"0\.weight": it has no data yet/);
  await assert.rejects(runModule(model(), {}, { comm, state: STATE }), /Sequential on no inputs/);
});
