/** The examples run as their first lines say, at one rank and at two, and say what they should. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { toNumbers } from "../src/core/host_tensor.ts";
import { readTensors } from "../src/formats/tensor_file.ts";
import { REPOSITORY } from "./support/shared.ts";

async function deno(...args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", ...args],
    cwd: REPOSITORY,
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

function launch(ranks: number, example: string): Promise<string> {
  return deno("launcher/main.ts", "--nproc", `${ranks}`, "--rank0", example);
}

for (const ranks of [1, 2]) {
  Deno.test(`examples/run_model.ts prints the expected outputs on ${ranks} ranks`, async () => {
    const said = await launch(ranks, "examples/run_model.ts");
    const expected = await readTensors(join(REPOSITORY, "tests/data/models/bert/single.expected.safetensors"));
    const first = said.match(/^logits f32\[[\d,]+\] = (.*) …$/m)?.[1]?.split(" ").map(Number);
    assert.equal(first?.length, 6, said);
    const numbers = toNumbers(expected.get("logits")!);
    first.forEach((x, i) => assert.ok(Math.abs(x - numbers[i]!) < 1e-3, `element ${i} is ${x}, not ${numbers[i]}`));
    const [, rank, whole] = said.match(/rank 0 holds (\d+) of (\d+) bytes/)!.map(Number);
    if (ranks === 1) assert.equal(rank, whole);
    else assert.ok(rank! < 0.8 * whole!, said);
  });

  Deno.test(`examples/generate.ts gives the reference's tokens on ${ranks} ranks`, async () => {
    const { greedy } = JSON.parse(Deno.readTextFileSync(join(REPOSITORY, "tests/data/models/llama/generate.json")));
    assert.equal((await launch(ranks, "examples/generate.ts")).trim(), greedy.slice(0, 12).join(" "));
  });

  Deno.test(`examples/passes.ts shows the local graph and the program of rank 0 of ${ranks}`, async () => {
    const said = await deno("examples/passes.ts", "tests/data/models/mlp/model.onnx", `${ranks}`);
    assert.match(said, new RegExp(`^# program of rank 0 of ${ranks}$`, "m"));
    assert.equal(/^barrier {4}all_reduce/m.test(said), ranks > 1, said);
    assert.equal(said.includes("node_MatMul_1 is column\nnode_MatMul_3 is row"), ranks > 1, said);
  });
}
