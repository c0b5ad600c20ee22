import assert from "node:assert/strict";
import { EngineError } from "../../core/errors.ts";
import { exportOnnx } from "../../formats/export_onnx.ts";
import { GraphBuilder } from "../../graph/builder.ts";
import type { DType } from "../../core/dtype.ts";
import { openNativeEngine } from "./ort_native.ts";

/** `y = op(x…)`, all of one type. */
function model(op: string, inputs: number, dtype: DType, shape: readonly number[]): Uint8Array {
  const builder = new GraphBuilder("global", "test", new Map([["", 18]]));
  const names = Array.from({ length: inputs }, (_, i) => `x${i}`);
  for (const name of names) builder.placeholder({ name, type: { dtype, shape } });
  const call = { kind: "call_function", domain: "", op, inputs: names, outputs: ["y"], attributes: {} } as const;
  builder.call(call, [{ name: "y", type: { dtype, shape } }]);
  return exportOnnx(builder.finish({ inputs: ["y"], names: ["y"] }));
}

Deno.test("an output is written where it was asked for, and the tensor itself comes back", async () => {
  const engine = await openNativeEngine();
  const session = await engine.createSession(model("Add", 2, "f32", [3]), { threads: 1 });
  const x = Float32Array.of(1, 2, 3), y = new Float32Array(3);
  const feeds = { x0: engine.tensor("f32", x, [3]), x1: engine.tensor("f32", Float32Array.of(10, 20, 30), [3]) };
  const fetch = { y: engine.tensor("f32", y, [3]) };
  const results = await session.run(feeds, fetch);
  assert.deepEqual([...y], [11, 22, 33]);
  assert.equal(results.y, fetch.y);
  x[0] = 5; // tensors are views
  await session.run(feeds, fetch);
  assert.deepEqual([...y], [15, 22, 33]);
  const made = await session.run(feeds, { y: null });
  assert.deepEqual([[...made.y!.data], made.y!.dims, made.y!.dtype], [[15, 22, 33], [3], "f32"]);
  await session.release();
});

Deno.test("tensors may be empty, without dims, of 16-bit floats, and small enough for V8 to move", async () => {
  const engine = await openNativeEngine();
  for (
    const [dtype, data, dims] of [
      ["f32", new Float32Array(0), [0, 4]],
      ["i64", BigInt64Array.of(7n), []],
      ["bf16", Uint16Array.of(0x3f80, 0xc000), [2]],
      ["f16", Uint16Array.of(0x3c00), [1, 1]],
    ] as const
  ) {
    const session = await engine.createSession(model("Identity", 1, dtype, dims), { threads: 1 });
    const feeds = { x0: engine.tensor(dtype, data, dims) };
    new Uint8Array(1 << 24).fill(1); // something for the garbage collector
    const { y } = await session.run(feeds, { y: null });
    assert.deepEqual([[...y!.data], y!.dims, y!.dtype], [[...data], [...dims], dtype]);
    await session.release();
  }
});

Deno.test("what the engine refuses is an error of one line that says what was tried", async () => {
  const engine = await openNativeEngine();
  const refused = (message: RegExp) => (error: unknown) =>
    error instanceof EngineError && message.test(error.message) && !error.message.includes("\n");
  for (const threads of [1, 2]) {
    await assert.rejects(
      async () => await engine.createSession(model("NoSuchOp", 1, "f32", [1]), { threads }),
      refused(/^ONNX Runtime cannot compile a part of the model: .*NoSuchOp/),
    );
  }
  const session = await engine.createSession(model("Add", 2, "f32", [3]), { threads: 1 });
  const x0 = engine.tensor("f32", new Float32Array(3), [3]), wrong = engine.tensor("f32", new Float32Array(4), [4]);
  await assert.rejects(async () => await session.run({ x0 }, { y: null }), refused(/without its input "x1"/));
  await assert.rejects(
    async () => await session.run({ x0, x1: wrong }, { y: null }),
    refused(/^ONNX Runtime cannot run /),
  );
  assert.throws(() => engine.tensor("f32", new Float32Array(3), [4]), /of 12 bytes: it takes 16/);
  await session.release();
});

Deno.test("sessions of several threads share them", async () => {
  // A process of its own: the environment of this one may have been made without threads.
  const code = `
    const { openNativeEngine } = await import(${JSON.stringify(new URL("./ort_native.ts", import.meta.url).href)});
    const engine = await openNativeEngine(), model = Uint8Array.from(JSON.parse(Deno.args[0]));
    const tasks = () => [...Deno.readDirSync("/proc/self/task")].length;
    await engine.createSession(model, { threads: 3 });
    const before = tasks(), sessions = [];
    for (let i = 0; i < 20; i++) sessions.push(await engine.createSession(model, { threads: 3 }));
    const x0 = engine.tensor("f32", new Float32Array(3), [3]);
    for (const s of sessions) await s.run({ x0, x1: x0 }, { y: null });
    console.log(tasks() - before);`;
  const bytes = JSON.stringify([...model("Add", 2, "f32", [3])]);
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", "--quiet", `--config=${new URL("../../../deno.json", import.meta.url).pathname}`, code, bytes],
    env: { NO_COLOR: "1" },
  }).output();
  const more = new TextDecoder().decode(stdout).trim();
  assert.ok(/^\d+$/.test(more) && Number(more) < 10, `${more} more threads; ${new TextDecoder().decode(stderr)}`);
});
