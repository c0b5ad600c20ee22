import assert from "node:assert/strict";
import { join } from "node:path";
import { FormatError } from "../core/errors.ts";
import { fromNumbers } from "../core/host_tensor.ts";
import { readTensors, writeTensors } from "./tensor_file.ts";

const TENSORS = new Map([
  ["input_ids", fromNumbers("i64", [1, 3], [1, 2, 3])],
  ["/model/layers.0/out%2F", fromNumbers("f32", [2], [0.5, -1])],
]);

Deno.test("a safetensors file and a folder of .npy files hold the same named tensors", async () => {
  const folder = Deno.makeTempDirSync();
  for (const name of ["t.safetensors", "arrays"]) {
    await writeTensors(join(folder, name), TENSORS);
    assert.deepEqual(
      await readTensors(join(folder, name)),
      new Map([...TENSORS].sort(([a], [b]) => name === "arrays" ? a < b ? -1 : 1 : 0)),
    );
  }
  await writeTensors(join(folder, "one.npy"), new Map([["x", TENSORS.get("input_ids")!]]));
  assert.deepEqual([...(await readTensors(join(folder, "one.npy"))).keys()], ["one"]);
  await assert.rejects(writeTensors(join(folder, "one.npy"), TENSORS), /holds one/);
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("a missing or foreign path is an error with a way out", async () => {
  const folder = Deno.makeTempDirSync();
  await writeTensors(join(folder, "inputs.safetensors"), TENSORS);
  await assert.rejects(
    readTensors(join(folder, "imputs.safetensors")),
    (e) => e instanceof FormatError && /did you mean .*inputs/.test(e.hint!),
  );
  await assert.rejects(readTensors(folder), /holds no .npy files/);
  Deno.writeTextFileSync(join(folder, "a.txt"), "");
  await assert.rejects(readTensors(join(folder, "a.txt")), /".txt" is unknown/);
  await assert.rejects(writeTensors(join(folder, "a.pt"), TENSORS), /".pt" is unknown/);
  Deno.removeSync(folder, { recursive: true });
});
