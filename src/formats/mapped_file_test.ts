import assert from "node:assert/strict";
import { join } from "node:path";
import { FormatError } from "../core/errors.ts";
import { openRanges } from "./mapped_file.ts";

Deno.test("openRanges() reads the ranges that are asked for", () => {
  const path = Deno.makeTempFileSync();
  Deno.writeFileSync(path, Uint8Array.from({ length: 100 }, (_, i) => i));
  using file = openRanges(path);
  assert.equal(file.size, 100);
  assert.deepEqual([...file.bytes(98, 2), ...file.bytes(0, 1), ...file.bytes(100, 0)], [98, 99, 0]);
  for (const [offset, length] of [[99, 2], [-1, 1], [0, -1], [0.5, 1], [NaN, 1], [2 ** 60, 2 ** 60]] as const) {
    assert.throws(() => file.bytes(offset, length), FormatError);
  }
  Deno.truncateSync(path, 50);
  assert.throws(() => file.bytes(40, 20), /ended after 10/);
  Deno.removeSync(path);
});

Deno.test("what cannot be opened is an error that says what is near", () => {
  const folder = Deno.makeTempDirSync();
  Deno.writeFileSync(join(folder, "model.onnx"), new Uint8Array(1));
  assert.throws(
    () => openRanges(join(folder, "modle.onnx")),
    (e) => e instanceof FormatError && /did you mean .*model\.onnx\?/.test(e.hint!),
  );
  assert.throws(
    () => openRanges(folder),
    (e) => e instanceof FormatError && /a folder/.test(e.message) && /model\.onnx/.test(e.hint!),
  );
  assert.throws(() => openRanges(join(folder, "model.onnx", "x")), /no such file/);
  Deno.removeSync(folder, { recursive: true });
});
