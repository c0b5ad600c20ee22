import assert from "node:assert/strict";
import { join } from "node:path";
import { readCases } from "./cases.ts";

const CASE = { name: "one", model: "m.onnx", inputs: "i.safetensors", expected: "e.safetensors", atol: 1e-4, rtol: 0 };

/** A folder with these files, JSON or empty. */
function folder(files: Record<string, unknown>): string {
  const path = Deno.makeTempDirSync({ prefix: "shardwise-cases-" });
  for (const [name, content] of Object.entries(files)) {
    Deno.mkdirSync(join(path, name, ".."), { recursive: true });
    Deno.writeTextFileSync(join(path, name), content === undefined ? "" : JSON.stringify(content));
  }
  return path;
}

const FILES = { "m.onnx": undefined, "i.safetensors": undefined, "e.safetensors": undefined };

Deno.test("readCases() resolves paths, keeps the cases of a model together and adds its greedy search", () => {
  const path = folder({
    ...FILES,
    "a.onnx": undefined,
    "model.onnx": undefined,
    "cases.json": [{ ...CASE, model: "m.onnx" }, { ...CASE, name: "two", model: "a.onnx" }, { ...CASE, name: "three" }],
    "generate.json": { prompt: [1, 2], greedy: [3], min_margin: 0.1 },
  });
  const { cases, skipped } = readCases([path]);
  assert.deepEqual(cases.map((c) => [c.name.split(" ")[1], c.model]), [
    ["two", join(path, "a.onnx")],
    ["one", join(path, "m.onnx")],
    ["three", join(path, "m.onnx")],
    ["greedy", join(path, "model.onnx")],
  ]);
  assert.deepEqual(skipped, []);
  Deno.removeSync(path, { recursive: true });
});

Deno.test("readCases() finds folders in folders, and says what it skips", () => {
  const path = folder({
    "x/cases.json": [],
    "x/generate.json": { prompt: [1], decoder_start_token_id: 0, greedy: [1] },
    "x/decoder_model_merged.onnx": undefined,
    "y/z/cases.json": [CASE],
    "y/z/m.onnx": undefined,
    "y/z/i.safetensors": undefined,
    "y/z/e.safetensors": undefined,
  });
  const { cases, skipped } = readCases([path]);
  assert.deepEqual(cases.map((c) => c.name), ["z/m one"]);
  assert.deepEqual(skipped.map((s) => s.name), ["x greedy"]);
  assert.match(skipped[0]!.reason, /encoder_model/);
  Deno.removeSync(path, { recursive: true });
});

Deno.test("readCases() finds the greedy case of an encoder-decoder, from ids or from a file", () => {
  const generate = { prompt: [3], decoder_start_token_id: 0, greedy: [1] };
  const path = folder({
    "a/cases.json": [],
    "a/generate.json": generate,
    "a/encoder_model.onnx": undefined,
    "a/decoder_model_merged.onnx": undefined,
    "b/cases.json": [],
    "b/generate.json": { ...generate, prompt: null, inputs: "i.safetensors" },
    "b/encoder_model.onnx": undefined,
    "b/decoder_model.onnx": undefined,
    "b/decoder_with_past_model.onnx": undefined,
  });
  const { cases, skipped } = readCases([path]);
  assert.deepEqual(skipped, []);
  const common = { kind: "seq2seq", decoderPrompt: [0], expected: [1] };
  assert.deepEqual(cases, [
    { ...common, name: "a greedy", model: join(path, "a"), prompt: [3] },
    { ...common, name: "b greedy", model: join(path, "b"), prompt: join(path, "b/i.safetensors") },
  ]);
  Deno.removeSync(path, { recursive: true });
});

Deno.test("readCases() names cases by as much of the path as tells folders apart, and by a model that has a name", () => {
  const files = (folder: string) =>
    Object.fromEntries(
      Object.entries({ ...FILES, "model.onnx": undefined, "cases.json": [{ ...CASE, model: "model.onnx" }, CASE] })
        .map(([name, content]) => [`${folder}/${name}`, content]),
    );
  const path = folder({ ...files("a/bert"), ...files("b/bert"), ...files("b/gpt") });
  const { cases } = readCases([join(path, "a"), join(path, "b"), join(path, "b/gpt")]);
  assert.deepEqual(cases.map((c) => c.name), [
    "a/bert/m one",
    "a/bert one",
    "b/bert/m one",
    "b/bert one",
    "gpt/m one",
    "gpt one",
  ]);
  Deno.removeSync(path, { recursive: true });
});

Deno.test("readCases() names the file and the field that is wrong", () => {
  const cases: [Record<string, unknown>, RegExp][] = [
    [{ "cases.json": {} }, /holds no list of cases/],
    [{ ...FILES, "cases.json": [{ ...CASE, atol: "x" }] }, /case 1 of .*"atol" must be a number, but is "x"/],
    [{ ...FILES, "cases.json": [{ ...CASE, inputs: "no" }] }, /"inputs" names .*no, which does not exist/],
    [{ ...FILES, "cases.json": [], "generate.json": { prompt: [], greedy: [1] } }, /must be lists of token ids/],
    [{ "other.txt": 1 }, /neither it nor a folder in it has a cases.json/],
  ];
  for (const [files, message] of cases) {
    const path = folder(files);
    assert.throws(() => readCases([path]), message);
    Deno.removeSync(path, { recursive: true });
  }
  assert.throws(() => readCases(["/no/such/folder"]), /is no folder that can be read/);
});
